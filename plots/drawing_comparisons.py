"""Drawings of the figures that compare: maps of winners, speed-ups, the roofline, scatters, steps and panels."""

from __future__ import annotations

import math
import textwrap

from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator, NullFormatter, NullLocator

from plots import style
from plots.data import PanelChart, Roofline, ScatterChart, SpeedupChart, StepChart, WinnerMap
from plots.drawing import between, canvas, draw, error, legend, powers_axis, seconds
from plots.traces import is_hand_written

_LEAST_LOSS = 0.001
_STEP_LINES = (
    ("-", 2.4, style.VERMILION),
    ("--", 1.4, style.BLUE),
    ("-.", 1.4, style.GREEN),
    (":", 1.6, style.BLACK),
    ("-", 1.0, style.GREY),
)


@draw.register
def _(chart: WinnerMap) -> Figure:
    figure, axes = canvas(chart.title, chart.subtitle, chart.caption, height=5.6)
    methods: dict[str, Patch] = {}
    for i, row in enumerate(chart.winner):
        for j, method in enumerate(row):
            if not method:
                continue
            ours = is_hand_written(method)
            colour = style.mode_colour(method) if ours else style.style_of(method, hand_written=False).colour
            native = method.endswith(":native")
            shade = to_rgba(colour, 0.62 if native else 0.3)
            hatch = "" if native else "//" if ours else "xx"
            patch = axes.add_patch(_cell(j, i, shade, hatch))
            methods.setdefault(method, Patch(facecolor=shade, hatch=hatch, edgecolor="white", label=method))
            patch.set_zorder(1)
            box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.0}
            axes.text(j + 0.5, i + 0.16, seconds(chart.seconds[i][j]), ha="center", va="center", fontsize=8, zorder=6, bbox=box)
    if chart.predicted:
        places = [(between(chart.D, d), between(chart.P, p)) for d, p in chart.predicted]
        axes.plot(*zip(*places, strict=True), color="black", linewidth=1.6, zorder=4, label="forward = reverse, predicted")
    if chart.measured:
        places = [(between(chart.D, d), between(chart.P, p)) for d, p in chart.measured]
        axes.plot(*zip(*places, strict=True), "o", color="white", markeredgecolor="black", markersize=6, zorder=5, label="measured")
    axes.set_xlim(0, len(chart.D))
    axes.set_ylim(0, len(chart.P))
    axes.set_xticks([j + 0.5 for j in range(len(chart.D))], [str(d) for d in chart.D])
    axes.set_yticks([i + 0.5 for i in range(len(chart.P))], [str(p) for p in chart.P])
    axes.grid(visible=False)
    axes.set_xlabel("input width D")
    axes.set_ylabel("output width P")
    handles, _ = axes.get_legend_handles_labels()
    figure.legend(handles=[*(methods[name] for name in sorted(methods)), *handles], loc="outside right center", handlelength=2.0)
    return figure


def _cell(column: int, row: int, colour: tuple[float, float, float, float], hatch: str) -> Patch:
    from matplotlib.patches import Rectangle

    return Rectangle((column, row), 1, 1, facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0.8)


@draw.register
def _(chart: SpeedupChart) -> Figure:
    figure, axes = canvas(chart.title, chart.subtitle, chart.caption, height=1.9 + 0.3 * len(chart.problems))
    last = len(chart.problems) - 1
    for index in range(len(chart.problems)):
        axes.axhline(index, color="#EEEEEE", linewidth=0.8, zorder=0)
    for trace in chart.series:
        look = style.style_of(trace.method.replace("peer:", "reverse:"), hand_written=False)
        axes.errorbar(
            trace.y,
            [last - x for x in trace.x],
            xerr=error(trace),
            fmt=look.marker,
            color=look.colour,
            markersize=look.size + 2,
            label=trace.label,
            elinewidth=1.0,
            zorder=3,
        )
    axes.axvline(1.0, color="black", linewidth=1.0)
    axes.set_xscale("log")
    values = [value for trace in chart.series for value in (*trace.low, *trace.high)]
    axes.set_xlim(min(0.8, *values) / 1.1, max(values) * 1.15)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(chart.problems)), list(reversed(chart.problems)))
    axes.set_ylim(-0.6, last + 0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("time of the peer / time of the best of ours (95 % interval of paired blocks)")
    legend(figure, axes)
    return figure


@draw.register
def _(chart: Roofline) -> Figure:
    figure, axes = canvas(chart.title, chart.subtitle, chart.caption, height=5.2)
    positions = [x for trace in chart.points for x in trace.x]
    low, high = min(positions) / 1.6, max(positions) * 1.6
    for (name, rate), line in zip(chart.bandwidths, ("-", "--", ":"), strict=False):
        bend = chart.flops / rate
        x = [low, min(max(bend, low), high), high]
        axes.plot(x, [min(chart.flops, position * rate) for position in x], color="black", linestyle=line, linewidth=1.3, label=name)
    for trace in chart.points:
        ours = not trace.method.startswith("peer")
        look = style.style_of(trace.method, ours)
        face = look.colour if ours and trace.method.endswith(":native") else "white" if ours else look.colour
        axes.plot(
            trace.x,
            trace.y,
            linestyle="none",
            marker=look.marker,
            color=look.colour,
            markerfacecolor=face,
            markersize=5.0 if ours else 4.0,
            alpha=0.85 if ours else 0.45,
            label=trace.label,
            zorder=3 if ours else 2,
        )
    axes.axhline(chart.flops, color="black", linewidth=0.8, alpha=0.5)
    axes.text(low * 1.15, chart.flops * 1.08, f"products: {chart.flops / 1e9:.0f} GFLOP/s", fontsize=8, va="bottom")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(top=chart.flops * 2.2)
    powers_axis(axes.xaxis)
    axes.set_xlabel("operations per byte (FLOP / compulsory bytes)")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e9:g}"))
    axes.set_ylabel("GFLOP/s")
    legend(figure, axes)
    return figure


@draw.register
def _(chart: ScatterChart) -> Figure:
    figure, axes = canvas(chart.title, chart.subtitle, chart.caption, height=4.8)
    for trace in chart.points:
        ours = not trace.method.startswith("peer")
        look = style.style_of(trace.method, ours)
        axes.plot(trace.x, trace.y, look.marker, color=look.colour, markersize=6.0, label=trace.label, alpha=0.85, zorder=3 if ours else 2)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"))
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    legend(figure, axes)
    return figure


@draw.register
def _(chart: StepChart) -> Figure:
    figure, axes = canvas(chart.title, chart.subtitle, chart.caption, height=4.4)
    # What a choice costs beyond the best: logarithmic, so that both a per cent and a hundredfold can be read.
    largest = max(values[-1] for _, values in chart.series) - 1
    for (name, values), (line, width, colour) in zip(chart.series, _STEP_LINES, strict=False):
        x = [_LEAST_LOSS, *(max(_LEAST_LOSS, value - 1) for value in values), max(largest, 10 * _LEAST_LOSS)]
        y = [0.0, *((index + 1) / len(values) for index in range(len(values))), 1.0]
        axes.step(x, y, where="post", linestyle=line, linewidth=width, color=colour, label=name)
    axes.set_xscale("log")
    ticks = [tick for tick in (0.001, 0.01, 0.05, 0.3, 1, 10, 100) if tick <= max(largest, 10 * _LEAST_LOSS)]
    words = {0.001: "≤ 0.1 %", 0.01: "1 %", 0.05: "5 %", 0.3: "30 %", 1: "100 %", 10: "11×", 100: "101×"}
    axes.set_xticks(ticks, [words[tick] for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    legend(figure, axes)
    return figure


@draw.register
def _(chart: PanelChart) -> Figure:
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    panels = figure.subplots(1, len(chart.panels), sharex=True)
    figure.suptitle(f"{chart.title}\n", x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.text(0.01, 0.945 if chart.title else 0.99, chart.subtitle, ha="left", va="top", fontsize=8, color="#444444")
    for axes, (label, traces) in zip(panels, chart.panels, strict=True):
        for trace in traces:
            colour, line = style.INITS.get(trace.label, (style.GREY, ":"))
            axes.plot(trace.x, trace.y, color=colour, linestyle=line, linewidth=1.8, label=trace.label)
        values = [value for trace in traces for value in trace.y if value > 0]
        if values and max(values) / min(values) > 30:
            axes.set_yscale("log")
            powers_axis(axes.yaxis)
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(textwrap.fill(label, 22), fontsize=8.5, loc="left")
        axes.set_xlabel(chart.x_label)
        axes.xaxis.set_major_locator(MultipleLocator(max(1, math.ceil(max(x for trace in traces for x in trace.x) / 4))))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    figure.supxlabel("\n".join(textwrap.wrap(chart.caption, 108)), x=0.01, ha="left", fontsize=8, color="#222222")
    return figure

"""What a Jacobian costs in evaluations of the network, the unit of automatic differentiation."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.records.problems import best_by_mode, contenders, fastest, key_of, ratio
from benchmarks.records.rows import Row
from jacobians.planning.registry import JACOBIAN
from plots import style
from plots.axes import WIDTH, clip, lines_over_sizes
from plots.chart import Chart, Exhibit, Results, Trace, draw, figure
from plots.families import VARIABLES, Point, by_size, families, hardware, look_of, make_trace

OVER = ("D", "P")
BOUNDS = {"forward": ("D", 2.5), "reverse": ("P", 4.0)}  # evaluations an input, and an output: Griewank and Walther


@dataclass(frozen=True, slots=True)
class Panel:
    """One variable: its axis, what is fixed, the costs, and the bounds of both modes."""

    x_label: str
    traces: tuple[Trace, ...]
    bounds: tuple[Trace, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationsChart(Chart):
    """Time of J over that of y, over D and over P."""

    panels: tuple[Panel, ...]


@figure(28)
def evaluations(results: Results) -> Iterator[Exhibit]:
    """Make the chart of every result that has y beside J."""
    for file in results.files:
        chart = chart_of(results.rows(file.name, quantity=None), results.stem("evaluations"))
        if chart:
            yield Exhibit("Growth", chart, (file.name,))


def chart_of(rows: Sequence[Row], stem: str) -> EvaluationsChart | None:
    """Set J over y where both were measured, y by the fastest of all methods."""
    values = {key_of(row)[1:]: row for row in sorted(rows, key=lambda row: -row.median) if row.quantity == "value"}
    both = [row for row in rows if row.quantity == JACOBIAN and key_of(row)[1:] in values]
    panels: list[Panel] = []
    costs: list[tuple[float, float]] = []  # of the better mode: in evaluations, and of its bound
    for variable in OVER:
        family = max(families(both, variable), key=len, default=None)
        if family is None:
            continue
        points: dict[str, list[Point]] = {}
        sizes = by_size(family, variable)
        for size, here in sizes.items():
            y = values[key_of(here[0])[1:]]
            for name, row in contenders(here).items():
                found = ratio(row, y)
                points.setdefault(name, []).append((size, found.value, found.low or found.value, found.high or found.value))
            if better := fastest(best_by_mode(here).values()):
                cost = ratio(better, y).value
                costs.append((cost, cost / min(times * getattr(better, of) for of, times in BOUNDS.values())))
        bounds: list[Trace] = []
        for mode, (of, times) in BOUNDS.items():
            least = [times * (size if of == variable else getattr(family[0], of)) for size in sizes]
            bounds.append(make_trace("limit", f"bound of {mode}", zip(sizes, least, least, least, strict=True)))
        fixed = ", ".join(f"{name} = {getattr(family[0], name)}" for name in "LDKP" if name != variable)
        traces = tuple(make_trace(*look_of(name), found) for name, found in points.items())
        panels.append(Panel(f"{VARIABLES[variable]}   ({fixed})", traces, tuple(bounds)))
    if not panels:
        return None
    least, most = min(cost for cost, _ in costs), max(cost for cost, _ in costs)
    return EvaluationsChart(
        stem=stem,
        title=f"J costs {least:.2g} to {most:.2g} evaluations, at most {max(part for _, part in costs):.0%} of the bound",
        topic="Time of a Jacobian in evaluations of the network",
        subtitle=f"{rows[0].activation}, {rows[0].dtype}; {hardware(both)}",
        caption="One evaluation is the fastest of any method. Dotted: the bounds of theory, 2.5 D evaluations for forward mode "
        "and 4 P for reverse mode (Griewank and Walther).",
        panels=tuple(panels),
    )


@draw.register
def _(chart: EvaluationsChart) -> Figure:
    drawing = Figure(figsize=(WIDTH * 1.3, 5.0), layout="constrained")
    drawing.suptitle(chart.title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=style.INK)
    drawing.text(0.01, 0.01, textwrap.fill(chart.caption, 130), fontsize=8, color=style.INK, va="bottom")
    drawing.get_layout_engine().set(rect=(0, 0.24, 1, 0.76))  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    every = drawing.subplots(1, len(chart.panels), sharey=True, squeeze=False)[0]
    seen = [y for panel in chart.panels for trace in panel.traces for y in trace.y]
    for axes, panel in zip(every, chart.panels, strict=True):
        lines_over_sizes(axes, panel.traces, panel.x_label)
        for bound in panel.bounds:
            look = style.of_trace(f"{bound.label.rpartition(' ')[2]}:native")
            axes.plot(bound.x, bound.y, color=look.colour, linestyle=":", linewidth=1.4, label=bound.label, zorder=1)
        clip(axes.set_ylim, seen)
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    every[0].set_ylabel("time of J / time of y")
    every[0].set_title(f"{chart.topic}\n{chart.subtitle}", loc="left", fontsize=8, color=style.MUTED, pad=8)
    handles, labels = every[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.0, 0.1), ncols=3, handlelength=2.4)
    return drawing

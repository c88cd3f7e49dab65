"""From the data of a figure to a drawing. One drawing per kind of data, and what they share; more in `plots.drawing_comparisons`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from functools import singledispatch

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.analysis.tables import byte_count
from plots import style
from plots.data import Chart, DotChart, LineChart, RatioMap, Trace
from plots.traces import is_hand_written


@singledispatch
def draw(chart: Chart) -> Figure:
    """Draw a chart.

    Args:
        chart: Its data.

    Raises:
        TypeError: No drawing is registered for that kind of data.
    """
    raise TypeError(f"no drawing for {type(chart).__name__}")


@draw.register
def _(chart: LineChart) -> Figure:
    figure, axes = canvas(chart.title, chart.subtitle, chart.caption, height=4.9)
    for ceiling in chart.ceilings:
        axes.plot(ceiling.x, ceiling.y, color=style.GREY, linewidth=3.0, alpha=0.55, label=ceiling.label, zorder=1)
    notes = list(dict.fromkeys(trace.note for trace in chart.traces))
    for trace in chart.traces:
        _plot(axes, trace, notes.index(trace.note), several=len(notes) > 1)
    for position in chart.crossovers:
        axes.axvline(position, color=style.GREY, linewidth=0.8, linestyle=":", zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    positions = sorted({x for trace in chart.traces for x in trace.x})
    sizes_axis(axes, positions, chart.x_label)
    if chart.unit == "B":
        axes.yaxis.set_major_formatter(FuncFormatter(byte_count))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(chart.y_label)
    else:
        _time_axis(axes.yaxis, chart.y_label, axes.set_ylabel)
    legend(figure, axes)
    return figure


@draw.register
def _(chart: DotChart) -> Figure:
    # One problem: a line per method, read like a table. Several: a line per problem, methods told apart by their looks.
    single = len(chart.problems) == 1
    lines = [trace.method for trace in chart.traces] if single else list(chart.problems)
    height = 1.7 + (0.26 * len(lines) if single else max(0.9 * len(lines), 0.2 * len(chart.traces)))
    figure, axes = canvas(chart.title, f"{chart.problems[0]}\n{chart.subtitle}" if single else chart.subtitle, chart.caption, height)
    for index, trace in enumerate(chart.traces):
        look = style.style_of(trace.method, is_hand_written(trace.method))
        axes.errorbar(
            trace.y,
            [len(lines) - 1 - (index if single else x) for x in trace.x],
            xerr=error(trace),
            fmt=look.marker,
            color=look.colour,
            markersize=look.size + 1,
            markerfacecolor=look.colour if look.filled else "white",
            label=trace.method,
            zorder=look.layer,
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(lines)), [name if single else textwrap.fill(name, 18) for name in reversed(lines)])
    axes.set_ylim(-0.6, len(lines) - 0.4)
    _time_axis(axes.xaxis, "time per call (median, 95 % interval); open marker: forward mode", axes.set_xlabel)
    if not single:
        legend(figure, axes)
    return figure


@draw.register
def _(chart: RatioMap) -> Figure:
    figure, axes = canvas(chart.title, chart.subtitle, chart.caption, height=5.4)
    finite = [value for row in chart.ratio for value in row if value == value]
    bound = max(1.2, *finite, *(1 / value for value in finite))
    image = axes.pcolormesh(
        range(len(chart.D) + 1),
        range(len(chart.P) + 1),
        chart.ratio,
        norm=LogNorm(1 / bound, bound),
        cmap="RdBu",
        edgecolors="white",
        linewidth=0.8,
    )
    for i, row in enumerate(chart.ratio):
        for j, value in enumerate(row):
            if value == value:
                strong = max(value, 1 / value) > bound**0.6
                axes.text(j + 0.5, i + 0.2, f"{value:.2g}", ha="center", va="center", fontsize=8, color="white" if strong else "black")
    if chart.crossover:
        x = [between(chart.D, d) for d, _ in chart.crossover]
        y = [between(chart.P, p) for _, p in chart.crossover]
        axes.plot(x, y, "D", color="black", markersize=5, markeredgecolor="white")
    axes.set_xticks([j + 0.5 for j in range(len(chart.D))], [str(d) for d in chart.D])
    axes.set_yticks([i + 0.5 for i in range(len(chart.P))], [str(p) for p in chart.P])
    axes.grid(visible=False)
    axes.set_xlabel("input width D")
    axes.set_ylabel("output width P")
    bar = figure.colorbar(image, ax=axes, label="forward time / reverse time")
    ticks = [value for value in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if 1 / bound <= value <= bound]
    bar.set_ticks(ticks, labels=[f"{value:g}" for value in ticks])
    bar.ax.yaxis.set_minor_locator(NullLocator())
    return figure


def _plot(axes: Axes, trace: Trace, note_index: int, several: bool) -> None:
    look = style.style_of(trace.method, is_hand_written(trace.method), published=trace.note.startswith("published"))
    line = style.device_line(note_index) if several else look.line
    label = trace.label or (f"{trace.method} ({trace.note})" if trace.note else trace.method)
    axes.errorbar(
        trace.x,
        trace.y,
        yerr=error(trace),
        label=label,
        color=look.colour,
        marker=look.marker,
        linestyle=line,
        linewidth=look.width,
        markersize=look.size,
        markerfacecolor=look.colour if look.filled else "white",
        capsize=2,
        elinewidth=0.8,
        alpha=look.alpha,
        zorder=look.layer,
    )


def error(trace: Trace) -> list[list[float]]:
    """Return the distances of a trace's interval from its values.

    Args:
        trace: The trace.

    Returns:
        Below and above.
    """
    below = [max(0.0, y - low) for y, low in zip(trace.y, trace.low, strict=True)]
    return [below, [max(0.0, high - y) for y, high in zip(trace.y, trace.high, strict=True)]]


def canvas(title: str, subtitle: str, caption: str, height: float) -> tuple[Figure, Axes]:
    """Make a figure with a title, a subtitle above the axes and the caption below.

    Args:
        title: In bold.
        subtitle: Sizes and hardware.
        caption: Wrapped to the figure's width.
        height: In inches.

    Returns:
        The figure and its axes.
    """
    figure = Figure(figsize=(7.6, height), layout="constrained")
    axes = figure.add_subplot()
    lines = textwrap.wrap(caption, 108)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes.set_title(subtitle, loc="left", fontsize=8, color="#444444", pad=8)
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=8, color="#222222")
    return figure, axes


def legend(figure: Figure, axes: Axes) -> None:
    """Put the legend beside the axes.

    Args:
        figure: The figure.
        axes: Its axes.
    """
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", handlelength=2.6)


def _time_axis(axis: Axis, label: str, set_label: Callable[[str], object]) -> None:
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0)))
    axis.set_major_formatter(FuncFormatter(seconds))
    axis.set_minor_formatter(NullFormatter())
    set_label(label)


def sizes_axis(axes: Axes, positions: Sequence[float], label: str) -> None:
    """Mark the measured sizes on a logarithmic x axis, and no others.

    Args:
        axes: The axes.
        positions: The sizes.
        label: What they are.
    """
    axes.xaxis.set_major_locator(FixedLocator(list(positions)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def powers_axis(axis: Axis) -> None:
    """Write the ticks of a logarithmic axis as plain powers of ten, for mathematical markup is off.

    Args:
        axis: The axis.
    """
    axis.set_major_locator(LogLocator(base=10, numticks=8))
    axis.set_major_formatter(FuncFormatter(_power))
    axis.set_minor_formatter(NullFormatter())


def _power(value: float, _: object = None) -> str:
    if 0.001 <= value <= 10_000:
        return f"{value:g}"
    return "10" + f"{math.log10(value):.0f}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def seconds(value: float, _: object = None) -> str:
    """Write a time for an axis.

    Args:
        value: Seconds.

    Returns:
        E.g. `30 µs`.

    Example:
        >>> seconds(3e-5)
        '30 µs'
    """
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale * 0.9999:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def between(values: Sequence[int], position: float) -> float:
    """Place a number among equally spaced cells, logarithmically between their centres.

    Args:
        values: What the cells stand for, ascending.
        position: The number.

    Returns:
        Its place; 0.5 is the centre of the first cell.

    Example:
        >>> between([1, 4, 16], 2)
        1.0
    """
    for i in range(len(values) - 1):
        if values[i] <= position <= values[i + 1]:
            step = math.log(values[i + 1]) - math.log(values[i])
            return i + 0.5 + (math.log(position) - math.log(values[i])) / step
    return 0.5

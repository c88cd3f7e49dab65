"""Shared parts of drawings: the canvas with its titles, axes of times and sizes, legends, intervals."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from plots import style
from plots.chart import Chart, Trace

WIDTH = 6.4  # inches
LEGEND_BELOW = -0.5


def canvas(chart: Chart, height: float) -> tuple[Figure, Axes]:
    """Make a figure: the finding in bold, topic and sizes above the axes, the caption below."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    titles(figure, chart)
    axes.set_title("\n".join(part for part in (chart.topic, chart.subtitle) if part), loc="left", fontsize=8, color=style.MUTED, pad=8)
    return figure, axes


def titles(figure: Figure, chart: Chart) -> None:
    """Write the finding above and the caption below a figure."""
    if chart.title:
        figure.suptitle(textwrap.fill(chart.title, 64), x=0.01, ha="left", fontsize=11, fontweight="bold", color=style.INK)
    lines = textwrap.wrap(chart.caption, 92)
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=8, color=style.INK)


def legend(figure: Figure, axes: Axes, columns: int = 2) -> None:
    """Put the legend below the axes, within the width of the figure."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + 0.19 * math.ceil(len(labels) / columns))
        below = axes.transAxes + ScaledTranslation(0, LEGEND_BELOW, figure.dpi_scale_trans)  # inches, however high the axes are
        place = {"loc": "upper left", "bbox_to_anchor": (0.0, 0.0), "bbox_transform": below, "borderaxespad": 0}
        axes.legend(handles, labels, ncols=columns, handlelength=2.4, **place)


def error(trace: Trace) -> list[list[float]]:
    """Return the distances of a trace's interval from its values."""
    below = [max(0.0, y - low) for y, low in zip(trace.y, trace.low, strict=True)]
    return [below, [max(0.0, high - y) for y, high in zip(trace.y, trace.high, strict=True)]]


def line(axes: Axes, trace: Trace) -> None:
    """Draw a trace with its intervals, in its own look."""
    look = style.of_trace(trace.method)
    axes.errorbar(
        trace.x,
        trace.y,
        yerr=error(trace),
        label=trace.label,
        color=look.colour,
        marker=look.marker,
        linestyle=look.line,
        linewidth=look.width,
        markersize=look.size,
        markerfacecolor=look.colour if look.filled else style.PAPER,
        capsize=2,
        elinewidth=0.8,
        zorder=look.layer,
    )


def clip(set_limits: Callable[[float, float], object], values: Sequence[float], margin: float = 1.6) -> None:
    """Fit a logarithmic axis to the values: an interval that reaches far beyond is cut off at the edge."""
    set_limits(min(values) / margin, max(values) * margin)


def time_axis(axis: Axis, label: str) -> None:
    """Mark a logarithmic axis of times."""
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0)))
    axis.set_major_formatter(seconds)
    axis.set_minor_formatter(NullFormatter())
    axis.set_label_text(label)


def sizes_axis(axes: Axes, positions: Sequence[float], label: str) -> None:
    """Mark the measured sizes on a logarithmic x axis, and no others."""
    axes.set_xscale("log")
    shown: list[float] = []
    for position in positions:  # of neighbours too close to be read, the first, and the last of all
        letters = len(f"{position:g}{shown[-1] if shown else position:g}")
        if not shown or position / shown[-1] > (positions[-1] / positions[0]) ** (0.008 * letters):
            shown.append(position)
        elif position == positions[-1]:
            shown[-1] = position
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)


def lines_over_sizes(axes: Axes, traces: Sequence[Trace], label: str) -> None:
    """Draw traces over the sizes that were measured, both axes logarithmic."""
    axes.set_yscale("log")
    sizes_axis(axes, sorted({x for trace in traces for x in trace.x}), label)
    for trace in traces:
        line(axes, trace)


def powers_axis(axis: Axis) -> None:
    """Write the ticks of a logarithmic axis as plain powers of ten, for mathematical markup is off."""
    axis.set_major_locator(LogLocator(base=10, numticks=8))
    axis.set_major_formatter(_power)
    axis.set_minor_formatter(NullFormatter())


def _power(value: float, _: object = None) -> str:
    if 0.001 <= value <= 10_000:
        return f"{value:g}"
    return "10" + f"{math.log10(value):.0f}".translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def seconds(value: float, _: object = None) -> str:
    """Write a time for an axis.

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

    Example:
        >>> between([1, 4, 16], 2)
        1.0
    """
    for i in range(len(values) - 1):
        if values[i] <= position <= values[i + 1]:
            step = math.log(values[i + 1]) - math.log(values[i])
            return i + 0.5 + (math.log(position) - math.log(values[i])) / step
    return 0.5

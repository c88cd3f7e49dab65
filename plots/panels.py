"""Lines in panels beside each other: the drawing that studies share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import LogLocator, MaxNLocator

from plots import style
from plots.axes import WIDTH, powers_axis, sizes_axis, time_axis, titles
from plots.chart import Chart, draw
from studies import Row
from studies.study import Value, column

COLOURS = (style.VERMILION, style.BLUE, style.GREEN, style.ORANGE, style.PURPLE, style.SKY)
LETTERS = 92  # of a line of a legend
LINE = 0.183  # inches of a title's line: 11 points at 1.2
LONG, NARROW = 1e5, 30.0  # positions that need space; a logarithmic axis that needs more marks than powers of ten
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


@dataclass(frozen=True, slots=True)
class Series:
    """A line: its label, positions and values, what was measured there as points, its range, and the line whose colour it takes."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    points: tuple[float, ...] = ()
    band: tuple[tuple[float, ...], ...] = ()  # the lower ends and the upper ones
    like: str = ""  # drawn thin in the colour of that one, or in grey, and named once in a panel


@dataclass(frozen=True, slots=True)
class Panel:
    """Axes: what they show, names of both directions, lines, whether values are logarithmic, their limits, whether times over sizes."""

    title: str
    x_label: str
    series: tuple[Series, ...]
    y_label: str = ""
    logarithmic: bool = False
    limits: tuple[float, float] | None = None
    sizes: bool = False


@dataclass(frozen=True, kw_only=True)
class PanelsChart(Chart):
    """Panels, `columns` beside each other, with a legend each or a shared one: in the place that is free, or above."""

    panels: tuple[Panel, ...]
    columns: int = 2
    shared: bool = False


def line_of(
    label: str, rows: Sequence[Mapping[str, Value]], x: str, y: str, *, points: str = "", unit: float = 1.0, like: str = ""
) -> Series:
    """Make a line of columns of a table."""
    values = tuple(unit * value for value in column(rows, y))
    return Series(label, tuple(column(rows, x)), values, tuple(column(rows, points)) if points else (), like=like)


def lines_of(rows: Sequence[Row], label: Callable[[Row], str], x: str, y: str, least: float = -math.inf) -> tuple[Series, ...]:
    """Make a line of each label from a table of a study."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if not math.isnan(value := float(row[y])):
            points.setdefault(label(row), []).append((float(row[x]), max(least, value)))
    return tuple(Series(name, tuple(x for x, _ in found), tuple(y for _, y in found)) for name, found in points.items())


@draw.register
def _(chart: PanelsChart) -> Figure:
    rows = -(-len(chart.panels) // chart.columns)
    drawing = Figure(figsize=(WIDTH, (2.5 if chart.columns < 4 else 1.6) * rows + 1.0), layout="constrained")
    titles(drawing, chart)
    grid = drawing.subplots(rows, chart.columns, squeeze=False)
    labels = dict.fromkeys(series.label for panel in chart.panels for series in panel.series if not series.like)
    for axes, panel in zip(grid.flat, chart.panels, strict=False):
        own = labels if chart.shared else [series.label for series in panel.series if not series.like]
        looks = dict(zip(own, zip(cycle(COLOURS), cycle(LINES), strict=False), strict=False))
        named: set[str] = set()
        for series in panel.series:
            (colour, line), width = looks.get(series.like or series.label, (style.GREY, "-")), 1.6
            label = None if series.label in named else series.label
            if series.like:
                named.add(series.label)
                line, width = (0, (1, 1)), 1.1
            lone = all(math.isnan(value) for value in series.y)  # points without a line
            if not lone:
                axes.plot(series.x, series.y, color=colour, linestyle=line, linewidth=width, label=label)
            if series.band:
                axes.fill_between(series.x, *series.band, color=colour, alpha=0.2, linewidth=0)
            if series.points:
                axes.plot(series.x, series.points, color=colour, linestyle="", marker="o", markersize=4, label=label if lone else None)
        positive = [value for series in panel.series for value in (*series.y, *series.points) if value > 0]
        if panel.logarithmic and positive:
            axes.set_yscale("log")
            powers_axis(axes.yaxis)
            if max(positive) < NARROW * min(positive):
                axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        if max(x for series in panel.series for x in series.x) > LONG:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(panel.title, fontsize=8.5, loc="left")
        axes.set_xlabel(panel.x_label)
        axes.set_ylabel(panel.y_label)
        if panel.limits:
            axes.set_ylim(*panel.limits)
        if panel.sizes:
            axes.set_yscale("log")
            sizes_axis(axes, sorted({x for series in panel.series for x in series.x}), panel.x_label)
            time_axis(axes.yaxis, panel.y_label)
        if len(panel.series) > 1 and not chart.shared:
            _make_room(axes, axes.legend(loc="best", frameon=True, facecolor=style.PAPER, edgecolor="none", framealpha=0.8), drawing)
    free = grid.flat[len(chart.panels) :]
    for axes in free:
        axes.set_axis_off()
    if chart.shared:
        found = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        if len(free):
            free[0].legend(found.values(), found.keys(), loc="upper left").set_in_layout(False)
        else:
            _legend_above(drawing, found)
    return drawing


def _make_room(axes: Axes, legend: Legend, drawing: Figure) -> None:
    """Where the best place for a legend is not free, add a strip above the lines and put it there."""
    drawing.draw_without_rendering()
    box = legend.get_window_extent()
    if not any(line.get_path().transformed(line.get_transform()).intersects_bbox(box, filled=False) for line in axes.lines):
        return
    strip = (box.height + 6.0) / axes.get_window_extent().height
    low, high = axes.get_ylim()
    grown = strip / (1 - strip)
    axes.set_ylim(low, high * (high / low) ** grown if axes.get_yscale() == "log" else high + (high - low) * grown)
    legend.set_loc("upper right")


def _legend_above(drawing: Figure, found: dict[str, Artist]) -> None:
    """Put a legend in lines left free below the title."""
    columns = max(1, LETTERS // (max(map(len, found)) + 5))
    rows, said, (width, height) = -(-len(found) // columns), drawing.get_suptitle(), drawing.get_size_inches()
    drawing.set_size_inches(width, height := height + LINE * (rows - 1))
    drawing.suptitle(said + "\n" * rows, x=0.01, ha="left", fontsize=11, fontweight="bold", color=style.INK)
    below = 1 - (LINE * (said.count("\n") + 1) + 0.01) / height
    place = {"loc": "upper left", "bbox_to_anchor": (0.0, below), "borderaxespad": 0.3}
    drawing.legend(found.values(), found.keys(), ncols=columns, handlelength=2.4, **place)

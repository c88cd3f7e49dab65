"""Lines in panels beside each other: the drawing that studies share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from plots import style
from plots.axes import WIDTH, powers_axis, sizes_axis, time_axis, titles
from plots.chart import Chart, draw
from studies import Row

COLOURS = (style.VERMILION, style.BLUE, style.GREEN, style.ORANGE, style.PURPLE, style.SKY)
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


@dataclass(frozen=True, slots=True)
class Series:
    """A line: its label, positions and values, and what was measured there, as points."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    points: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """Axes: what they show, the names of both directions, the lines, and whether values are logarithmic, or times over sizes."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    logarithmic: bool = False
    sizes: bool = False


@dataclass(frozen=True, kw_only=True)
class PanelsChart(Chart):
    """Panels, `columns` beside each other, with a legend each or a shared one below."""

    panels: tuple[Panel, ...]
    columns: int = 2
    shared: bool = False


def lines_of(rows: Sequence[Row], label: Callable[[Row], str], x: str, y: str, least: float = -math.inf) -> tuple[Series, ...]:
    """Make a line of each label from a table of a study."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if not math.isnan(value := float(row[y])):
            points.setdefault(label(row), []).append((float(row[x]), max(least, value)))
    return tuple(Series(name, *map(tuple, zip(*found, strict=True))) for name, found in points.items())


@draw.register
def _(chart: PanelsChart) -> Figure:
    rows = -(-len(chart.panels) // chart.columns)
    drawing = Figure(figsize=(WIDTH, 2.5 * rows + 1.0), layout="constrained")
    titles(drawing, chart)
    grid = drawing.subplots(rows, chart.columns, squeeze=False)
    labels = list(dict.fromkeys(series.label for panel in chart.panels for series in panel.series))
    for axes, panel in zip(grid.flat, chart.panels, strict=False):
        for place, series in enumerate(panel.series):
            colour, line = (look[(labels.index(series.label) if chart.shared else place) % len(look)] for look in (COLOURS, LINES))
            lone = all(math.isnan(value) for value in series.y)  # points without a line
            if not lone:
                axes.plot(series.x, series.y, color=colour, linestyle=line, linewidth=1.6, label=series.label)
            if series.points:
                axes.plot(
                    series.x, series.points, color=colour, linestyle="", marker="o", markersize=4, label=series.label if lone else None
                )
        if panel.logarithmic and any(value > 0 for series in panel.series for value in (*series.y, *series.points)):
            axes.set_yscale("log")
            powers_axis(axes.yaxis)
        axes.set_title(panel.title, fontsize=8.5, loc="left")
        axes.set_xlabel(panel.x_label)
        axes.set_ylabel(panel.y_label)
        if panel.sizes:
            axes.set_yscale("log")
            sizes_axis(axes, sorted({x for series in panel.series for x in series.x}), panel.x_label)
            time_axis(axes.yaxis, panel.y_label, axes.set_ylabel)
        if len(panel.series) > 1 and not chart.shared:
            axes.legend(loc="best")
    for axes in list(grid.flat)[len(chart.panels) :]:
        axes.set_axis_off()
    if chart.shared:
        found = {label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        free = grid.flat[-1] if len(chart.panels) < grid.size else grid.flat[0]
        free.legend(found.values(), found.keys(), loc="upper left" if len(chart.panels) < grid.size else "best").set_in_layout(False)
    return drawing

"""Times on problems that share no size: for each the best hand-written method per mode and the libraries, six looks at most."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from benchmarks.records.problems import best_baseline, best_by_mode, groups, key_of, title
from benchmarks.records.rows import Row
from jacobians.planning.registry import MODES
from plots import style
from plots.axes import canvas, clip, error, legend, time_axis
from plots.chart import Chart, Exhibit, Results, Trace, draw, figure
from plots.charts.lines import NOT_ALONE, charts, look_of
from plots.families import VARIABLES, families, grids, hardware, lead, make_trace, numbered, point
from plots.growth import square


@dataclass(frozen=True, kw_only=True)
class DotChart(Chart):
    """Time of each mode and of the best library on a few problems; x is the index of the problem."""

    problems: tuple[str, ...]
    traces: tuple[Trace, ...]


@figure(35)
def others(results: Results) -> Iterator[Exhibit]:
    """Make a chart of the problems of a sweep that no line chart holds."""
    for file in results.files:
        rows = results.rows(file.name)
        if file.name in NOT_ALONE or grids(rows):
            continue
        lines = charts(rows, "")
        varied = {(row.widths, row.N) for chart in lines for row in rows if _on(chart.x_label, rows, row)}
        rest = [row for row in rows if (row.widths, row.N) not in varied]
        if rest:
            yield Exhibit("Growth", chart_of(rest, numbered(results.stem(file.name), len(lines))), (file.name,))


def _on(label: str, rows: Sequence[Row], row: Row) -> bool:
    """Say whether a row lies on the line chart with that label."""
    for variable, words in VARIABLES.items():
        if words == label:
            return any(row in family for family in families(rows, variable))
    return row in square(rows)


def chart_of(rows: Sequence[Row], stem: str) -> DotChart:
    """Make the chart."""
    keys = list(dict.fromkeys(key_of(row) for row in rows))
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for group in groups(rows):
        index = keys.index(key_of(group[0]))
        for mode, row in best_by_mode(group).items():
            points.setdefault(mode, []).append(point(index, row))
        library = best_baseline(group)
        if library:
            points.setdefault("library", []).append(point(index, library))
    order = [name for name in (*MODES, "library") if name in points]
    labels = {key_of(row): title(row) for row in rows}
    wins = _winners(rows)
    return DotChart(
        stem=stem,
        title=wins,
        topic="Jacobian time by mode",
        subtitle=hardware(rows),
        caption=lead(rows),
        problems=tuple(labels[key] for key in keys),
        traces=tuple(make_trace(*look_of(name), points[name]) for name in order),
    )


def _winners(rows: Sequence[Row]) -> str:
    counts: dict[str, int] = {}
    for group in groups(rows):
        best = best_by_mode(group)
        if best:
            fastest = min(best, key=lambda mode: best[mode].median)
            counts[fastest] = counts.get(fastest, 0) + 1
    words = [f"{mode} mode on {count}" for mode, count in sorted(counts.items(), key=lambda item: -item[1])]
    return f"Fastest hand-written: {', '.join(words)} of {sum(counts.values())}" if words else "No hand-written method was measured"


@draw.register
def _(chart: DotChart) -> Figure:
    count = len(chart.problems)
    figure, axes = canvas(chart, height=2.1 + 0.42 * count)
    for trace in chart.traces:
        look = style.of_trace(trace.method)
        axes.errorbar(
            trace.y,
            [count - 1 - x for x in trace.x],
            xerr=error(trace),
            fmt=look.marker,
            color=look.colour,
            markersize=look.size + 1,
            markerfacecolor=look.colour if look.filled else style.PAPER,
            label=trace.label,
            zorder=look.layer,
        )
    axes.set_xscale("log")
    clip(lambda low, high: axes.set_xlim(low, high), [y for trace in chart.traces for y in trace.y])
    axes.set_yticks(range(count), [textwrap.fill(name, 26) for name in reversed(chart.problems)])
    axes.set_ylim(-0.6, count - 0.4)
    time_axis(axes.xaxis, "time per call (median, 95 % interval)", axes.set_xlabel)
    legend(figure, axes)
    return figure

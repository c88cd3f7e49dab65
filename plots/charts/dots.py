"""Times on problems that share no size: for each the best hand-written method per mode and the libraries, six looks at most."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from benchmarks.records.problems import best_by_mode, contenders, groups, key_of, title
from benchmarks.records.rows import Row
from plots import style
from plots.axes import canvas, clip, error, legend, time_axis
from plots.chart import Chart, Exhibit, Results, Trace, draw, figure, numbered
from plots.charts.lines import NOT_ALONE
from plots.families import VARIABLES, families, grids, hardware, lead, mode_traces
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
        lines = [*(family for variable in VARIABLES for family in families(rows, variable)), *filter(None, [square(rows)])]
        varied = {(row.widths, row.N) for family in lines for row in family}
        rest = [row for row in rows if (row.widths, row.N) not in varied]
        if rest:
            yield Exhibit("Growth", chart_of(rest, numbered(results.stem(file.name), len(lines))), (file.name,))


def chart_of(rows: Sequence[Row], stem: str) -> DotChart:
    problems = {key_of(row): title(row) for row in rows}
    keys = list(problems)
    points: dict[str, list[tuple[float, Row]]] = {}
    for group in groups(rows):
        for name, row in contenders(group).items():
            points.setdefault(name, []).append((keys.index(key_of(row)), row))
    return DotChart(
        stem=stem,
        title=_winners(rows),
        topic="Jacobian time by mode",
        subtitle=hardware(rows),
        caption=lead(rows),
        problems=tuple(problems.values()),
        traces=mode_traces(points),
    )


def _winners(rows: Sequence[Row]) -> str:
    fastest = [min(best, key=lambda mode: best[mode].median) for group in groups(rows) if (best := best_by_mode(group))]
    words = [f"{mode} mode on {count}" for mode, count in Counter(fastest).most_common()]
    return f"Fastest hand-written: {', '.join(words)} of {len(fastest)}" if words else "No hand-written method was measured"


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
    clip(axes.set_xlim, [y for trace in chart.traces for y in trace.y])
    axes.set_yticks(range(count), [textwrap.fill(name, 26) for name in reversed(chart.problems)])
    axes.set_ylim(-0.6, count - 0.4)
    time_axis(axes.xaxis, "time per call (median, 95 % interval)")
    legend(figure, axes)
    return figure

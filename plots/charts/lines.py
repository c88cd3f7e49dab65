"""Time against one size: the best hand-written method in each mode, the best library, and the machine's limit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.analysis.tables import byte_count
from benchmarks.records.problems import is_ours
from benchmarks.records.rows import Row
from jacobians.planning.registry import MODES
from plots import style
from plots.axes import canvas, clip, legend, lines_over_sizes, time_axis
from plots.chart import Chart, Exhibit, Results, Trace, brief, draw, figure, numbered
from plots.families import VARIABLES, ahead, best_over, by_size, families, grids, lead, limit_of, meetings, mode_traces, subtitle_of
from plots.growth import TAIL, exponent, square, tails

BEYOND_OVERHEAD = 3.0  # times the smallest time of a mode: from there on a time grows with the work
LEAST_POINTS, WIDEST = 4, 0.5  # of a fit that is told: points, and half-width of the exponent's interval
NOT_ALONE = ("workloads", "regret", "random", "evaluations")  # whose problems happen to share sizes, or that others show


@dataclass(frozen=True, kw_only=True)
class LineChart(Chart):
    """Time, or bytes, against one variable; `crossovers` are positions where forward and reverse are equal, `limit` what cannot be."""

    x_label: str
    traces: tuple[Trace, ...]
    crossovers: tuple[float, ...] = ()
    limit: Trace | None = None
    y_label: str = "time per call (median, 95 % interval)"
    unit: str = "s"  # or "B"


@figure(30)
def growth(results: Results) -> Iterator[Exhibit]:
    """Make a chart of each size that alone varies in a sweep, whatever the sweep's name."""
    for file in results.files:
        rows = results.rows(file.name)
        if file.name in NOT_ALONE or grids(rows):
            continue
        for chart in charts(rows, results.stem(file.name)):
            yield Exhibit("Growth", chart, (file.name,))


def charts(rows: Sequence[Row], stem: str) -> list[LineChart]:
    """Make the charts of one sweep."""
    found: list[LineChart] = []
    for variable, label in VARIABLES.items():
        for family in families(rows, variable):
            found.append(_chart(family, (variable,), label, numbered(stem, len(found))))
    layers = square(rows)
    if layers:
        chart = _chart(layers, ("D", "K"), "width M of input and hidden layers", numbered(stem, len(found)))
        grown = ", ".join(f"{tail.mode} as M^{tail.fitted:.2f}" for tail in tails(rows))
        found.append(replace(chart, title=f"{chart.title}; from M = {TAIL} on, {grown}" if grown else chart.title))
    return found


def _chart(family: list[Row], varying: tuple[str, ...], label: str, stem: str) -> LineChart:
    points, sizes = best_over(family, varying[0]), by_size(family, varying[0])
    symbol = varying[0] if len(varying) == 1 else "M"
    forward, reverse = points.get("forward", {}), points.get("reverse", {})
    meet = list(meetings(forward, reverse))
    return LineChart(
        stem=stem,
        title=_finding(symbol, meet, points),
        topic=f"Jacobian time against {label}",
        subtitle=subtitle_of(family, *varying),
        caption=brief(lead(family), _fits(symbol, points), _mixed(symbol, points)),
        x_label=label,
        traces=mode_traces({name: rows.items() for name, rows in points.items()}),
        crossovers=tuple(x for _, x, *_ in meet),
        limit=limit_of("no faster on this machine", {x: least for x, here in sizes.items() if (least := _least(here))}),
    )


def _least(rows: Sequence[Row]) -> float | None:
    """Return the least time that the ceilings allow."""
    return min((row.fraction_of_ceiling * row.median for row in rows if row.fraction_of_ceiling and is_ours(row)), default=None)


def _finding(symbol: str, meet: Sequence[tuple[str, float, float, float]], points: dict[str, dict[float, Row]]) -> str:
    forward, reverse = points.get("forward", {}), points.get("reverse", {})
    both = forward.keys() & reverse.keys()
    if not both:
        return f"{' and '.join(name for name in points if name != 'library') or 'No hand-written'} mode was measured".capitalize()
    if len(meet) == 1:
        ((first, x, *_),) = meet
        return f"{first.capitalize()} mode is faster up to {symbol} ≈ {x:.3g}, {'reverse' if first == 'forward' else 'forward'} mode beyond"
    if meet:
        return f"Forward and reverse mode are equal at {symbol} ≈ {', '.join(f'{x:.3g}' for _, x, *_ in meet)}"
    for mode, fast, slow in (("Forward", forward, reverse), ("Reverse", reverse, forward)):
        if all(fast[x].median < slow[x].median for x in both):
            return f"{mode} mode is the faster of the two at every {symbol} measured"
        if any(ahead(fast[x], slow[x]) for x in both):
            return f"{mode} mode is the faster of the two wherever noise leaves a difference"
    return f"Forward and reverse mode differ by no more than noise at any {symbol} measured"


def _fits(symbol: str, points: dict[str, dict[float, Row]]) -> str:
    """Say how times grow where they are more than overhead, with the operations beside them, and nothing where it cannot be told."""
    parts: list[str] = []
    for mode in MODES:
        rows = points.get(mode, {})
        least = min((row.median for row in rows.values()), default=0.0)
        chosen = [(x, row) for x, row in rows.items() if row.median > BEYOND_OVERHEAD * least and x > 0]
        fitted = exponent([x for x, _ in chosen], [row.median for _, row in chosen]) if len(chosen) >= LEAST_POINTS else None
        if fitted and fitted[1] <= WIDEST:
            counted = exponent([x for x, _ in chosen], [row.flops or 1 for _, row in chosen]) or (math.nan, 0)
            parts.append(f"{mode} {symbol}^{fitted[0]:.2f}±{fitted[1]:.2f} ({counted[0]:.2f})")
    return f"Growth (operations): {', '.join(parts)}." if parts else ""


def _mixed(symbol: str, points: dict[str, dict[float, Row]]) -> str:
    gains = {
        x: min(points["forward"][x].median, points["reverse"][x].median) / row.median
        for x, row in points.get("mixed", {}).items()
        if x in points.get("forward", {}) and x in points.get("reverse", {})
    }
    where, most = max(gains.items(), key=lambda item: item[1], default=(0, 0.0))
    return f"Mixed mode is {most:.2f} times as fast as the better of them at {symbol} = {where:g}." if most > 1.05 else ""


@draw.register
def _(chart: LineChart) -> Figure:
    figure, axes = canvas(chart, height=4.4)
    lines_over_sizes(axes, chart.traces, chart.x_label)
    seen = [y for trace in chart.traces for y in trace.y]
    if chart.limit:
        seen += chart.limit.y
    clip(axes.set_ylim, seen)
    if chart.limit:
        # Shaded below: a region that no method can reach, and not a line among others.
        floor = axes.get_ylim()[0]
        axes.fill_between(chart.limit.x, chart.limit.y, floor, color=style.GREY, alpha=0.22, linewidth=0, label=chart.limit.label)
    for position in chart.crossovers:
        axes.axvline(position, color=style.GREY, linewidth=0.8, linestyle=":", zorder=1)
    if chart.unit == "B":
        axes.yaxis.set_major_formatter(byte_count)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(chart.y_label)
    else:
        time_axis(axes.yaxis, chart.y_label)
    legend(figure, axes)
    return figure

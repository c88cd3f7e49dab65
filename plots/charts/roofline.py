"""Operations per second against arithmetic intensity, under the machine's ceilings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from benchmarks.records.problems import best_baseline, best_of_ours, groups, title
from benchmarks.records.rows import Row
from jacobians.planning.machine import Ceilings
from jacobians.planning.registry import MODES
from plots import style
from plots.axes import canvas, legend, powers_axis
from plots.chart import Chart, Exhibit, Results, Trace, draw, figure
from plots.families import Point, hardware, make_trace


@dataclass(frozen=True, kw_only=True)
class Roofline(Chart):
    """The best hand-written method of each problem and the best library, under arithmetic and bandwidth."""

    flops: float  # multiply-adds in registers
    gemm: float  # of the fastest library's large product
    bandwidths: tuple[tuple[str, float], ...]  # name, bytes per second
    points: tuple[Trace, ...]  # x operations per byte, y operations per second


@figure(40)
def roofline(results: Results) -> Iterator[Exhibit]:
    """Make the chart of all problems of a device."""
    rows = [row for row in results.rows() if row.flops and row.bytes and row.dtype == "float32"]
    rates = results.rates.get(rows[0].device) if rows else None
    if rates:
        yield Exhibit("Close to the machine", chart_of(rows, results.stem("roofline"), rates), tuple(f.name for f in results.files))


def chart_of(rows: list[Row], stem: str, rates: Ceilings) -> Roofline:
    """Put the best methods of every problem under the ceilings: one point for ours, one for the libraries."""
    ours = [row for group in groups(rows) if (row := best_of_ours(group))]
    theirs = [row for group in groups(rows) if (row := best_baseline(group))]
    best = max(ours or rows, key=_speed)
    sizes = [(size, rate) for size, rate in rates.read if size in {2**20, 2**28}] or [rates.read[0], rates.read[-1]]
    looks = {"library:best": ("best library", theirs)}
    looks |= {f"{mode}:native": (f"{mode}, best hand-written", [row for row in ours if row.mode == mode]) for mode in MODES}
    return Roofline(
        stem=stem,
        title=f"The best hand-written method reaches {_speed(best) / rates.flops:.0%} of what arithmetic allows",
        topic="Operations per second under the machine's ceilings",
        subtitle=hardware(rows),
        caption=f"{len(ours)} problems. The fastest, {best.method} on {title(best)}, does "
        f"{_speed(best) / 1e9:.0f} GFLOP/s; large products of the libraries reach {rates.gemm / 1e9:.0f}.",
        flops=rates.flops,
        gemm=rates.gemm,
        bandwidths=tuple((f"{_bytes(size)} read again and again", rate) for size, rate in sizes),
        points=tuple(make_trace(look, label, map(_point, chosen)) for look, (label, chosen) in looks.items() if chosen),
    )


def _speed(row: Row) -> float:
    return (row.flops or 0) / row.median


def _point(row: Row) -> Point:
    return (row.flops or 0) / (row.bytes or 1), _speed(row), _speed(row), _speed(row)


def _bytes(size: int) -> str:
    return f"{size / 2**20:g} MB" if size >= 2**20 else f"{size / 2**10:g} KB"


@draw.register
def _(chart: Roofline) -> Figure:
    drawing, axes = canvas(chart, height=4.8)
    positions = [x for trace in chart.points for x in trace.x]
    low, high = min(positions) / 1.6, max(positions) * 1.6
    fastest = max(rate for _, rate in chart.bandwidths)
    axes.set_xscale("log")
    axes.set_yscale("log")
    roof = [low, min(max(chart.flops / fastest, low), high), high]
    top = chart.flops * 2.5
    edge = [min(chart.flops, x * fastest) for x in roof]
    axes.fill_between(roof, edge, top, color=style.GREY, alpha=0.22, linewidth=0, label="beyond this machine")
    for (name, rate), line in zip(chart.bandwidths, ("-", "--"), strict=False):
        x = [low, min(max(chart.flops / rate, low), high), high]
        axes.plot(x, [min(chart.flops, position * rate) for position in x], color=style.INK, linestyle=line, linewidth=1.2, label=name)
    axes.axhline(chart.gemm, color=style.MUTED, linewidth=0.9, linestyle=":", label="large products, fastest library")
    for trace in chart.points:
        look = style.of_trace(trace.method)
        axes.plot(
            trace.x,
            trace.y,
            linestyle="none",
            marker=look.marker,
            color=look.colour,
            markerfacecolor=look.colour if look.filled else "none",
            markersize=4.5,
            alpha=0.8,
            label=trace.label,
            zorder=look.layer,
        )
    axes.text(low * 1.15, chart.flops * 1.08, f"multiply-adds: {chart.flops / 1e9:.0f} GFLOP/s", fontsize=8, va="bottom", color=style.INK)
    axes.set_xlim(low, high)
    axes.set_ylim(min(y for trace in chart.points for y in trace.y) / 1.6, top)
    powers_axis(axes.xaxis)
    axes.set_xlabel("operations per byte (FLOP / compulsory bytes)")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value / 1e9:g}")
    axes.set_ylabel("GFLOP/s")
    legend(drawing, axes)
    return drawing

"""Gain of mixed mode over the better of the two modes, against the width of the narrowest layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from benchmarks.records.problems import best_by_mode, fastest, groups, problem_of, ratio, title
from benchmarks.records.rows import Row
from jacobians.planning.cost import cost
from plots import style
from plots.axes import canvas, legend
from plots.chart import Chart, Exhibit, Results, Trace, draw, figure
from plots.families import hardware, make_trace

SOURCES = ("bottleneck", "workloads", "aspect")
NARROWEST = 8  # of D and P: below, nothing is to be gained, and times are those of a few calls


@dataclass(frozen=True, kw_only=True)
class GainChart(Chart):
    """Gains measured, and the operations saved."""

    points: tuple[Trace, ...]


@figure(60)
def mixed_gain(results: Results) -> Iterator[Exhibit]:
    """Make the chart of all problems where the three modes were measured."""
    chart = chart_of(results.rows(*SOURCES), results.stem("mixed-gain"))
    if chart:
        yield Exhibit("Mixed mode and the planner", chart, SOURCES)


def chart_of(rows: Sequence[Row], stem: str) -> GainChart | None:
    measured: dict[float, list[float]] = {}
    counted: dict[float, float] = {}
    peak = (0.0, "")
    for group in groups(rows):
        best, problem = best_by_mode(group), problem_of(group[0])
        either = fastest(best[mode] for mode in ("forward", "reverse") if mode in best)
        if "mixed" not in best or either is None or problem.L == 0 or problem.batch is not None or min(problem.D, problem.P) < NARROWEST:
            continue
        narrow = min(problem.widths[1:-1]) / min(problem.D, problem.P)
        gain = ratio(either, best["mixed"]).value
        measured.setdefault(narrow, []).append(gain)
        saved = min(cost(problem, mode).flops for mode in ("forward", "reverse")) / cost(problem, "mixed").flops
        counted[narrow] = max(saved, counted.get(narrow, 0.0))
        peak = max(peak, (gain, title(group[0])))
    if not measured:
        return None
    return GainChart(
        stem=stem,
        title=f"A narrow layer makes mixed mode up to {peak[0]:.2g} times as fast as either mode",
        topic="Time of the better mode over mixed mode, against the narrowest layer",
        subtitle=hardware(rows),
        caption=f"{sum(map(len, measured.values()))} problems without batch, D and P at least {NARROWEST}; most on {peak[1]}. "
        "Crosses: the most operations saved at that width.",
        points=(
            make_trace("mixed:native", "measured, best hand-written", [(x, y, y, y) for x, gains in measured.items() for y in gains]),
            make_trace("library:operations", "operations saved", [(x, y, y, y) for x, y in counted.items()]),
        ),
    )


@draw.register
def _(chart: GainChart) -> Figure:
    drawing, axes = canvas(chart, height=4.2)
    for trace in chart.points:
        look = style.of_trace(trace.method)
        face = look.colour if trace.method == "mixed:native" else "none"
        marks = {"markerfacecolor": face, "markersize": 6.0, "alpha": 0.8, "zorder": look.layer}
        axes.plot(trace.x, trace.y, look.marker, color=look.colour, label=trace.label, **marks)
    axes.axhline(1.0, color=style.INK, linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}")
    axes.set_xlabel("narrowest hidden layer / min(D, P)")
    axes.set_ylabel("times as fast")
    legend(drawing, axes)
    return drawing

"""Speed-up of the best hand-written method over each library, problem by problem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.analysis.scoreboard import names_of
from benchmarks.records.problems import best_baseline, best_of_ours, fastest, groups, is_baseline, problem_of, ratio, title
from benchmarks.records.rows import Row
from benchmarks.workloads.cases import Sweep
from jacobians.planning.registry import JACOBIAN, find_quantity
from plots import style
from plots.axes import canvas, error, legend
from plots.chart import Chart, Exhibit, Results, Trace, brief, draw, figure
from plots.families import hardware, make_trace

LIBRARIES = {  # implementation -> what its users call it; the faster one of each counts
    "jax": "JAX jit",
    "torch.compile": "torch.compile",
    "torch.func": "torch.func",
    "autograd-loop": "torch.autograd",
    "autograd-vectorized": "torch.autograd",
    "sum-trick": "torch.autograd",
    "autograd": "torch.autograd",
    "numpy": "NumPy",
    "backpack": "BackPACK",
    "opacus": "Opacus",
    "curvlinops": "curvlinops",
    "folx": "folx",
}


@dataclass(frozen=True, kw_only=True)
class SpeedupChart(Chart):
    """One row per problem, from the top; per library the ratio and its interval."""

    problems: tuple[str, ...]
    series: tuple[Trace, ...]  # x is the index of the problem, y the ratio


@figure(10)
def speedups(results: Results) -> Iterator[Exhibit]:
    """Make the chart of the workloads."""
    sweep = next((file.sweep for file in results.files if file.name == "workloads"), None)
    chart = chart_of(results.rows("workloads"), results.stem("speedups"), sweep)
    if chart:
        yield Exhibit("Against every library", chart, ("workloads",))


def chart_of(rows: Sequence[Row], stem: str, sweep: Sweep | None = None, quantity: str = JACOBIAN) -> SpeedupChart | None:
    """Compare the best hand-written method with every library on each problem."""
    names, libraries = names_of(sweep), dict.fromkeys(LIBRARIES.values())
    scored: list[tuple[float, str, dict[str, tuple[float, float, float]]]] = []
    for group in groups(rows):
        ours, best = best_of_ours(group), best_baseline(group)
        if ours is None or best is None:
            continue
        problem = problem_of(ours)
        name = names.get((problem.widths, problem.batch, problem.asked))
        if quantity != JACOBIAN and name is None:
            continue
        of: dict[str, tuple[float, float, float]] = {}
        for library in libraries:
            row = fastest(r for r in group if is_baseline(r) and LIBRARIES.get(r.implementation) == library)
            if row:
                lead = ratio(row, ours)
                of[library] = (lead.value, lead.low or lead.value, lead.high or lead.value)
        scored.append((ratio(best, ours).value, name or title(ours), of))
    if not scored:
        return None
    scored.sort(key=lambda item: -item[0])
    series = {name: [(index, *of[name]) for index, (_, _, of) in enumerate(scored) if name in of] for name in libraries}
    leads = [lead for lead, _, _ in scored]
    what = "F" if quantity == JACOBIAN else f"{find_quantity(quantity).title}: f"  # …aster
    middle = sorted(leads)[len(leads) // 2]
    return SpeedupChart(
        stem=stem,
        title=f"{what}aster than every library on {sum(lead > 1 for lead in leads)} of {len(leads)} workloads, "
        f"{middle:.2g} times in the median",
        topic="Time of each library over the best hand-written method",
        subtitle=hardware(rows),
        caption=brief(
            f"Against the best library: {scored[0][0]:.3g} times on {scored[0][1]}, {scored[-1][0]:.3g} times on {scored[-1][1]}.",
            "Ratios of paired blocks with 95 % intervals.",
        ),
        problems=tuple(name for _, name, _ in scored),
        series=tuple(make_trace(f"library:{name}", name, points) for name, points in series.items() if points),
    )


@draw.register
def _(chart: SpeedupChart) -> Figure:
    drawing, axes = canvas(chart, height=1.9 + 0.3 * max(6, len(chart.problems)))  # the legend stands below a label
    last = len(chart.problems) - 1
    for index in range(len(chart.problems)):
        axes.axhline(index, color=style.GRID, linewidth=0.8, zorder=0)
    for trace in chart.series:
        look = style.of_trace(trace.method)
        axes.errorbar(
            trace.y,
            [last - x for x in trace.x],
            xerr=error(trace),
            fmt=look.marker,
            color=look.colour,
            markersize=look.size + 2,
            label=trace.label,
            elinewidth=1.0,
            zorder=3,
        )
    axes.axvline(1.0, color=style.INK, linewidth=1.0)
    axes.set_xscale("log")
    values = [value for trace in chart.series for value in trace.y]
    axes.set_xlim(min(0.8, *values) / 1.15, max(values) * 1.3)
    low, high = axes.get_xlim()
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(chart.problems)), list(reversed(chart.problems)))
    axes.set_ylim(-0.6, last + 0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("time of the library / time of the best hand-written method")
    legend(drawing, axes)
    return drawing

"""Regret of a choice of method: the planner's beside the rules in use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, NullLocator

from benchmarks.analysis.regret import regrets
from benchmarks.records.problems import groups, is_ours
from benchmarks.records.rows import Row
from jacobians.planning.machine import Ceilings
from plots import style
from plots.axes import canvas, legend
from plots.chart import Chart, Exhibit, Results, draw, figure
from plots.families import hardware

SOURCES = ("regret", "workloads")
LEAST_LOSS = 1.001
TICKS = (1.001, 1.01, 1.05, 1.2, 2, 5, 20, 100)
LINES = (("-", 2.4, style.VERMILION), ("--", 1.6, style.BLUE), ("-.", 1.6, style.GREEN), (":", 1.8, style.INK))


@dataclass(frozen=True, kw_only=True)
class RegretChart(Chart):
    """The share of problems up to a ratio, one step line per chooser; the first is the planner."""

    series: tuple[tuple[str, tuple[float, ...]], ...]  # name, ratios in ascending order


@figure(65)
def regret(results: Results) -> Iterator[Exhibit]:
    """Make the chart of the shapes for the planner."""
    chart = chart_of(results.rows(*SOURCES), results.stem("regret"), results.rates)
    if chart:
        yield Exhibit("Mixed mode and the planner", chart, SOURCES)


def chart_of(rows: Sequence[Row], stem: str, rates: Mapping[str, Ceilings]) -> RegretChart | None:
    if not any(sum(is_ours(row) for row in group) >= 2 for group in groups(rows)):
        return None
    found = regrets(rows, rates=rates)
    planner = found[0]
    others = "; ".join(f"“{one.chooser}” {one.median:.3g} and {one.ratios[-1]:.3g}" for one in found[1:])
    return RegretChart(
        stem=stem,
        title=f"The planner's choice takes {planner.ratios[-1]:.2f} times the best time at worst, {planner.median:.3f} in the median",
        topic="What a choice of method costs",
        subtitle=hardware(rows),
        caption=f"Rules (median, worst): {others}.",
        series=tuple((one.chooser, one.ratios) for one in found),
    )


@draw.register
def _(chart: RegretChart) -> Figure:
    drawing, axes = canvas(chart, height=4.2)
    largest = max(max(values[-1] for _, values in chart.series), 1.2)
    for (name, values), (line, width, colour) in zip(chart.series, LINES, strict=False):
        x = [LEAST_LOSS, *(max(LEAST_LOSS, value) for value in values), largest]
        y = [0.0, *((index + 1) / len(values) for index in range(len(values))), 1.0]
        axes.step([value - 1 for value in x], y, where="post", linestyle=line, linewidth=width, color=colour, label=name)
    axes.set_xscale("log")
    ticks = [tick for tick in TICKS if tick <= largest]
    axes.set_xticks([tick - 1 for tick in ticks], ["1.00" if tick == LEAST_LOSS else f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("time of the choice / time of the best method (1.00: the best or within 0.1 %)")
    axes.set_ylabel("share of problems")
    legend(drawing, axes, columns=2)
    return drawing

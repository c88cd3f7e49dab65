"""Quantities other than the Jacobian: the shapes with names against every library, and the growth with each size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from benchmarks.records.problems import against_libraries, certainties, ratio
from benchmarks.records.rows import Row
from jacobians.planning.registry import JACOBIAN, find_quantity
from plots import style
from plots.axes import WIDTH, lines_over_sizes, time_axis, titles
from plots.chart import Chart, Exhibit, Results, Trace, draw, figure
from plots.charts.speedups import chart_of
from plots.families import VARIABLES, families, hardware, make_trace, point


@dataclass(frozen=True, kw_only=True)
class GrowthChart(Chart):
    """One panel per size that alone varies: the best hand-written method and the best library."""

    panels: tuple[tuple[str, tuple[Trace, ...]], ...]  # label of the x axis, lines


@figure(15)
def quantities(results: Results) -> Iterator[Exhibit]:
    """Make the charts of every sweep of another quantity than the Jacobian."""
    for file in results.files:
        rows = results.rows(file.name, quantity=None)
        if not rows or rows[0].quantity == JACOBIAN:
            continue
        section = "Derivatives that share the chain"
        named = chart_of(rows, results.stem(f"speedups-{file.name}"), file.sweep, quantity=rows[0].quantity)
        if named:
            yield Exhibit(section, named, (file.name,))
        grown = growth_of(rows, results.stem(f"growth-{file.name}"))
        if grown:
            yield Exhibit(section, grown, (file.name,))


def growth_of(rows: Sequence[Row], stem: str) -> GrowthChart | None:
    """Set the best hand-written method beside the best library against every size that alone varies."""
    panels: list[tuple[str, tuple[Trace, ...]]] = []
    leads: list[float] = []
    for variable, label in VARIABLES.items():
        pairs = against_libraries(max(families(rows, variable), key=len, default=[]))
        if pairs:
            leads += [ratio(library, ours).value for ours, library in pairs]
            ours, theirs = ([point(getattr(row, variable), row) for row in rows] for rows in zip(*pairs, strict=True))
            traces = (make_trace("reverse:native", "best hand-written", ours), make_trace("library:best", "best library", theirs))
            panels.append((label, traces))
    if not panels:
        return None
    quantity = find_quantity(rows[0].quantity)
    wins = sum(lead > 1 for lead in leads)
    return GrowthChart(
        stem=stem,
        title=f"{quantity.title}: faster than every library at {wins} of {len(leads)} sizes, {min(leads):.2g} to {max(leads):.2g} times",
        topic="Time as one size grows",
        subtitle=hardware(rows),
        caption=f"Medians with 95 % intervals, tanh networks with biases; {certainties(rows)}.",
        panels=tuple(panels),
    )


@draw.register
def _(chart: GrowthChart) -> Figure:
    down = -(-len(chart.panels) // 2)
    drawing = Figure(figsize=(WIDTH, 1.2 + 2.3 * down), layout="constrained")
    titles(drawing, chart)
    places = drawing.subplots(down, 2 if len(chart.panels) > 1 else 1, sharey=True, squeeze=False)
    for axes in places.flat[len(chart.panels) :]:
        axes.set_visible(False)
    for index, (axes, (label, traces)) in enumerate(zip(places.flat, chart.panels, strict=False)):
        lines_over_sizes(axes, traces, label)
        time_axis(axes.yaxis, "time per call" if index % 2 == 0 else "")
    places.flat[0].legend(loc="upper left")
    places.flat[0].set_title(chart.subtitle, loc="left", fontsize=8, color=style.MUTED)
    return drawing

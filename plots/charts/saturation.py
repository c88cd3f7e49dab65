"""What the scale of the weights does to slopes and Jacobians with depth."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from benchmarks.analysis import saturation as study
from plots import style
from plots.axes import WIDTH, powers_axis, titles
from plots.chart import Chart, Exhibit, Results, Trace, draw, figure
from plots.families import make_trace


@dataclass(frozen=True, kw_only=True)
class PanelChart(Chart):
    """Line charts beside each other that share their x axis and the names of their lines."""

    x_label: str
    panels: tuple[tuple[str, tuple[Trace, ...]], ...]  # label of the y axis, lines


@figure(75, each_device=False)
def saturation(results: Results) -> Iterator[Exhibit]:
    """Make the chart of the committed table."""
    if study.PATH.exists():
        yield Exhibit("Why the weights are scaled", chart_of(study.read(study.PATH), "saturation"))


def chart_of(records: Sequence[dict[str, str | float]], stem: str) -> PanelChart:
    """Make the chart.

    Args:
        records: Of `benchmarks.analysis.saturation`.
        stem: File name.

    Returns:
        The chart.
    """
    inits = list(dict.fromkeys(str(record["init"]) for record in records))

    def lines(column: str) -> tuple[Trace, ...]:
        traces = []
        for init in inits:
            points = [(float(r["layer"]), max(1e-300, float(r[column]))) for r in records if r["init"] == init]
            traces.append(make_trace(f"init:{init}", init, [(x, y, y, y) for x, y in points]))
        return tuple(traces)

    def last(init: str, column: str) -> float:
        return [float(record[column]) for record in records if record["init"] == init][-1]

    width, depth = float(records[0]["width"]), max(float(record["layer"]) for record in records)
    slopes = ", ".join(f"{init} {last(init, 'mean_slope'):.2g}" for init in inits)
    values = ", ".join(f"{init} {last(init, 'largest_singular_value'):.2g}" for init in inits)
    return PanelChart(
        stem=stem,
        title=f"Unscaled normal weights saturate: a mean slope of {last(inits[0], 'mean_slope'):.2g} after {depth:g} layers",
        topic="Slopes and Jacobians with depth, by the scale of the weights",
        subtitle=f"tanh, {width:g} wide, float64, one network per init at a standard normal x",
        caption=f"After layer {depth:g}: mean slope {slopes}; largest singular value {values}. What is left of a saturated network's "
        "Jacobian is amplified rounding, so its times tell little of networks in use.",
        x_label="layer l",
        panels=(
            ("mean slope φ'(z_l)", lines("mean_slope")),
            ("largest singular value of ∂h_l/∂x", lines("largest_singular_value")),
            ("median singular value of ∂h_l/∂x", lines("median_singular_value")),
        ),
    )


@draw.register
def _(chart: PanelChart) -> Figure:
    drawing = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    titles(drawing, chart)
    panels = drawing.subplots(1, len(chart.panels), sharex=True)
    for axes, (label, traces) in zip(panels, chart.panels, strict=True):
        for trace in traces:
            colour, line = style.INITS.get(trace.label, (style.GREY, ":"))
            axes.plot(trace.x, trace.y, color=colour, linestyle=line, linewidth=1.8, label=trace.label)
        values = [value for trace in traces for value in trace.y if value > 0]
        if values and max(values) / min(values) > 30:
            axes.set_yscale("log")
            powers_axis(axes.yaxis)
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(textwrap.fill(label, 18), fontsize=8.5, loc="left", color=style.INK)
        axes.set_xlabel(chart.x_label)
        axes.xaxis.set_major_locator(MultipleLocator(max(1, math.ceil(max(x for trace in traces for x in trace.x) / 4))))
    panels[0].legend(loc="center right")  # between slopes near one and slopes near zero
    return drawing

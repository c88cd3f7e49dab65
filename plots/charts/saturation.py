"""Effect of the scale of the weights on slopes and Jacobians with depth."""

from __future__ import annotations

from plots.chart import StudyTables, brief, study_figure
from plots.panels import Panel, PanelsChart, Series, lines_of
from studies import find_study, saturation
from studies.study import where


@study_figure(79, "saturation")
def chart_of(tables: StudyTables) -> PanelsChart:
    rows = tables["saturation"]

    def lines(name: str) -> tuple[Series, ...]:
        return lines_of(rows, lambda row: str(row["init"]), "layer", name, 1e-300)

    last = where(rows, init=saturation.INITS[0])[-1]
    return PanelsChart(
        stem="saturation",
        title=f"Unscaled normal weights saturate: a mean slope of {float(last['mean_slope']):.2g} after {float(last['layer']):g} layers",
        topic="Slopes and Jacobians with depth, by the scale of the weights",
        caption=brief(f"tanh, {float(last['width']):g} wide, float64, at a standard normal x.", find_study("saturation").conclude(tables)),
        panels=(
            Panel("mean slope φ'(z)", "layer", lines("mean_slope")),
            Panel("largest singular value of ∂h/∂x", "layer", lines("largest_singular_value"), logarithmic=True),
            Panel("median singular value of ∂h/∂x", "layer", lines("median_singular_value"), logarithmic=True),
        ),
        columns=3,
    )

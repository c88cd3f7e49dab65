"""The study of first weights: gradients, saturation and Jacobians by layer, and curves of training."""

from __future__ import annotations

from plots.chart import StudyTables, study_figure
from plots.panels import Panel, PanelsChart, Series, lines_of
from studies import find_study

LEAST = 1e-12  # of a logarithmic axis


@study_figure(84, "initialisation")
def chart_of(tables: StudyTables) -> PanelsChart:
    """Make the chart."""
    layers, curves, ends = (tables[f"initialisation{part}"] for part in ("-layers", "-training", ""))

    def lines(name: str, least: float = LEAST) -> tuple[Series, ...]:
        return lines_of(layers, lambda row: str(row["init"]), "layer", name, least)

    best = max(ends, key=lambda row: float(row["test_accuracy"]))
    others = max(float(row["test_accuracy"]) for row in ends if row is not best)
    return PanelsChart(
        stem="initialisation",
        title=f"{best['init']} learns ({float(best['test_accuracy']):.0%} of the tests right); no fixed range gets beyond {others:.0%}",
        topic="First weights of a deep tanh network",
        subtitle="",
        caption=find_study("initialisation").conclude(tables),
        panels=(
            Panel("norm of ∂L/∂W", "layer", "", lines("gradient_norm"), logarithmic=True),
            Panel("share of saturated units, |h| > 0.99", "layer", "", lines("saturated", 0.0)),
            Panel("largest singular value of ∂h/∂x", "layer", "", lines("largest_singular_value"), logarithmic=True),
            Panel("training loss", "step", "", lines_of(curves, lambda row: str(row["init"]), "step", "loss")),
        ),
    )

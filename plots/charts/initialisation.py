"""The study of first weights: gradients, saturation and Jacobians by layer, and curves of training."""

from __future__ import annotations

import math

from plots.chart import StudyTables, study_figure
from plots.panels import Panel, PanelsChart, Series
from studies import find_study
from studies.study import column

LEAST = 1e-12  # of a logarithmic axis


@study_figure(84, "initialisation")
def chart_of(tables: StudyTables) -> PanelsChart:
    """Make the chart.

    Args:
        tables: Of the study.

    Returns:
        The chart.
    """
    layers, curves, ends = (tables[f"initialisation{part}"] for part in ("-layers", "-training", ""))
    inits = [str(row["init"]) for row in ends]

    def lines(name: str) -> tuple[Series, ...]:
        found = []
        for init in inits:
            own = [row for row in layers if row["init"] == init and not math.isnan(float(row[name]))]
            values = column(own, name)
            found.append(
                Series(init, tuple(column(own, "layer")), tuple(values if name == "saturated" else [max(LEAST, v) for v in values]))
            )
        return tuple(found)

    def curve(init: str) -> Series:
        own = [row for row in curves if row["init"] == init]
        return Series(init, tuple(column(own, "step")), tuple(column(own, "loss")))

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
            Panel("share of saturated units, |h| > 0.99", "layer", "", lines("saturated")),
            Panel("largest singular value of ∂h/∂x", "layer", "", lines("largest_singular_value"), logarithmic=True),
            Panel("training loss", "step", "", tuple(map(curve, inits))),
        ),
    )

"""The study of first weights: gradients, saturation and Jacobians by layer, and curves of training beside the published ones."""

from __future__ import annotations

from plots.chart import StudyTables, study_figure
from plots.panels import Panel, PanelsChart, Series, line_of, lines_of
from studies import initialisation, published
from studies.study import where

LEAST = 1e-12  # of a logarithmic axis


@study_figure(84, "initialisation")
def chart_of(tables: StudyTables) -> PanelsChart:
    layers, curves, ends = (tables[f"initialisation{part}"] for part in ("-layers", "-training", ""))
    printed = published.table("initialisation_training")

    def by_layer(name: str, least: float = LEAST) -> tuple[Series, ...]:
        return lines_of(layers, lambda row: str(row["init"]), "layer", name, least)

    def by_update(name: str, theirs: str, unit: float) -> tuple[Series, ...]:
        found = list(lines_of(curves, lambda row: str(row["init"]), "updates", name))
        for init, called in zip(initialisation.INITS, initialisation.PRINTED, strict=True):
            found.append(line_of("published", where(printed, initialisation=called), "updates", theirs, unit=unit, like=init))
        return tuple(found)

    best = max(ends, key=lambda row: float(row["test_accuracy"]))
    others = max(float(row["test_accuracy"]) for row in ends if row is not best)
    return PanelsChart(
        stem="initialisation",
        title=f"{best['init']} learns ({float(best['test_accuracy']):.0%} of the tests right); no fixed range gets beyond {others:.0%}",
        topic="First weights of a deep tanh network",
        caption="Share of right answers by initialisation: on the tests, and before each update of an epoch; the published lines beside.",
        panels=(
            Panel("norm of ∂L/∂W, untrained", "layer", by_layer("gradient_norm"), logarithmic=True),
            Panel("share of saturated units, |h| > 0.99, untrained", "layer", by_layer("saturated", 0.0)),
            Panel("largest singular value of ∂h/∂x, untrained", "layer", by_layer("largest_singular_value"), logarithmic=True),
            Panel("training loss of an epoch", "updates", by_update("train_loss", "train_loss_of_epoch", 1.0)),
            Panel("share right in training", "updates", by_update("train_accuracy", "train_accuracy_percent_of_epoch", 0.01)),
            Panel("share of right tests", "updates", by_update("test_accuracy", "test_accuracy_percent_of_epoch", 0.01)),
        ),
    )

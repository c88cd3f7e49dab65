"""The study of training without autograd: curves beside the published ones at equal numbers of updates, and the time of an epoch."""

from __future__ import annotations

import math

from plots.chart import StudyTables, study_figure
from plots.panels import Panel, PanelsChart, Series
from studies import from_scratch, published
from studies.study import column

SINGLE, BATCHES = "numpy_network_accuracy", "fashion_mnist_training"


def printed(table: str, x: str, y: str, unit: float = 1.0) -> Series:
    """Make a line of a published table."""
    rows = published.table(table)
    return Series("published", tuple(column(rows, x)), tuple(unit * value for value in column(rows, y)))


@study_figure(86, "from-scratch")
def chart_of(tables: StudyTables) -> PanelsChart:
    """Make the chart."""
    rows, seconds = tables["from-scratch"], tables["from-scratch-times"]
    one, _, batched = (recipe.name for recipe in from_scratch.RECIPES)

    def line(network: str, name: str, way: str, label: str) -> Series:
        own = [row for row in rows if (row["network"], row["written"]) == (network, way) and not math.isnan(float(row[name]))]
        return Series(label, tuple(column(own, "updates")), tuple(column(own, name)))

    def single(name: str) -> tuple[Series, ...]:
        sets = {str(row["network"]): str(row["data"]) for row in rows if row["network"] != batched}
        return tuple(line(network, name, "jac", data) for network, data in sets.items())

    def both(name: str) -> tuple[Series, ...]:
        return tuple(line(batched, name, way, f"written with {way}") for way in from_scratch.WAYS)

    times = []
    for way in from_scratch.WAYS:
        own = [row for row in seconds if (row["network"], row["written"]) == (batched, way)]
        times.append(Series(f"written with {way}", tuple(column(own, "epoch")), tuple(column(own, "seconds"))))
    ratios = [from_scratch.times(seconds, network)[1] for network in (one, batched)]
    right = printed(SINGLE, "updates", "test_accuracy_percent", 0.01)
    return PanelsChart(
        stem="from-scratch",
        title=f"Same losses; an epoch by torch takes {ratios[0]:.1f} times as long by single samples, {ratios[1]:.1f} times in batches",
        topic="Training without autograd",
        subtitle="",
        caption="Training without autograd: losses and accuracy on the tests by updates, beside the published lines "
        "where the setting is theirs.",
        panels=(
            Panel(f"{one}: share of right tests", "updates", "", (*single("test_accuracy"), right)),
            Panel(f"{one}: test loss", "updates", "", (*single("test_loss"), printed(SINGLE, "updates", "test_loss"))),
            Panel(
                f"{batched}: training loss",
                "updates",
                "",
                (*both("train_loss"), printed(BATCHES, "updates_after_train", "train_loss_mean")),
            ),
            Panel(f"{batched}: test loss", "updates", "", (*both("test_loss"), printed(BATCHES, "updates_before_test", "test_loss_mean"))),
            Panel(f"{batched}: seconds of an epoch", "epoch", "", tuple(times), logarithmic=True),
        ),
    )

"""The study of training without autograd: curves beside the published ones at equal numbers of updates, and the time of an epoch."""

from __future__ import annotations

from plots.chart import StudyTables, study_figure
from plots.panels import Panel, PanelsChart, Series, line_of, lines_of
from studies import from_scratch, published
from studies.study import where

SINGLE, BATCHES = "numpy_network_accuracy", "fashion_mnist_training"


def printed(table: str, x: str, y: str, unit: float = 1.0) -> Series:
    """Make a line of a published table."""
    return line_of("published", published.table(table), x, y, unit=unit)


@study_figure(86, "from-scratch")
def chart_of(tables: StudyTables) -> PanelsChart:
    rows, seconds = tables["from-scratch"], tables["from-scratch-times"]
    one, _, batched = (recipe.name for recipe in from_scratch.RECIPES)

    def single(name: str) -> tuple[Series, ...]:
        own = [row for row in rows if row["network"] != batched and row["written"] == "jac"]
        return lines_of(own, lambda row: str(row["data"]), "updates", name)

    def both(name: str) -> tuple[Series, ...]:
        return lines_of(where(rows, network=batched), lambda row: f"written with {row['written']}", "updates", name)

    times = lines_of(where(seconds, network=batched), lambda row: f"written with {row['written']}", "epoch", "seconds")
    ratios = [from_scratch.times(seconds, network)[1] for network in (one, batched)]
    right = printed(SINGLE, "updates", "test_accuracy_percent", 0.01)
    trained = printed(BATCHES, "updates_after_train", "train_loss_mean")
    return PanelsChart(
        stem="from-scratch",
        title=f"Same losses; an epoch by torch takes {ratios[0]:.1f} times as long by single samples, {ratios[1]:.1f} times in batches",
        topic="Training without autograd",
        caption="Training without autograd: losses and accuracy on the tests by updates, beside the published lines "
        "where the setting is theirs.",
        panels=(
            Panel(f"{one}: share of right tests", "updates", (*single("test_accuracy"), right)),
            Panel(f"{one}: test loss", "updates", (*single("test_loss"), printed(SINGLE, "updates", "test_loss"))),
            Panel(f"{batched}: training loss", "updates", (*both("train_loss"), trained)),
            Panel(f"{batched}: test loss", "updates", (*both("test_loss"), printed(BATCHES, "updates_before_test", "test_loss_mean"))),
            Panel(f"{batched}: seconds of an epoch", "epoch", times, logarithmic=True),
        ),
    )

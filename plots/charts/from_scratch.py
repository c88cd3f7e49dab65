"""The study of training without autograd: curves beside the published ones, and the time of an epoch."""

from __future__ import annotations

import math

from plots.chart import StudyTables, study_figure
from plots.panels import Panel, PanelsChart, Series
from studies import find_study, from_scratch
from studies.study import column


@study_figure(86, "from-scratch")
def chart_of(tables: StudyTables) -> PanelsChart:
    """Make the chart."""
    rows, seconds = tables["from-scratch"], tables["from-scratch-times"]
    one, batched = (recipe.name for recipe in from_scratch.RECIPES)

    def lines(network: str, name: str) -> tuple[Series, ...]:
        found = []
        for way in from_scratch.WAYS:
            own = [row for row in rows if (row["network"], row["written"]) == (network, way) and not math.isnan(float(row[name]))]
            found.append(Series(f"written with {way}", tuple(column(own, "epoch")), tuple(column(own, name))))
        known = [
            row for row in rows if (row["network"], row["written"]) == (network, "jac") and not math.isnan(float(row[f"published_{name}"]))
        ]
        if known:
            values = tuple(column(known, f"published_{name}"))
            found.append(Series("published", tuple(column(known, "epoch")), (math.nan,) * len(values), values))
        return tuple(found)

    def times(network: str) -> tuple[Series, ...]:
        found = []
        for way in from_scratch.WAYS:
            own = [row for row in seconds if (row["network"], row["written"]) == (network, way)]
            found.append(Series(f"written with {way}", tuple(column(own, "epoch")), tuple(column(own, "seconds"))))
        return tuple(found)

    ratios = [from_scratch.times(seconds, network)[1] for network in (one, batched)]
    return PanelsChart(
        stem="from-scratch",
        title=f"Same losses; an epoch by torch takes {ratios[0]:.1f} times as long by single samples, {ratios[1]:.1f} times in batches",
        topic="Training without autograd",
        subtitle="",
        caption=find_study("from-scratch").conclude(tables),
        panels=(
            Panel(f"{one}: test accuracy", "epoch", "", lines(one, "test_accuracy")),
            Panel(f"{batched}: training loss", "epoch", "", lines(batched, "train_loss")),
            Panel(f"{batched}: test loss", "epoch", "", lines(batched, "test_loss")),
            Panel(f"{batched}: seconds of an epoch", "epoch", "", times(batched)),
        ),
    )

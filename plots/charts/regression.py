"""The study of regression with absolute errors."""

from __future__ import annotations

import math

from plots.chart import StudyTables, study_figure
from plots.panels import Panel, PanelsChart, Series
from studies import find_study
from studies.study import column


@study_figure(85, "regression")
def chart_of(tables: StudyTables) -> PanelsChart:
    """Make the chart."""
    curves, (end,) = tables["regression-curves"], tables["regression"]
    epochs = tuple(column(curves, "epoch"))
    published = float(end["published"])
    lines = [Series(part, epochs, tuple(column(curves, part))) for part in ("train", "validation", "test")]
    constant = float(end["test_of_the_median"])
    lines.append(Series("median of the targets, test", (epochs[0], epochs[-1]), (constant, constant)))
    if not math.isnan(published):
        lines.append(Series("published, test", (float(end["epochs"]),), (math.nan,), (published,)))
    return PanelsChart(
        stem="regression",
        title=f"Absolute errors fall to {float(end['test']) / constant:.0%} of the median's, by gradients equal to autograd's"
        if constant
        else "Targets without spread: the median is right everywhere",
        topic="Regression with one hidden tanh layer",
        subtitle="",
        caption=find_study("regression").conclude(tables),
        panels=(Panel(f"mean absolute error on {end['data']}", "epoch", "", tuple(lines)),),
        columns=1,
    )

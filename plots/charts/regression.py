"""The study of regression: three losses by updates, with the first layer fixed and trained, and the published ones."""

from __future__ import annotations

from plots.chart import StudyTables, study_figure
from plots.panels import Panel, PanelsChart, Series, line_of
from studies import published, regression
from studies.study import column, where

PUBLISHED_ON = "california-housing"
NAMES = {"train_mse": "training", "validation_mse": "validation", "test_mse": "tests"}


@study_figure(85, "regression")
def chart_of(tables: StudyTables) -> PanelsChart:
    """Make the chart: the published lines beside ours where the data are theirs, and in a panel of their own elsewhere."""
    curves, ends, printed = tables["regression-curves"], tables["regression"], published.table("regression_training")
    data, constant = str(ends[0]["data"]), float(ends[0]["test_mse_of_the_mean"])

    def ours(part: str, layer: str) -> Series:
        rows = where(curves, first_layer=layer)
        x = sorted(set(column(rows, "updates")))
        values = [sorted(column(where(rows, updates=at), part)) for at in x]
        middle, low, high = zip(*((v[len(v) // 2], v[0], v[-1]) for v in values), strict=True)
        return Series(f"first layer {layer}", tuple(x), middle, band=(low, high))

    def panel(part: str) -> Panel:
        lines = [ours(part, layer) for layer in regression.LAYERS]
        if data == PUBLISHED_ON:
            lines.append(line_of("published (fixed)", printed, "updates", part))
        elif part == "test_mse":
            lines.append(Series("mean of the targets", (lines[0].x[0], lines[0].x[-1]), (constant, constant)))
        return Panel(f"mean squared error, {NAMES[part]}, {data}", "updates", tuple(lines), logarithmic=True)

    panels = [panel(part) for part in regression.PARTS]
    if data != PUBLISHED_ON:
        lines = tuple(line_of(name, printed, "updates", part) for part, name in NAMES.items())
        panels.append(Panel(f"published, {PUBLISHED_ON}, first layer fixed", "updates", lines, logarithmic=True))
    fixed, trained = (regression.spread(ends, layer)[0] for layer in regression.LAYERS)
    return PanelsChart(
        stem="regression",
        title=f"A first layer that is never trained ends at {fixed / trained:.2g} times the squared error on the tests",
        topic="Regression with one hidden tanh layer",
        caption="Mean squared error by updates, with the first layer fixed, as it was in the published run, and trained; "
        "median and range over seeds, the published lines beside.",
        panels=tuple(panels),
    )

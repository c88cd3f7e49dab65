"""The study of layers: training with and without batch norm."""

from __future__ import annotations

from plots.chart import StudyTables, study_figure
from plots.panels import Panel, PanelsChart, Series
from studies import find_study
from studies.study import column


@study_figure(87, "layers")
def chart_of(tables: StudyTables) -> PanelsChart:
    """Make the chart.

    Args:
        tables: Of the study.

    Returns:
        The chart.
    """
    rows, curves = tables["layers"], tables["layers-training"]
    kinds = list(dict.fromkeys((float(row["hidden"]), str(row["batch_norm"])) for row in curves))

    def lines(name: str) -> tuple[Series, ...]:
        found = []
        for hidden, norms in kinds:
            own = [row for row in curves if (float(row["hidden"]), row["batch_norm"]) == (hidden, norms)]
            label = f"{hidden:g} hidden{', batch norm' if norms == 'with' else ''}"
            found.append(Series(label, tuple(column(own, "epoch")), tuple(column(own, name))))
        return tuple(found)

    worst = max(float(row["difference"]) for row in rows)
    return PanelsChart(
        stem="layers",
        title=f"{len(rows)} values of a training step, forward and back, are torch's within {worst:.0e}",
        topic="Layers by hand, batch norm too",
        subtitle="",
        caption=find_study("layers").conclude(tables),
        panels=(
            Panel("training loss", "epoch", "", lines("train_loss"), logarithmic=True),
            Panel("share of right tests", "epoch", "", lines("test_accuracy")),
        ),
    )

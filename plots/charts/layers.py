"""The study of layers: training with and without batch norm."""

from __future__ import annotations

from plots.chart import StudyTables, study_figure
from plots.panels import Panel, PanelsChart, lines_of
from studies import Row, find_study


@study_figure(87, "layers")
def chart_of(tables: StudyTables) -> PanelsChart:
    """Make the chart."""
    rows, curves = tables["layers"], tables["layers-training"]

    def label(row: Row) -> str:
        return f"{float(row['hidden']):g} hidden{', batch norm' if row['batch_norm'] == 'with' else ''}"

    worst = max(float(row["difference"]) for row in rows)
    return PanelsChart(
        stem="layers",
        title=f"{len(rows)} values of a training step, forward and back, are torch's within {worst:.0e}",
        topic="Layers by hand, batch norm too",
        subtitle="",
        caption=find_study("layers").conclude(tables),
        panels=(
            Panel("training loss", "epoch", "", lines_of(curves, label, "epoch", "train_loss"), logarithmic=True),
            Panel("share of right tests", "epoch", "", lines_of(curves, label, "epoch", "test_accuracy")),
        ),
    )

"""The study of layers: training with and without batch norm."""

from __future__ import annotations

from plots.chart import StudyTables, study_figure
from plots.panels import Panel, PanelsChart, line_of, lines_of
from studies import Row, layers
from studies.study import column


@study_figure(87, "layers")
def chart_of(tables: StudyTables) -> PanelsChart:
    rows, curves = tables["layers"], tables["layers-training"]

    def label(row: Row) -> str:
        return f"{float(row['hidden']):g} hidden{', batch norm' if row['batch_norm'] == 'with' else ''}"

    parts, running = tables["layers-components"], tables["layers-running"]
    forms = {"running_V": "MyTorch: biased", "running_var": "torch: unbiased"}
    running_lines = tuple(line_of(label, running, "step", name) for name, label in forms.items())
    passed = sum(bool(float(row["passed"])) for row in parts)
    worst = max(column(parts, "worst_difference"))
    return PanelsChart(
        stem="layers",
        title=f"{passed} of {len(parts)} components passed: {len(rows)} values of training steps, torch's within {worst:.0e}",
        topic="Layers by hand, batch norm too",
        caption="Training by layers of one's own: loss and share of right answers on the tests by epoch, with and without batch norm; "
        "running variance of both conventions.",
        panels=(
            Panel("training loss", "epoch", lines_of(curves, label, "epoch", "train_loss"), logarithmic=True),
            Panel("share of right tests", "epoch", lines_of(curves, label, "epoch", "test_accuracy")),
            Panel(f"running variance, batches of {layers.SAMPLES} of variance 1", "batch", running_lines),
        ),
    )

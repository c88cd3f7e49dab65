"""The study of training without autograd: the probabilities of three test samples before and after it, beside their pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from plots import style
from plots.axes import WIDTH, titles
from plots.chart import Chart, StudyTables, draw, study_figure
from studies import data, from_scratch, published
from studies.study import Row, column, where


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample: its picture, its class, the probabilities before and after training, and the published ones where there are."""

    picture: np.ndarray
    label: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    published: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ProbabilitiesChart(Chart):
    """Pictures, and bars of the probability of each class."""

    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    epochs: int


def _published(data: str, sample: int) -> tuple[float, ...]:
    rows = [row for row in published.table("fashion_mnist_probabilities") if int(row["test_index"]) == sample]
    return tuple(float(row["probability"]) for row in rows) if data == "fashion-mnist" else ()


def chart_of(tables: StudyTables, network: str, stem: str) -> ProbabilitiesChart:
    rows = where(tables["from-scratch-probabilities"], network=network)
    epochs = max(column(rows, "epoch"))

    def probabilities(sample: float, epoch: float) -> tuple[float, ...]:
        return tuple(column(where(rows, sample=sample, epoch=epoch), "probability"))

    classes = tuple(dict.fromkeys(_name(row["class"]) for row in rows))

    def sample_of(row: Row) -> Sample:
        at = float(row["sample"])
        known = _published(str(row["data"]), int(at))
        return Sample(data.from_hex(row["pixels"]), _name(row["class"]), probabilities(at, 0), probabilities(at, epochs), known)

    samples = tuple(sample_of(row) for row in where(tables["from-scratch-samples"], network=network))
    before = [p for sample in samples for p in sample.before]
    own = [sample.after[classes.index(sample.label)] for sample in samples]
    right = sum(p == max(sample.after) for p, sample in zip(own, samples, strict=True))
    marks = " Diamonds: published, of the same samples." if any(sample.published for sample in samples) else ""
    return ProbabilitiesChart(
        stem=stem,
        title=f"Before training a class has {min(before):.2f} to {max(before):.2f}; after it {right} of {len(samples)} are right, "
        f"the class itself has {min(own):.2f} or more",
        topic=f"Probabilities of {len(classes)} classes for {len(samples)} test samples",
        caption=f"{network}, {rows[0]['data']}. Grey: before training. Colour: after {epochs:g} epochs, green its class.{marks}",
        classes=classes,
        samples=samples,
        epochs=int(epochs),
    )


def _name(label: object) -> str:
    return f"{label:g}" if isinstance(label, float) else str(label)  # digits are read back as numbers


@study_figure(86, "from-scratch")
def batched(tables: StudyTables) -> ProbabilitiesChart:
    """Make the chart of the network trained in batches."""
    return chart_of(tables, from_scratch.RECIPES[-1].name, "from-scratch-probabilities")


@study_figure(86, "from-scratch")
def one_sample(tables: StudyTables) -> ProbabilitiesChart:
    """Make the chart of the network trained by single samples."""
    return chart_of(tables, from_scratch.RECIPES[0].name, "from-scratch-probabilities-one-sample")


@draw.register
def _(chart: ProbabilitiesChart) -> Figure:
    drawing = Figure(figsize=(WIDTH, 1.25 * len(chart.samples) + 1.5), layout="constrained")
    titles(drawing, chart)
    grid = drawing.subplots(len(chart.samples), 2, squeeze=False, width_ratios=(1, 4.2), sharex="col")
    at = np.arange(len(chart.classes))
    for (picture, bars), sample in zip(grid, chart.samples, strict=True):
        picture.imshow(sample.picture, cmap="gray", interpolation="nearest")
        picture.set(xticks=[], yticks=[])
        picture.grid(visible=False)
        picture.set_title(sample.label, fontsize=8.5, color=style.INK)
        bars.bar(at - 0.2, sample.before, 0.4, color=style.GREY)
        colours = [style.GREEN if name == sample.label else style.VERMILION for name in chart.classes]
        bars.bar(at + 0.2, sample.after, 0.4, color=colours)
        if sample.published:
            look = {"linestyle": "", "marker": "D", "markersize": 4, "color": style.INK, "markerfacecolor": style.PAPER}
            bars.plot(at + 0.2, sample.published, clip_on=False, **look)
        bars.set(ylim=(0, 1.05), yticks=[0, 0.5, 1])
        bars.grid(visible=False, axis="x")
        long = max(map(len, chart.classes)) > 2
        bars.set_xticks(at, chart.classes, rotation=35 if long else 0, ha="right" if long else "center")
    return drawing

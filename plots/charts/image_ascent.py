"""The study of images that a classifier takes for a class: the images, and the probability on the way there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from plots import style
from plots.axes import WIDTH, titles
from plots.chart import Chart, StudyTables, draw, study_figure
from plots.panels import Panel, PanelsChart, Series
from studies import data, find_study
from studies.study import column, distinct, where


@dataclass(frozen=True, kw_only=True)
class ImagesChart(Chart):
    """Images in rows, a class each column."""

    classes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[np.ndarray, ...]], ...]  # label, images


@study_figure(88, "image-ascent")
def images(tables: StudyTables) -> ImagesChart:
    """Make the chart of the images."""
    found = tables["image-ascent"]
    classes = distinct(found, "class")
    kinds = list(dict.fromkeys((str(row["network"]), str(row["regulariser"])) for row in found))
    rows = []
    for network, regulariser in kinds:
        own = {str(row["class"]): row for row in where(found, network=network, regulariser=regulariser)}
        rows.append((f"{network},\n{regulariser}", tuple(data.from_hex(own[name]["pixels"]) for name in classes)))
    lowest = min(column(found, "probability"))
    return ImagesChart(
        stem="image-ascent",
        title=f"Ascent along a row of J gives images taken for any class with a probability of {lowest:.2f} or more",
        topic="Images that a classifier takes for a class",
        caption=f"Each image from black to its brightest pixel. {find_study('image-ascent').conclude(tables)}",
        classes=tuple(classes),
        rows=tuple(rows),
    )


@study_figure(88, "image-ascent")
def probabilities(tables: StudyTables) -> PanelsChart:
    """Make the chart of probabilities by step."""
    found = tables["image-ascent-curves"]
    networks, kinds = distinct(found, "network"), distinct(found, "regulariser")

    def line(network: str, kind: str) -> Series:
        own = where(found, network=network, regulariser=kind)
        steps = sorted(set(column(own, "step")))
        lowest = [min(column(where(own, step=step), "probability")) for step in steps]
        return Series(kind, tuple(steps), tuple(lowest))

    half = [next((x for x, y in zip(s.x, s.y, strict=True) if y > 0.5), math.inf) for s in (line(n, k) for n in networks for k in kinds)]
    return PanelsChart(
        stem="image-ascent-probabilities",
        title=f"Every class is the likeliest after {max(half):g} steps at most"
        if max(half) < math.inf
        else "Some class stays below one half with some regulariser",
        topic="Probability of the class during ascent",
        caption="The probability of the class that is climbed for, lowest of all classes.",
        panels=tuple(Panel(network, "step", tuple(line(network, kind) for kind in kinds), "lowest probability") for network in networks),
    )


@draw.register
def _(chart: ImagesChart) -> Figure:
    drawing = Figure(figsize=(WIDTH, 0.72 * len(chart.rows) + 1.7), layout="constrained")
    titles(drawing, chart)
    grid = drawing.subplots(len(chart.rows), len(chart.classes), squeeze=False)
    for panels, (label, shown) in zip(grid, chart.rows, strict=True):
        for axes, image in zip(panels, shown, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=max(1, int(image.max())), interpolation="nearest")
            axes.grid(visible=False)
            axes.set_xticks([])
            axes.set_yticks([])
        panels[0].set_ylabel(label, fontsize=6.5, rotation=0, ha="right", va="center", color=style.INK)
    for axes, name in zip(grid[0], chart.classes, strict=True):
        axes.set_title(name.replace(" ", "\n"), fontsize=6.5, color=style.INK)
    return drawing

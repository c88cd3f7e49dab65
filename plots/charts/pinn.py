"""The study of physics-informed networks: loss curves and times of a step, and the solutions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from plots import style
from plots.axes import WIDTH, powers_axis, titles
from plots.chart import Chart, StudyTables, draw, study_figure
from studies import pinn
from studies.study import column, where

DTYPES = ("float32", "float64")
COLOURS = {"jac": style.VERMILION, "autograd": style.PURPLE}


@dataclass(frozen=True, kw_only=True)
class CurvesChart(Chart):
    """Errors by seconds of training, one panel an equation, and how many times as long a step takes by autograd."""

    curves: tuple[tuple[str, str, tuple[float, ...], tuple[float, ...]], ...]  # equation, way, seconds, errors
    ratios: tuple[tuple[str, str, tuple[float, float, float]], ...]  # equation, dtype, median and quartiles


@dataclass(frozen=True, kw_only=True)
class FieldsChart(Chart):
    """Solutions on a grid, and how far they are from the exact ones."""

    fields: tuple[tuple[str, np.ndarray, np.ndarray, tuple[float, float, float, float]], ...]  # equation, u, |u - u*|, extent


@study_figure(80, "pinn")
def curves(tables: StudyTables) -> CurvesChart:
    """Make the chart of losses and times."""
    equations = [equation.name for equation in pinn.EQUATIONS]
    lines, longer = [], []
    for equation in pinn.EQUATIONS:
        for way in pinn.WAYS:
            seen = [row for row in where(tables["pinn"], equation=equation.name, written=way) if not math.isnan(float(row["error"]))]
            lines.append((equation.name, way, tuple(column(seen, "seconds")), tuple(column(seen, "error"))))
        mine, theirs = (pinn.seconds_to(tables["pinn"], equation, way) for way in pinn.WAYS)
        if max(mine, theirs) < math.inf:
            longer.append(f"{theirs / mine:.1f} times as long to an error of {equation.reached:g} ({equation.name})")
    found = [(name, dtype, pinn.ratios(tables["pinn-times"], name, dtype)) for name in equations for dtype in DTYPES]
    middle = [ratio[0] for _, _, ratio in found]
    step = f"{min(middle):.1f} to {max(middle):.1f} times as long a step"
    differ = ", ".join(f"{name} {pinn.apart(tables['pinn'], name, 'Adam'):.0e}" for name in equations)
    return CurvesChart(
        stem="pinn",
        title=f"Training by autograd takes {' and '.join(longer) or step}",
        topic="Physics-informed networks, Adam then L-BFGS",
        subtitle=f"{'-'.join(map(str, pinn.WIDTHS))}, tanh, {pinn.POINTS} points inside and {pinn.EDGE} on the edge; curves in float64",
        caption=f"Largest relative difference of the two losses over the steps of Adam: {differ}. Times are of blocks of steps "
        "taken in turn, with quartiles.",
        curves=tuple(lines),
        ratios=tuple(found),
    )


@study_figure(80, "pinn")
def fields(tables: StudyTables) -> FieldsChart:
    """Make the chart of solutions."""
    shown, errors = [], []
    for equation in pinn.EQUATIONS:
        rows = where(tables["pinn-fields"], equation=equation.name)
        u, exact = (np.array(column(rows, name)).reshape(pinn.GRID, pinn.GRID) for name in ("u", "exact"))
        (x0, y0), (x1, y1) = equation.low, equation.high
        shown.append((equation.name, u, np.abs(u - exact), (x0, x1, y0, y1)))
        errors.append(f"{equation.name} {np.linalg.norm(u - exact) / np.linalg.norm(exact):.1e}")
    return FieldsChart(
        stem="pinn-solutions",
        title=f"Relative errors of the solutions: {', '.join(errors)}",
        topic="Solutions of the networks, and their distance from the exact ones",
        caption="Poisson's equation on a square; Burgers' equation with ν = 0.01/π, time upwards, whose solution steepens to a front at "
        "x = 0.",
        fields=tuple(shown),
    )


@draw.register
def _(chart: CurvesChart) -> Figure:
    drawing = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    titles(drawing, chart)
    names = list(dict.fromkeys(name for name, *_ in chart.curves))
    panels = drawing.subplots(1, len(names) + 1, width_ratios=[1] * len(names) + [0.8])
    for axes, name in zip(panels, names, strict=False):
        for equation, way, seconds, errors in chart.curves:
            if equation == name:
                axes.plot(seconds, errors, color=COLOURS[way], linestyle="-" if way == "jac" else (0, (4, 3)), label=f"written with {way}")
        axes.set_yscale("log")
        powers_axis(axes.yaxis)
        axes.set_title(name, fontsize=8.5, loc="left")
        axes.set_xlabel("seconds of training")
    panels[0].set_ylabel("relative error")
    panels[0].legend(loc="upper right")
    bars = panels[-1]
    for place, (_, _, (middle, low, high)) in enumerate(chart.ratios):
        colour = style.BLUE if place % 2 else style.SKY
        bars.bar(place, middle, color=colour, yerr=[[max(0.0, middle - low)], [max(0.0, high - middle)]], ecolor=style.INK, capsize=2)
        bars.annotate(f"{middle:.1f}", (place, middle), (2, 3), textcoords="offset points", fontsize=8, color=style.INK)
    bars.axhline(1.0, color=style.INK, linewidth=1.0)
    bars.set_xticks(range(len(chart.ratios)), [f"{name}\n{dtype}" for name, dtype, _ in chart.ratios], rotation=60, fontsize=7.5)
    bars.set_title("time of a step,\nautograd / jac", fontsize=8.5, loc="left")
    return drawing


@draw.register
def _(chart: FieldsChart) -> Figure:
    drawing = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    titles(drawing, chart)
    panels = drawing.subplots(len(chart.fields), 2)
    for row, (name, u, error, extent) in zip(panels, chart.fields, strict=True):
        for axes, values, label, colours in zip(row, (u, error), ("u", "|u - exact|"), ("RdBu_r", "viridis"), strict=True):
            image = axes.imshow(values.T, origin="lower", extent=extent, aspect="auto", cmap=colours, interpolation="nearest")
            axes.set_title(f"{name}: {label}", fontsize=8.5, loc="left")
            axes.grid(visible=False)
            drawing.colorbar(image, ax=axes, shrink=0.9)
    return drawing

"""The study of gradient descent on least squares."""

from __future__ import annotations

from plots.chart import StudyTables, brief, study_figure
from plots.panels import Panel, PanelsChart, Series
from studies import find_study, least_squares
from studies.study import column, where


@study_figure(82, "least-squares")
def chart_of(tables: StudyTables) -> PanelsChart:
    rows, curves = tables["least-squares"], tables["least-squares-curves"]

    def line(label: str, loss: str, share: float) -> Series:
        own = [row for row in where(curves, loss=loss, share=share) if float(row["distance"]) < 1e6]
        return Series(label, tuple(column(own, "step")), tuple(max(1e-16, d) for d in column(own, "distance")))

    shares = [float(row["share"]) for row in rows]
    squares = tuple(line(f"α = {share:g} · 2/λ", "squares", share) for share in shares)
    falling = tuple(line(rule, f"absolute values, {rule}", 0.0) for rule in least_squares.FALLING)
    worst = max(column(rows, "worst_difference"))
    nearer = [share for share, row in zip(shares, rows, strict=True) if float(row["converges"])]
    return PanelsChart(
        stem="least-squares",
        title=f"Gradient descent converges up to {max(nearer):g} of 2/λ_max, by iterates known in closed form within {worst:.0e}",
        topic="Distance from the solution, of least squares and of least absolute deviations",
        caption=brief(
            find_study("least-squares").conclude(tables),
            "Absolute values have another solution than squares: that of a linear program.",
        ),
        panels=(
            Panel("squares", "step", squares, "distance", logarithmic=True),
            Panel("absolute values, by rule of the steps", "step", falling, "distance from the optimum", logarithmic=True),
        ),
    )

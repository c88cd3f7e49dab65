"""The study of the Jacobian's singular values against depth."""

from __future__ import annotations

from plots.chart import StudyTables, brief, study_figure
from plots.panels import Panel, PanelsChart, Series, line_of
from studies import find_study
from studies.study import column, distinct, where

FLOOR = 1e-6  # of the largest singular value: below, rounding in float32


@study_figure(83, "isometry")
def chart_of(tables: StudyTables) -> PanelsChart:
    rows, spectra = tables["isometry"], tables["isometry-spectra"]
    gains = sorted({float(row["gain"]) for row in rows})
    kinds = distinct(rows, "weights")

    def means(weights: str) -> tuple[Series, ...]:
        return tuple(
            line_of(f"χ = {gain:g}", where(rows, weights=weights, gain=gain), "depth", "mean_predicted", points="mean") for gain in gains
        )

    def variance(weights: str) -> Series:
        own = where(rows, weights=weights, gain=1)
        return line_of(weights, own, "depth", "relative_variance_predicted", points="relative_variance")

    def spectrum(weights: str, depth: float) -> Series:
        own = where(spectra, weights=weights, depth=depth)
        least = FLOOR * max(column(own, "singular_value"))
        own = [row for row in own if float(row["singular_value"]) > least]
        return line_of(f"{weights}, {depth:.0f}", own, "share", "singular_value")

    depths = sorted({float(row["depth"]) for row in spectra})[1:]  # few layers are alike
    singular = tuple(spectrum(kind, depth) for kind in kinds for depth in depths)
    deepest = max(column(rows, "depth"))
    worst = max(abs(float(row["relative_variance"]) / float(row["relative_variance_predicted"]) - 1) for row in rows)
    return PanelsChart(
        stem="isometry",
        title=f"The spread of J's singular values follows mean field theory within {worst:.0%}, up to {deepest:.0f} layers",
        topic="Singular values of the Jacobian of deep tanh networks",
        subtitle="Lines: mean field theory. Points: measured, the mean of the networks drawn.",
        caption=brief("Lines: theory for infinite width. Points: measured.", find_study("isometry").conclude(tables)),
        panels=(
            *(Panel(f"mean square, {kind} weights", "layers", means(kind), logarithmic=True) for kind in kinds),
            Panel("variance / mean² of the squared values, χ = 1", "layers", tuple(map(variance, kinds)), logarithmic=True),
            Panel("singular values of one network, χ = 1, by layers", "share of larger ones", singular, logarithmic=True),
        ),
    )

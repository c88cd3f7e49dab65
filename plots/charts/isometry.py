"""The study of the Jacobian's singular values against depth."""

from __future__ import annotations

from plots.chart import StudyTables, brief, study_figure
from plots.panels import Panel, PanelsChart, Series
from studies import find_study
from studies.study import column

FLOOR = 1e-6  # of the largest singular value: below, rounding in float32


@study_figure(83, "isometry")
def chart_of(tables: StudyTables) -> PanelsChart:
    """Make the chart."""
    rows, spectra = tables["isometry"], tables["isometry-spectra"]
    gains = sorted({float(row["gain"]) for row in rows})
    kinds = list(dict.fromkeys(str(row["weights"]) for row in rows))

    def means(weights: str) -> tuple[Series, ...]:
        lines: list[Series] = []
        for gain in gains:
            own = [row for row in rows if row["weights"] == weights and float(row["gain"]) == gain]
            depth = tuple(column(own, "depth"))
            lines.append(Series(f"χ = {gain:g}", depth, tuple(column(own, "mean_predicted")), tuple(column(own, "mean"))))
        return tuple(lines)

    def variance(weights: str) -> Series:
        own = [row for row in rows if row["weights"] == weights and float(row["gain"]) == 1]
        predicted, measured = tuple(column(own, "relative_variance_predicted")), tuple(column(own, "relative_variance"))
        return Series(weights, tuple(column(own, "depth")), predicted, measured)

    def spectrum(weights: str, depth: float) -> Series:
        own = [row for row in spectra if row["weights"] == weights and float(row["depth"]) == depth]
        least = FLOOR * max(column(own, "singular_value"))
        own = [row for row in own if float(row["singular_value"]) > least]
        return Series(f"{weights}, {depth:.0f}", tuple(column(own, "share")), tuple(column(own, "singular_value")))

    depths = sorted({float(row["depth"]) for row in spectra})[1:]  # few layers are alike
    deepest = max(column(rows, "depth"))
    worst = max(abs(float(row["relative_variance"]) / float(row["relative_variance_predicted"]) - 1) for row in rows)
    return PanelsChart(
        stem="isometry",
        title=f"The spread of J's singular values follows mean field theory within {worst:.0%}, up to {deepest:.0f} layers",
        topic="Singular values of the Jacobian of deep tanh networks",
        subtitle="Lines: mean field theory. Points: measured, the mean of the networks drawn.",
        caption=brief("Lines: theory for infinite width. Points: measured.", find_study("isometry").conclude(tables)),
        panels=(
            *(Panel(f"mean square, {kind} weights", "layers", "", means(kind), logarithmic=True) for kind in kinds),
            Panel("variance / mean² of the squared values, χ = 1", "layers", "", tuple(map(variance, kinds)), logarithmic=True),
            Panel(
                "singular values of one network, χ = 1, by layers",
                "share of larger ones",
                "",
                tuple(spectrum(kind, depth) for kind in kinds for depth in depths),
                logarithmic=True,
            ),
        ),
    )

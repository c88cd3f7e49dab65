"""The study of the Jacobian's singular values against depth."""

from __future__ import annotations

from collections.abc import Iterator

from plots.chart import Exhibit, Results, figure
from plots.panels import Panel, PanelsChart, Series
from studies import find_study, read
from studies.study import Row, column

FLOOR = 1e-6  # of the largest singular value: below, rounding in float32


@figure(83, each_device=False)
def isometry_figure(results: Results) -> Iterator[Exhibit]:
    """Make the chart of a machine's study, where it has one."""
    tables = read(find_study("isometry"), results.files[0].path.parent / "studies") if results.files else None
    if tables:
        yield Exhibit("Studies", chart_of(tables))


def chart_of(tables: dict[str, list[Row]]) -> PanelsChart:
    """Make the chart.

    Args:
        tables: Of the study.

    Returns:
        The chart.
    """
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
        return Series(f"{weights}, {depth:.0f} layers", tuple(column(own, "share")), tuple(column(own, "singular_value")))

    depths = sorted({float(row["depth"]) for row in spectra})
    worst = max(abs(float(row["mean"]) / float(row["mean_predicted"]) - 1) for row in rows)
    return PanelsChart(
        stem="isometry",
        title=f"The mean squared singular value of J is χ^depth within {worst:.0%}",
        topic="Singular values of the Jacobian of deep tanh networks",
        subtitle="Lines: mean field theory. Points: measured, the mean of the networks drawn.",
        caption=find_study("isometry").conclude(tables),
        panels=(
            *(Panel(f"mean squared singular value, {kind} weights", "layers", "", means(kind), logarithmic=True) for kind in kinds),
            Panel("variance / mean² of the squared values, χ = 1", "layers", "", tuple(map(variance, kinds)), logarithmic=True),
            Panel(
                "singular values of one network, χ = 1",
                "share of larger ones",
                "",
                tuple(spectrum(kind, depth) for kind in kinds for depth in depths),
                logarithmic=True,
            ),
        ),
    )

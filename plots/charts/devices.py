"""Devices beside each other: the best hand-written method on each, over the size that alone varies in a sweep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.analysis.tables import place
from benchmarks.records.problems import fastest, is_ours
from benchmarks.records.rows import Row
from plots.chart import Exhibit, Results, figure
from plots.charts.lines import LineChart
from plots.families import VARIABLES, families, hardware, make_trace, numbered, point


@figure(70, each_device=False)
def devices(results: Results) -> Iterator[Exhibit]:
    """Make a chart of each sweep that was measured on several devices, or with several numbers of threads."""
    for file in results.files:
        rows = results.rows(file.name)
        if len({place(row) for row in rows}) > 1:
            for chart in charts(rows, f"devices-{file.name}"):
                yield Exhibit("Devices", chart, (file.name,))


def charts(rows: Sequence[Row], stem: str) -> list[LineChart]:
    """Chart the devices of one sweep, best against best, whatever the methods."""
    found: list[LineChart] = []
    for variable, label in VARIABLES.items():
        alike = [row.model_copy(update={"threads": None}) for row in rows]  # what is compared must not tell families apart
        where = {id(copy): place(row) for copy, row in zip(alike, rows, strict=True)}
        for family in families(alike, variable):
            best: dict[str, dict[int, Row]] = {}
            for row in family:
                if is_ours(row):
                    here = best.setdefault(where[id(row)], {})
                    x = getattr(row, variable)
                    here[x] = fastest([row, here[x]]) or row if x in here else row
            if len(best) < 2:
                continue
            found.append(
                LineChart(
                    stem=numbered(stem, len(found)),
                    title=_finding(best, variable),
                    topic=f"Jacobian time of the best hand-written method against {label}, by device",
                    subtitle=hardware([next(iter(points.values())) for points in best.values()]),
                    caption=_launch(family, variable),
                    x_label=label,
                    traces=tuple(
                        make_trace(f"device:{number}", name, [point(x, row) for x, row in points.items()])
                        for number, (name, points) in enumerate(best.items())
                    ),
                )
            )
    return found


def _finding(best: dict[str, dict[int, Row]], variable: str) -> str:
    (first, base), (second, other), *_ = best.items()
    wins = [x for x in sorted(base.keys() & other.keys()) if other[x].median < base[x].median]
    if not wins:
        return f"{second} is never faster than {first} here"
    return f"{second} is faster than {first} from {variable} = {wins[0]} on"


def _launch(rows: Sequence[Row], variable: str) -> str:
    launch = sorted(row.median - row.device_median_s for row in rows if row.median_s and row.device_median_s)
    return f"Launching takes {launch[len(launch) // 2] * 1e6:.0f} µs of a call on the accelerator, in the median." if launch else ""

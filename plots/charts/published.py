"""The course notebook's published times beside ours."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.errors import BadInput
from benchmarks.records.csv_file import RESULTS
from benchmarks.records.problems import best_by_mode
from benchmarks.records.rows import Row
from plots import style
from plots.axes import canvas, clip, legend, time_axis
from plots.chart import Chart, Exhibit, Results, Trace, draw, figure
from plots.families import families, make_trace, subtitle_of

PUBLISHED = RESULTS / "published" / "notebook_times.csv"


@dataclass(frozen=True, kw_only=True)
class BesideChart(Chart):
    """Times at a few depths, one mark per series, the marks of a depth beside each other; x is the index of the depth."""

    depths: tuple[int, ...]
    traces: tuple[Trace, ...]


@figure(80)
def notebook(results: Results) -> Iterator[Exhibit]:
    """Make the chart of the notebook's shapes."""
    chart = chart_of(results.rows("notebook"), results.stem("notebook-times"), PUBLISHED)
    if chart:
        yield Exhibit("The course notebook", chart, ("notebook",))


def chart_of(rows: Sequence[Row], stem: str, published: Path) -> BesideChart | None:
    """Set published times beside ours, over depth."""
    family = next(iter(families(rows, "L")), None)
    if family is None or not published.exists():
        return None
    depths = sorted({row.L for row in family})
    sizes = {(row.D, row.K, row.P) for row in family}
    points: dict[tuple[str, str], list[tuple[float, float, float, float]]] = {}
    for record in _read(published):
        if (int(record["D"]), int(record["K"]), int(record["P"])) in sizes and int(record["L"]) in depths:
            y = float(record["seconds"]) / float(record["jacobians"])
            key = (f"{record['mode']}:published-{record['device']}", f"{record['mode']}, published, {record['device']}")
            points.setdefault(key, []).append((depths.index(int(record["L"])), y, y, y))
    if not points:
        return None
    gains: list[float] = []
    for index, L in enumerate(depths):
        here = [row for row in family if row.L == L]
        naive = {row.mode: row for name in ("dense", "notebook") for row in here if row.implementation == name}
        for mode, row in best_by_mode(here).items():
            if mode in ("forward", "reverse"):
                points.setdefault((f"{mode}:native", f"{mode}, hand-written"), []).append((index, row.median, row.median, row.median))
                if mode in naive:
                    gains.append(naive[mode].median / row.median)
    span = f"{min(gains):.2g} to {max(gains):.2g} times" if gains else "not compared"
    return BesideChart(
        stem=stem,
        title=f"Hand-written modes are {span} as fast as the notebook's method on the same machine" if gains else "",
        topic="Time of one Jacobian on the course notebook's shapes",
        subtitle=subtitle_of(family, "L"),
        caption="Published times are on unnamed hardware; its GPU was not synchronised, so those are lower bounds.",
        depths=tuple(depths),
        traces=tuple(make_trace(method, label, points[method, label]) for method, label in sorted(points)),
    )


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            records = list(csv.DictReader(file))
        for record in records:
            _ = [float(record["seconds"]) / float(record["jacobians"]), *(int(record[name]) for name in "LDKP")]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: not a table of published times ({error}); see results/README.md") from None
    return records


@draw.register
def _(chart: BesideChart) -> Figure:
    drawing, axes = canvas(chart, height=4.2)
    step = 0.8 / len(chart.traces)
    for number, trace in enumerate(chart.traces):
        look = style.of_trace(trace.method)
        x = [position - 0.4 + (number + 0.5) * step for position in trace.x]
        axes.bar(x, trace.y, width=0.9 * step, color=look.colour, alpha=0.9 if trace.method.endswith("native") else 0.45, label=trace.label)
    axes.set_yscale("log")
    clip(lambda low, high: axes.set_ylim(low, high), [y for trace in chart.traces for y in trace.y])
    axes.set_xticks(range(len(chart.depths)), [f"L = {depth}" for depth in chart.depths])
    time_axis(axes.yaxis, "time of one Jacobian", axes.set_ylabel)
    legend(drawing, axes)
    return drawing

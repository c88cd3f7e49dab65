"""Somebody else's published times beside ours."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.errors import BadInput
from benchmarks.records.rows import Row, ok_rows
from plots.data import LineChart
from plots.traces import VARIABLES, families, make_trace, subtitle_of, traces_of


def published_charts(rows: Sequence[Row], stem: str, published: Path) -> list[LineChart]:
    """Set published times beside ours, over depth.

    Args:
        rows: Rows of our own measurement.
        stem: File name of the figure.
        published: CSV of published times.

    Returns:
        One chart, or none where our rows do not vary in depth at the published sizes.

    Raises:
        BadInput: The CSV is not a table of published times.
    """
    rows = ok_rows(rows)
    family = next(iter(families(rows, "L")), None)
    if family is None:
        return []
    sizes = {(row.D, row.K, row.P) for row in family}
    by_name: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for record in _read_published(published):
        if (int(record["D"]), int(record["K"]), int(record["P"])) in sizes:
            point = (float(record["L"]), float(record["seconds"]) / float(record["jacobians"]))
            by_name.setdefault((f"{record['mode']}:{record['implementation']}", f"published, {record['device']}"), []).append(point)
    theirs = [make_trace(method, [(x, y, y, y) for x, y in points], note) for (method, note), points in by_name.items()]
    ours = [row for row in family if row.implementation in {"dense", "eager", "native"}]
    traces = [*traces_of(ours, lambda row: row.L), *theirs]
    caption = "Published times are per Jacobian, on unnamed hardware; its GPU was not synchronised, so those points are lower bounds."
    title = "The course notebook's times beside ours"
    return [LineChart(stem, title, subtitle_of(family, "L"), VARIABLES["L"], tuple(traces), (), caption)]


def _read_published(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            records = list(csv.DictReader(file))
        for record in records:
            _ = [float(record["seconds"]) / float(record["jacobians"]), *(int(record[name]) for name in "LDKP")]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: not a table of published times ({error}); see results/README.md") from None
    return records

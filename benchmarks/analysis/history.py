"""The same machine over time: what changed beyond noise from one result to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.analysis.compare import Comparison, compare
from benchmarks.analysis.tables import Table, duration
from benchmarks.errors import BadInput
from benchmarks.records.problems import title
from benchmarks.records.rows import Row, ok_rows


@dataclass(frozen=True, slots=True)
class Change:
    """A method on a problem that became faster or slower between two results."""

    before: Path
    after: Path
    comparison: Comparison  # both rows, their ratio and the verdict


@dataclass(frozen=True, slots=True)
class History:
    """Results of one machine in the order they were measured."""

    results: tuple[tuple[Path, str, str, int], ...]  # path, start of the first case, commit and number of valid rows of each
    compared: int  # pairs of rows compared between neighbours
    changes: tuple[Change, ...]  # those that differ beyond noise, the largest first


def history(results: Sequence[tuple[Path, Sequence[Row]]], *, force: bool = False) -> History:
    """Follow the cases of one machine over several results."""
    started = ((min(row.started_at or "" for row in good), path, rows) for path, rows in results if (good := ok_rows(rows)))
    dated = sorted(started, key=lambda item: item[:2])
    if len(dated) < 2:
        raise BadInput(f"a history needs at least two results with measured cases, got {len(dated)}; name more result CSVs")
    machines = sorted({row.machine for _, _, rows in dated for row in rows})
    if len(machines) > 1 and not force:
        raise BadInput(f"the results are of several machines: {', '.join(machines)}; use `compare` for two devices, or give --force")
    changes: list[Change] = []
    compared = 0
    for (_, before, earlier), (_, after, later) in pairwise(dated):
        found = compare(earlier, later, force=force)
        compared += len(found)
        changes += [Change(before, after, c) for c in found if c.verdict in {"faster", "slower"}]
    changes.sort(key=lambda change: -max(change.comparison.ratio.value, 1 / change.comparison.ratio.value))
    facts = tuple((path, started, str(ok_rows(rows)[0].commit), len(ok_rows(rows))) for started, path, rows in dated)
    return History(facts, compared, tuple(changes))


def table(found: History) -> Table:
    rows: list[list[str]] = []
    for change in found.changes:
        both, c = (change.before, change.after), change.comparison
        files = [path.name if both[0].name != both[1].name else str(path) for path in both]
        rows.append([*files, title(c.base), c.method, duration(c.base.median_s), duration(c.other.median_s), str(c.ratio), c.verdict])
    return ["from", "to", "problem", "method", "before", "after", "after / before", "verdict"], rows


def summary(found: History) -> list[str]:
    """Say in a few lines what was compared."""
    faster = sum(change.comparison.verdict == "faster" for change in found.changes)
    lines = [f"{started}  commit {commit}  {count} measured cases  {path}" for path, started, commit, count in found.results]
    return [*lines, f"{found.compared} comparisons: {faster} faster, {len(found.changes) - faster} slower, the others within noise"]

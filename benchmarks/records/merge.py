"""Journals of many tasks as one result per machine. Memory does not grow with the rows: they are sorted in a database on the disk.

Of two rows of a case the better-founded is kept: one that is `ok`; then one of the run that has more `ok` rows of its problem, because
ratios hold within a run; then the one with more rounds; then the later one. Merging again gives the same.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from benchmarks.errors import BadInput
from benchmarks.records.journal import record_of
from benchmarks.records.rows import SCHEMA, Row, describe

_TABLE = """
CREATE TABLE found (machine TEXT, sweep TEXT, problem TEXT, case_key TEXT, run TEXT, ok INTEGER, rounds INTEGER, started TEXT,
                    shared INTEGER, source INTEGER, place INTEGER);
"""
_BEST = """
WITH counted AS (
  SELECT *, SUM(ok) OVER (PARTITION BY problem, run) AS of_run FROM found WHERE machine = ? AND sweep = ?
), ranked AS (
  SELECT *, ROW_NUMBER() OVER (PARTITION BY case_key ORDER BY ok DESC, of_run DESC, rounds DESC, started DESC, source, place) AS best
  FROM counted
)
SELECT source, place, shared FROM ranked WHERE best = 1 ORDER BY problem, case_key;
"""


@dataclass(frozen=True)
class Journal:
    """A journal to be merged, and whether its node may have had other work."""

    path: Path
    shared: bool = False


class Merger:
    """Collects journals, then gives the rows of each machine and sweep."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="jacobians-merge-")
        self._database = sqlite3.connect(Path(self._directory.name, "rows.db"))
        self._database.executescript(
            f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8000; PRAGMA temp_store=FILE; {_TABLE}"
        )
        self._sources: list[Journal] = []

    def __enter__(self) -> Merger:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        self._directory.cleanup()

    def add(self, journals: Sequence[Journal]) -> None:
        """Read journals. Lines that are not whole are passed over."""
        for journal in journals:
            if journal.path.exists():
                self._sources.append(journal)
                self._database.executemany("INSERT INTO found VALUES (?,?,?,?,?,?,?,?,?,?,?)", self._facts(journal, len(self._sources) - 1))
        self._database.commit()

    def _facts(self, journal: Journal, source: int) -> Iterator[tuple[object, ...]]:
        for place, row in _rows_of(journal.path):
            problem = row.case.removesuffix(f"/{row.method}")
            ok, run = row.status == "ok", f"{row.run} {source}"
            yield (row.machine, row.sweep, problem, row.case, run, ok, row.rounds or 0, row.started_at or "", journal.shared, source, place)

    def results(self) -> list[tuple[str, str]]:
        """Return the machines and sweeps that there are rows of."""
        return list(self._database.execute("SELECT DISTINCT machine, sweep FROM found ORDER BY machine, sweep"))

    def rows(self, machine: str, sweep: str) -> Iterator[Row]:
        """Go over the best row of each case."""
        files = {}
        with ExitStack() as stack:
            for source, place, shared in self._database.execute(_BEST, (machine, sweep)):
                if source not in files:
                    files[source] = stack.enter_context(self._sources[source].path.open("rb"))
                files[source].seek(place)
                record = record_of(files[source].readline())
                assert record is not None  # it was whole when it was counted
                row = Row.model_validate(record["row"])
                if shared and row.status == "ok":
                    row = row.model_copy(update={"flags": " ".join(sorted({*(row.flags or "").split(), "shared"}))})
                yield row


def _rows_of(path: Path) -> Iterator[tuple[int, Row]]:
    """Read a journal line by line: where each begins, and its row."""
    with path.open("rb") as file:
        place = 0
        for number, line in enumerate(file, 1):
            record = record_of(line)
            if record is not None:  # what is not whole is run again by --resume
                schema = record["row"].get("schema")
                if schema != SCHEMA:
                    raise BadInput(f"{path}, line {number}: schema {schema}, the others have {SCHEMA}; merge runs of one version")
                try:
                    yield place, Row.model_validate(record["row"])
                except ValidationError as error:
                    raise BadInput(f"{path}, line {number}: {describe(error)}; move the journal away") from None
            place += len(line)

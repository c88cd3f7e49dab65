"""Storage: an append-only journal that survives a kill, and the CSV derived from it."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from benchmarks.errors import BadInput
from benchmarks.rows import COLUMNS, SCHEMA, Row, describe, from_cells, to_cells

RESULTS = Path(__file__).resolve().parents[1] / "results"
# This schema, and the earlier ones: each began with the columns of the one before.
_KNOWN_HEADERS = (COLUMNS, COLUMNS[: COLUMNS.index("device_median_s") + 1], COLUMNS[: COLUMNS.index("started_at") + 1])
Blocks = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal: a row and its raw samples, seconds per call, block by block."""

    row: Row
    samples: Blocks = ()


class Journal:
    """An append-only file of JSON lines. A line counts once it is complete and on disk.

    Args:
        path: The file; created if missing. A torn last line, left by a kill, is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _cut_torn_line(path)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def append(self, row: Row, samples: Sequence[Sequence[float]] = ()) -> None:
        """Write an entry and wait until it is on disk.

        Args:
            row: The row.
            samples: Raw samples, seconds per call, block by block.

        Raises:
            OSError: The disk is full, say; the journal is then as it was before.
        """
        record = {"row": row.model_dump(by_alias=True), "samples": [[float(f"{s:.6g}") for s in block] for block in samples]}
        size = self.path.stat().st_size
        try:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            os.truncate(self.path, size)  # no half line stays behind
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_journal(path: Path) -> tuple[dict[str, Entry], int]:
    """Read the finished entries of a journal, the last one of each case.

    Args:
        path: The journal; a missing file has no entries.

    Returns:
        Entries by case key, and the number of torn lines dropped from the end (0 or 1).

    Raises:
        BadInput: A line other than the last is not a valid entry.
    """
    if not path.exists():
        return {}, 0
    entries: dict[str, Entry] = {}
    raw = path.read_bytes()
    lines = raw.split(b"\n")
    torn = int(lines.pop() != b"")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            row = Row.model_validate(record["row"])
            entries[row.case] = Entry(row, tuple(tuple(block) for block in record["samples"]))
        except ValidationError as error:
            raise BadInput(f"{path}, line {number}: {describe(error)}; move the journal away and run again") from None
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path}, line {number}: not a journal entry ({error}); move the journal away and run again") from None
    return entries, torn


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write rows as CSV, atomically: a reader sees the old file or the new one, never a part.

    Args:
        rows: The rows.
        path: The target.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(to_cells(row) for row in rows)
    write_atomically(path, text.getvalue())


def write_atomically(path: Path, text: str) -> None:
    """Write beside, flush to disk, rename.

    Args:
        path: The target.
        text: Its whole content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_csv(path: Path) -> list[Row]:
    """Read and validate a result file.

    Args:
        path: A CSV written by `write_csv`.

    Returns:
        Its rows.

    Raises:
        BadInput: The file is missing, is not such a CSV, has a newer schema, a bad cell or a repeated case.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; see `bench.py list results`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as text ({error.__class__.__name__}); expected a result CSV") from None
    table = [line for line in csv.reader(io.StringIO(text)) if line] if "\0" not in text else []
    if not table:
        raise BadInput(f"{path}: empty or not a CSV; expected a result file with the columns {', '.join(COLUMNS[:4])}, …")
    header, *body = table
    if body and "schema" in header and _newer(body[0], header):
        raise BadInput(
            f"{path}: schema {body[0][header.index('schema')]} is newer than {SCHEMA}, which this version reads; update the project"
        )
    if tuple(header) not in _KNOWN_HEADERS:
        unknown = [f"unknown {name!r}" for name in header if name not in COLUMNS]
        missing = [f"missing {name!r}" for name in COLUMNS if name not in header]
        wrong = [*unknown, *missing] or ["their order"]
        raise BadInput(f"{path}: columns differ from schema {SCHEMA}: {', '.join(wrong[:5])}; see results/README.md")
    rows: list[Row] = []
    seen: set[str] = set()
    for number, cells in enumerate(body, start=2):
        where = f"{path}, line {number}"
        if len(cells) != len(header):
            raise BadInput(f"{where}: {len(cells)} cells, expected {len(header)}; the file is truncated or was edited")
        row = from_cells(dict(zip(header, cells, strict=True)), where)
        if row.case in seen:
            raise BadInput(f"{where}: case {row.case!r} occurs twice; remove one of the rows")
        seen.add(row.case)
        rows.append(row)
    return rows


def result_files() -> list[Path]:
    """Find the result files of this project: `results/<machine>/<sweep>.csv`.

    Returns:
        Their paths, sorted.
    """
    return sorted(path for path in RESULTS.glob("*/*.csv") if path.parent.name != "published")


class Lock:
    """An exclusive lock on an output directory's sweep, released by the system when its process dies.

    Args:
        path: The lock file.

    Raises:
        BadInput: Another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise BadInput(
                f"{path.parent}: another run is writing {path.stem.lstrip('.')} here; wait for it, or give another --out"
            ) from None

    def release(self) -> None:
        """Let the next run in."""
        self._file.close()


def _newer(cells: list[str], header: list[str]) -> bool:
    version = cells[header.index("schema")] if len(cells) > header.index("schema") else ""
    return version.isdigit() and int(version) > SCHEMA


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) != len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))

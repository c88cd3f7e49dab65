"""The CSV of a result: written atomically, read with every cell validated."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TextIO

from benchmarks.errors import BadInput
from benchmarks.records.rows import COLUMNS, LAST_COLUMN, SCHEMA, Row, from_cells, to_cells

OWN_RESULTS = Path("build") / "results"  # below the current directory: where runs write by default; nothing committed is overwritten
RESULTS = Path(__file__).resolve().parents[2] / "results"
# Of this schema and the earlier ones: each began with the columns of the one before.
_KNOWN_HEADERS = tuple(COLUMNS[: COLUMNS.index(name) + 1] for name in LAST_COLUMN.values())


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write rows as CSV, atomically and without holding them: a reader sees the old file or the new one, never a part."""
    with _written(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(to_cells(row) for row in rows)


def check_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse to write over what is no regular file, or over an input."""
    if path.exists() and not path.is_file():
        raise BadInput(f"{path}: is no regular file; give another name with --out")
    if path.resolve() in {one.resolve() for one in inputs}:
        raise BadInput(f"{path}: is one of the results to be read; give another name with --out")


def write_atomically(path: Path, text: str) -> None:
    """Write beside, flush to disk, rename: over a regular file or none, never over a device or a directory."""
    with _written(path) as file:
        file.write(text)


@contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    check_output(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as place, place.open("w", encoding="utf-8", newline="") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a place beside a file, which is renamed over it when all is written."""
    place = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield place
        place.replace(path)
    finally:
        place.unlink(missing_ok=True)


def read_csv(path: Path) -> list[Row]:
    """Read and validate a result file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; see `bench.py list results`") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); expected a result CSV") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{path}, line {line}: cannot be read as text, it is not UTF-8; expected a result CSV") from None
    return list(_parsed(path, text))


@lru_cache(maxsize=64)  # pages, report and figures read the same files; rows do not change
def _parsed(path: Path, text: str) -> tuple[Row, ...]:
    reader = csv.reader(io.StringIO(text))
    try:
        table = [(reader.line_num, line) for line in reader if line]
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: not a CSV ({error}); the file is damaged") from None
    if not table:
        raise BadInput(f"{path}: empty or not a CSV; expected a result file with the columns {', '.join(COLUMNS[:4])}, …")
    (_, header), *body = table
    if body and "schema" in header and _newer(body[0][1], header):
        raise BadInput(
            f"{path}: schema {body[0][1][header.index('schema')]} is newer than {SCHEMA}, which this version reads; update the project"
        )
    if tuple(header) not in _KNOWN_HEADERS:
        unknown = [f"unknown {name[:60]!r}" for name in header if name not in COLUMNS]
        missing = [f"missing {name!r}" for name in COLUMNS if name not in header]
        wrong = [*unknown, *missing] or ["their order"]
        raise BadInput(f"{path}: columns differ from schema {SCHEMA}: {', '.join(wrong[:5])}; see results/README.md")
    rows: list[Row] = []
    seen: set[str] = set()
    for number, cells in body:
        where = f"{path}, line {number}"
        if len(cells) != len(header):
            raise BadInput(f"{where}: {len(cells)} cells, expected {len(header)}; the file is truncated or was edited")
        row = from_cells(dict(zip(header, cells, strict=True)), where)
        if row.case in seen:
            raise BadInput(f"{where}: case {row.case!r} occurs twice; remove one of the rows")
        seen.add(row.case)
        rows.append(row)
    return tuple(rows)


def result_files(directory: Path | None = None) -> list[Path]:
    """Find result files: `<directory>/<machine>/<sweep>.csv`."""
    found = (directory or RESULTS).glob("*/*.csv")
    return sorted(path for path in found if path.parent.name != "published" and not path.name.endswith(".previous.csv"))


def study_directories(directory: Path | None = None) -> list[Path]:
    """Find the machines that have tables of studies: `<directory>/<machine>/studies/`."""
    return sorted({path.parent for path in (directory or RESULTS).glob("*/studies") if any(path.glob("*.csv"))})


def _newer(cells: list[str], header: list[str]) -> bool:
    version = cells[header.index("schema")] if len(cells) > header.index("schema") else ""
    return version.isdecimal() and len(version) < 10 and int(version) > SCHEMA

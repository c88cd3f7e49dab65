"""A study: a question, the rows that answer it, and the sentence that they say. A new study is a new file with a decorator."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jacobians.kernels.native import runner

Value = str | int | float
Row = dict[str, Value]
DIGITS = 9  # of numbers in tables


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a study.

    Attributes:
        epochs: Scale of the training, where the study trains: its own number by default.
        seed: Seed of every draw.
        data: Name of a data set, where the study uses one: the first that is there by default.
        data_dir: Directory of its files.
        report: Called with a share of the work done, between 0 and 1.
    """

    epochs: int | None = None
    seed: int = 0
    data: str | None = None
    data_dir: Path | None = None
    report: Callable[[float], object] = lambda share: None


@dataclass(frozen=True, slots=True)
class Study:
    """A study.

    Attributes:
        name: Its name, and that of its first table.
        title: What it is about.
        question: What it asks.
        tables: Table to the names of its columns; the first has the study's own name.
        rows: `options -> (table, row)`, one after the other as they are computed.
        conclude: `{table: rows} -> sentence`, computed from the rows.
        data: Names of the data sets that it can use, in order of preference.
        checks: `{table: rows} -> (line, passed)` of each thing that must be right.
    """

    name: str
    title: str
    question: str
    tables: dict[str, tuple[str, ...]]
    rows: Callable[[Options], Iterator[tuple[str, Row]]]
    conclude: Callable[[dict[str, list[Row]]], str]
    data: tuple[str, ...] = ()
    checks: Callable[[dict[str, list[Row]]], list[tuple[str, bool]]] = lambda tables: []


STUDIES: dict[str, Study] = {}


def register(study: Study) -> Study:
    """Register a study."""
    if study.name in STUDIES:
        raise ValueError(f"study {study.name!r} is already registered; choose another name")
    STUDIES[study.name] = study
    return study


def find_study(name: str) -> Study:
    """Return a study."""
    if name not in STUDIES:
        raise ValueError(f"unknown study {name!r}; choose from {', '.join(STUDIES)}")
    return STUDIES[name]


def run(study: Study, out: Path, options: Options) -> dict[str, list[Row]]:
    """Compute a study and write its tables. Each row is on the disk when it is computed: what is interrupted leaves readable files."""
    if options.epochs is not None and options.epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {options.epochs}")
    if options.data is not None or options.data_dir is not None:
        if not study.data:
            raise ValueError(f"{study.name} draws what it uses; leave out --data and --data-dir")
        if options.data not in {None, *study.data}:
            raise ValueError(f"{study.name} cannot use the data set {options.data!r}; choose from {', '.join(study.data)}")
    runner.available()  # waits for the compiler: all steps by one method, and some are timed
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Row]] = {table: [] for table in study.tables}
    files = {table: (out / f"{table}.csv").open("w", newline="", encoding="utf-8") for table in study.tables}
    try:
        writers = {table: csv.DictWriter(files[table], columns, lineterminator="\n") for table, columns in study.tables.items()}
        for writer in writers.values():
            writer.writeheader()
        for table, row in study.rows(options):
            writers[table].writerow({name: f"{value:.{DIGITS}g}" if isinstance(value, float) else value for name, value in row.items()})
            files[table].flush()
            found[table].append(row)
    finally:
        for file in files.values():
            file.close()
    return found


def read(study: Study, out: Path) -> dict[str, list[Row]] | None:
    """Read the tables of a study."""
    found: dict[str, list[Row]] = {}
    for table, columns in study.tables.items():
        path = out / f"{table}.csv"
        if not path.exists():
            return None
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != columns:
                raise ValueError(
                    f"{path}: columns {', '.join(reader.fieldnames or ())}, expected {', '.join(columns)}; run the study again"
                )
            found[table] = [{name: _number(text) for name, text in row.items()} for row in reader]
    return found


def _number(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text


def column(rows: Sequence[Mapping[str, Value]], name: str) -> list[float]:
    """Return the numbers of a column."""
    return [float(row[name]) for row in rows]

"""A study: a question, the rows that answer it, and the sentence that they say. A new study is a new file with a decorator."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from jacobians.kernels.native import runner

Value = str | int | float
Row = dict[str, Value]
Tables = dict[str, list[Row]]
_Cells = TypeVar("_Cells", bound=Mapping[str, Value])
DIGITS = 9  # of numbers in tables


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a study."""

    epochs: int | None = None  # scale of the training, where the study trains: its own number by default
    seed: int = 0
    data: str | None = None  # name of a data set, where the study uses one: the first that is there by default
    data_dir: Path | None = None  # directory of its files
    report: Callable[[float], object] = lambda share: None  # called with a share of the work done, between 0 and 1


@dataclass(frozen=True, slots=True)
class Study:
    """A study."""

    name: str  # its name, and that of its first table
    title: str
    question: str
    tables: dict[str, tuple[str, ...]]  # table to the names of its columns; the first has the study's own name
    rows: Callable[[Options], Iterator[tuple[str, Row]]]  # `options -> (table, row)`, one after the other as they are computed
    conclude: Callable[[Tables], str]  # a sentence, computed from the rows
    data: tuple[str, ...] = ()  # names of the data sets that it can use, in order of preference
    checks: Callable[[Tables], list[tuple[str, bool]]] = lambda tables: []  # (line, passed) of each thing that must be right


STUDIES: dict[str, Study] = {}


def register(study: Study) -> Study:
    if study.name in STUDIES:
        raise ValueError(f"study {study.name!r} is already registered; choose another name")
    STUDIES[study.name] = study
    return study


def find_study(name: str) -> Study:
    if name not in STUDIES:
        raise ValueError(f"unknown study {name!r}; choose from {', '.join(STUDIES)}")
    return STUDIES[name]


def run(study: Study, out: Path, options: Options) -> Tables:
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
    found: Tables = {table: [] for table in study.tables}
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((out / f"{name}.csv").open("w", newline="", encoding="utf-8")) for name in study.tables}
        writers = {table: csv.DictWriter(files[table], columns, lineterminator="\n") for table, columns in study.tables.items()}
        for writer in writers.values():
            writer.writeheader()
        for table, row in study.rows(options):
            writers[table].writerow({name: f"{value:.{DIGITS}g}" if isinstance(value, float) else value for name, value in row.items()})
            files[table].flush()
            found[table].append(row)
    return found


def read(study: Study, out: Path) -> Tables | None:
    found: Tables = {}
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
    return [float(row[name]) for row in rows]


def where(rows: Sequence[_Cells], **cells: Value) -> list[_Cells]:
    """Return the rows with these cells."""
    return [row for row in rows if all(row[name] == value for name, value in cells.items())]


def distinct(rows: Sequence[Row], name: str) -> list[str]:
    """Return the texts of a column, each once, in their order."""
    return list(dict.fromkeys(str(row[name]) for row in rows))

"""Results as a pandas table, for analyses of your own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from benchmarks.records.csv_file import read_csv
from benchmarks.records.rows import COLUMNS, FIELDS, Row


def to_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Turn rows into a table with one typed column per column of the schema."""
    table = pd.DataFrame([row.model_dump(by_alias=True) for row in rows], columns=list(COLUMNS), dtype=object)
    kinds = {name: str(field.annotation) for name, field in FIELDS.items()}
    return table.astype({name: "Int64" if "int" in kind else "Float64" if "float" in kind else "string" for name, kind in kinds.items()})


def read_frame(*paths: Path) -> pd.DataFrame:
    """Read and validate result files into one table."""
    return to_frame(row for path in paths for row in read_csv(Path(path)))

"""Rows as a pandas table."""

import pandas as pd

from benchmarks.records.csv_file import write_csv
from benchmarks.records.frames import read_frame, to_frame
from benchmarks.records.rows import COLUMNS
from tests.benchmarks.rows import row


def test_types_and_missing_values(tmp_path):
    rows = [row(), row("forward:eager", K=None, widths="3-7-2-4", status="crashed", reason="NA", machine="None")]
    write_csv(rows, tmp_path / "a.csv")
    table = read_frame(tmp_path / "a.csv")
    assert list(table.columns) == list(COLUMNS)
    assert (table["L"].dtype, table["median_s"].dtype) == (pd.Int64Dtype(), pd.Float64Dtype())
    assert table["K"].tolist() == [5, pd.NA]
    assert table["reason"].tolist() == [pd.NA, "NA"]
    assert table["machine"].tolist() == ["some-machine-2-cores", "None"]
    assert table.loc[table["status"] == "ok", "median_s"].tolist() == [1e-4]


def test_no_rows_keep_their_columns():
    assert list(to_frame([]).columns) == list(COLUMNS)

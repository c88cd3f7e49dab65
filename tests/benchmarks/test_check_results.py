"""Results that contradict themselves, their environment or the machine are found."""

import csv
import json
import shutil

import pytest

from benchmarks.analysis.check_results import check_results, verdict
from benchmarks.records.csv_file import RESULTS, result_files

SOURCE = next(iter(sorted(path for path in RESULTS.glob("*/quick.csv"))))


@pytest.fixture
def copied(tmp_path):
    for suffix in (".csv", ".environment.json"):
        shutil.copy(SOURCE.with_suffix(suffix), tmp_path / f"quick{suffix}")
    return tmp_path / "quick.csv"


def change(path, column, value, number=0):
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), reader.fieldnames
    good = [row for row in rows if row["status"] == "ok"]
    good[number][column] = value(good[number][column]) if callable(value) else value
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def test_committed_results_are_fit_to_be_kept():
    items = check_results(result_files())
    assert [item for item in items if item.failed] == []
    assert verdict(items) == "fit to be kept"


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("rel_error", "0.5", "status ok but rel_error 0.5 exceeds tolerance"),
        ("machine", "another", "rows of another, but the environment file is of"),
        ("median_s", "1000.0", "min_s, q1_s, median_s, q3_s, max_s must be in this order"),
        ("device", "cuda", "by the columns"),
        ("D", "many", "quick.csv"),
    ],
)
def test_what_is_wrong_is_said(copied, column, value, message):
    assert not any(item.failed for item in check_results([copied]))
    change(copied, column, value)
    found = [item.detail for item in check_results([copied]) if item.failed]
    assert message in " ".join(found)
    assert verdict(check_results([copied])) == "not fit to be kept: quick.csv"


def test_a_device_without_ceilings(copied):
    path = copied.with_suffix(".environment.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ceilings": {}}))
    assert "the environment file has no ceilings of cpu" in check_results([copied])[0].detail


def test_what_no_machine_can_do_is_found(copied):
    for column in ("min_s", "q1_s", "median_s", "q3_s", "max_s", "ci_low_s", "ci_high_s", "mean_s"):
        change(copied, column, "1e-9")
    assert "this machine cannot do it in less than" in " ".join(item.detail for item in check_results([copied]))


def test_the_command_line(copied, command):
    assert command("check-results", copied).out.endswith("fit to be kept\n")
    copied.with_suffix(".environment.json").unlink()
    assert "not fit to be kept: quick.csv" in command("check-results", copied, status=1).out

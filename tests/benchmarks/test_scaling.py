"""The measured rates, and the merging that is measured."""

import json

from benchmarks.records.csv_file import read_csv
from benchmarks.records.journal import line_of
from benchmarks.run import environment
from tools import scaling

RATES = scaling.Rates(
    "a", 2, 1200, 1e6, 1e9, 8e5, 8e5, 0.8, 0.8, 0.8, 1.0, {"10000": 1}, 1e3, 1.0, {"10": {"seconds": 1.0, "peak_bytes": 1.0}}
)


def test_a_report_has_all_of_it():
    text = "\n".join(scaling.report(RATES))
    assert "0.80 (0.80-0.80) of the slower of the two" in text


def test_what_is_merged_and_measured_is_whole(tmp_path):
    line = scaling._a_row()
    with (tmp_path / "j.jsonl").open("w") as file:
        for number in (3, 1, 2, 1):
            line["row"]["case"] = f"{number}/cpu/reverse:eager"
            file.write(line_of(line))
    assert scaling.merge_journal(tmp_path / "j.jsonl") == 3
    assert [row.case[0] for row in read_csv(tmp_path / "j.csv")] == ["1", "2", "3"]


def test_the_committed_rates_are_those_of_the_page():
    (path,) = (environment.ROOT / "results").glob("*/scaling.json")
    rates = scaling.Rates(**json.loads(path.read_text(encoding="utf-8")))
    page = (environment.ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for expected in scaling.report(rates):
        assert expected in page

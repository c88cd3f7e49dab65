"""The simulation of many nodes, and the merging that is measured."""

import json
import math

import pytest

from benchmarks.records.csv_file import read_csv
from benchmarks.run import environment
from tools import scaling

RATES = scaling.Rates(
    "a", 2, 1200, 1e6, 1e9, 8e5, 8e5, 0.8, 0.8, 0.8, 1.0, {"10000": 1}, 1e3, 1.0, {"10": {"seconds": 1.0, "peak_bytes": 1.0}}
)
NEVER = {"mean_time_between_failures_s": math.inf, "write": math.inf, "creates": math.inf}


def test_nodes_without_failures_share_the_work():
    one, ten = (scaling.simulate(RATES, scaling.Cluster(nodes, **NEVER), 10**9)["hours"] for nodes in (1, 10))
    assert one == pytest.approx(10**9 / 8e5 / 3600, rel=1e-4)
    assert one / 10 <= ten <= one / 10 + 1.0, "but for the last task"


def test_failures_cost_restarts_and_halves_of_chunks():
    often = scaling.Cluster(100, restart_s=60.0, **{**NEVER, "mean_time_between_failures_s": 3600.0})
    found = scaling.simulate(RATES, often, 10**12)
    work = 10**12 / 8e5
    assert found["failures"] == pytest.approx(work / 3600, rel=0.3)
    assert 0 < found["lost_share"] < 1e-3, "a chunk is milliseconds"
    assert found == scaling.simulate(RATES, often, 10**12)
    assert found != scaling.simulate(RATES, often, 10**12, seed=1)
    calm = scaling.simulate(RATES, scaling.Cluster(100, **NEVER), 10**12)
    assert calm["hours"] < found["hours"]


def test_a_file_system_that_is_full_slows_all():
    found = scaling.simulate(RATES, scaling.Cluster(1000, write=1e9, mean_time_between_failures_s=math.inf), 10**9)
    assert found["write_share"] == pytest.approx(1000 * 8e5 * 1200 / 1e9)
    assert found["hours"] >= 10**9 * 1200 / 1e9 / 3600


def test_a_report_has_all_of_it():
    text = "\n".join(scaling.report(RATES))
    assert "0.80 (0.80-0.80) of the slower of the two" in text
    assert "| 1,000 |" in text


def test_what_is_merged_and_measured_is_whole(tmp_path):
    line = scaling._a_row()
    with (tmp_path / "j.jsonl").open("w") as file:
        for number in (3, 1, 2, 1):
            line["row"]["case"] = f"{number}/cpu/reverse:eager"
            file.write(json.dumps(line) + "\n")
    assert scaling.merge_journal(tmp_path / "j.jsonl") == 3
    assert [row.case[0] for row in read_csv(tmp_path / "j.csv")] == ["1", "2", "3"]


def test_the_committed_rates_are_those_of_the_page():
    (path,) = (environment.ROOT / "results").glob("*/scaling.json")
    rates = scaling.Rates(**json.loads(path.read_text(encoding="utf-8")))
    page = (environment.ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for expected in scaling.report(rates):
        assert expected in page

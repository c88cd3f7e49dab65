"""One problem on every device that was measured: the order, what is known, and the nearest shape with another answer."""

from dataclasses import replace

import pytest

from benchmarks.analysis import across
from benchmarks.analysis.across import Place
from benchmarks.analysis.recommend import Evidence
from jacobians.planning.machine import Ceilings
from jacobians.problem import Problem
from tests.benchmarks.rows import RATES, row

PROBLEM = Problem(widths=(4, 64, 64, 4), dtype="bfloat16")  # readable torch alone, whatever is installed


def place(name, rates=RATES, rows=(), here=False):
    return Place(name, "cpu", 2, Evidence(list(rows), {"cpu": rates}), rates, here)


def faster(times, call):
    """Ceilings of a device with more arithmetic, whose operations start later."""
    return Ceilings(
        tuple((size, rate * times) for size, rate in RATES.read), RATES.flops * times, RATES.flops64 * times, RATES.gemm * times, call
    )


def test_the_fastest_device_comes_first_and_where_another_one_is():
    found = across.across(PROBLEM, [place("wide", faster(100, 1e-5)), place("near", here=True)])
    assert [p.name for p, _ in found.found] == ["near", "wide"]
    columns, rows = across.table(found)
    assert columns[0] == "device"
    assert rows[0][0] == "near, here"
    assert rows[0][-1] == "1.00x"
    (line,) = across.lines(found)
    size, name = line.removeprefix("by the model the fastest device changes at ").split(": ")
    assert name == "wide"
    changed = {"D": PROBLEM.D, "P": PROBLEM.P, "N": PROBLEM.N, "K": 64, "L": 2}
    variable, value = size.split(" = ")
    assert int(value) > changed[variable], "more work suits it"


def test_one_that_is_faster_at_all_sizes_changes_nowhere():
    found = across.across(PROBLEM, [place("slow"), place("fast", faster(4, RATES.call_s / 4))])
    assert [p.name for p, _ in found.found] == ["fast", "slow"]
    assert found.change is None
    assert across.lines(found) == []


def test_what_was_measured_there_counts_before_what_is_predicted():
    problem = replace(PROBLEM, dtype="float32")
    slow = [row(f"{mode}:eager", L=2, D=4, K=64, P=4, median=1.0) for mode in ("forward", "reverse", "mixed")]
    slow += [row(f"{mode}:native", L=2, D=4, K=64, P=4, median=1.0) for mode in ("forward", "reverse", "mixed")]
    found = across.across(problem, [place("measured", rows=slow), place("predicted", faster(0.5, 2 * RATES.call_s))])
    (first, _), (second, best) = found.found
    assert (first.name, second.name, best.confidence) == ("predicted", "measured", "measured")
    assert found.change is None, "the model is wrong about these two"
    assert across.as_records(found)[1]["seconds"] == pytest.approx(1.0)


def test_irregular_widths_have_no_one_width_to_vary():
    sizes = {text.split(" = ")[0] for _, text in across._around(Problem(widths=(4, 8, 16, 4), batch=3))}
    assert sizes == {"D", "P", "N"}


def test_the_committed_results_are_places():
    found = across.places()
    assert {place.device for place in found} == {"cpu", "cuda"}
    assert len({(place.name, place.device, place.threads) for place in found}) == len(found) > 2

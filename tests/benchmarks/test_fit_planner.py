"""Constants of the planner, recovered from rows that were made with others."""

import pytest

from benchmarks.errors import BadInput
from benchmarks.records.problems import problem_of
from jacobians.planning import cost_model
from tests.benchmarks.rows import RATES, row
from tools import fit_planner

TRUE = {"NATIVE_CALL": 10.0, "EAGER_CALL": 1.5, "EFFICIENCY": 0.5}


def made():
    rows = [
        row(f"{mode}:{kind}", L=L, D=D, K=K, P=4, N=N)
        for mode in ("forward", "reverse")
        for kind in ("native", "eager")
        for L in (1, 3)
        for D in (2, 64)
        for K in (8, 256)
        for N in (1, 512)
    ]
    with fit_planner.constants(TRUE):
        return [
            r.model_copy(update={"median_s": cost_model.estimate(problem_of(r), r.mode, r.implementation, RATES, r.threads)}) for r in rows
        ]


def test_constants_that_made_the_rows_are_found():
    before = {name: getattr(cost_model, name) for name in TRUE}
    rows = made()
    found = fit_planner.fit(rows, RATES, "cpu")
    assert found.rows == (32, 32)
    assert found.after["NATIVE_CALL"] == pytest.approx(TRUE["NATIVE_CALL"], rel=0.15)
    assert found.after["EAGER_CALL"] == pytest.approx(TRUE["EAGER_CALL"], rel=0.15)
    assert found.errors[1] < 0.3 * found.errors[0]
    assert {name: getattr(cost_model, name) for name in TRUE} == before, "a fit changes nothing"
    text = "\n".join(fit_planner.lines(found))
    assert "NATIVE_CALL = " in text
    assert "was 5" in text
    assert "# error of the prediction:" in text


def test_too_few_rows_and_no_results(tmp_path):
    with pytest.raises(BadInput, match="a fit needs 40: measure more sweeps"):
        fit_planner.fit(made()[:10], RATES, "cpu")
    with pytest.raises(BadInput, match="no results with their environment"):
        fit_planner.of_directory(tmp_path)

"""The numbers and small rules that a verdict rests on: each test here fails where one of them is changed."""

import os

import pytest
import torch
from pydantic import ValidationError

import jacobians as jac
from benchmarks.analysis import compare, regret
from benchmarks.measure import ceilings, clock, oracle
from benchmarks.measure.samples import StopRule
from benchmarks.measure.statistics import Ratio, verdict
from benchmarks.records import csv_file
from benchmarks.records.journal import Journal
from jacobians.modes.chunked import layout
from jacobians.planning import machine, planner
from tests.benchmarks.rows import RATES, row
from tests.benchmarks.test_honesty import PROBLEM, measured, trial_of


@pytest.fixture
def ref():
    return oracle.reference(PROBLEM, "xavier", 0).own()


def test_a_case_has_six_blocks_at_least_however_long_they_take():
    rule, slow = StopRule(seconds=2.0), [[second] for second in (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)]
    assert [rule.decide(slow[:count], 1) for count in (5, 6)] == [None, "time"]


def test_precision_is_that_of_the_interval():
    rule = StopRule(seconds=1e3)
    assert rule.decide([[1.0 + 0.02 * step] for step in (-2, -1, 0, 1, 2, 0)], 1) is None
    assert rule.decide([[1.0 + 0.002 * step] for step in (-2, -1, 0, 1, 2, 0)], 1) == "precision"


def test_a_limit_of_threads_is_torch_s_too(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *arguments: None, raising=False)
    clock.limit_threads(1)
    assert seen == [1]


@pytest.mark.parametrize(("times", "right"), [(0.3, True), (3.0, False)])
def test_the_last_timed_result_is_held_to_the_tolerance_of_the_first(ref, times, right):
    calls = []

    def run(x):
        calls.append(x)
        return None, jac.reverse(ref.mlp, x)[1] * (1 + (times * ref.tolerance if len(calls) > 1 else 0))

    trial = trial_of(ref, run)
    trial.check_first()
    assert (measured(trial) is None) == right


def test_the_error_of_rounding_is_the_worst_of_three_relabellings(ref, monkeypatch):
    errors = iter([1e-3, 2e-3, 5e-3])
    monkeypatch.setattr(oracle, "_error", lambda *arguments: next(errors))
    assert oracle._tolerance(ref.mlp, PROBLEM, ref.inputs, ref.exact, 0) == oracle.SAFETY * 5e-3


def test_a_small_sample_is_measured_against_itself_down_to_a_thousandth():
    exact = torch.tensor([[100.0], [1.0]])
    assert oracle.relative_error((torch.tensor([[100.0], [1.1]]),), (exact,), per_sample=True) == pytest.approx(0.1)
    exact = torch.tensor([[100.0], [1e-3]])
    assert oracle.relative_error((torch.tensor([[100.0], [2e-3]]),), (exact,), per_sample=True) == pytest.approx(0.0141, rel=0.01)


def test_a_file_is_whole_while_it_is_written(tmp_path, monkeypatch):
    path, seen = tmp_path / "rows.csv", []
    csv_file.write_atomically(path, "old")
    monkeypatch.setattr(csv_file.os, "fsync", lambda descriptor: seen.append(path.read_text()))
    csv_file.write_atomically(path, "new")
    assert (seen, path.read_text()) == (["old"], "new")


def test_a_row_beyond_its_tolerance_is_not_ok():
    with pytest.raises(ValidationError, match="exceeds tolerance"):
        row(rel_error=1.01e-5, tolerance=1e-5)
    assert row(rel_error=1e-5, tolerance=1e-5).status == "ok"


def test_a_line_that_does_not_reach_the_disk_leaves_no_half_of_it(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "j")
    journal.append(row())
    before = (tmp_path / "j").read_bytes()
    monkeypatch.setattr("benchmarks.records.journal.os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        journal.append(row(L=3))
    journal.close()
    assert (tmp_path / "j").read_bytes() == before


def test_a_difference_needs_the_rank_test_too():
    alike = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    assert verdict(Ratio(1.2, 1.1, 1.3), alike, alike) == "inconclusive"
    assert verdict(Ratio(1.2, 1.1, 1.3), alike, [2 * time for time in alike]) == "slower"
    assert verdict(Ratio(0.5, 0.4, 0.6), [2 * time for time in alike], alike) == "faster"


def test_a_row_is_compared_with_one_of_its_own_device():
    on = {device: row(device=device, threads=threads) for device, threads in (("cuda", 2), ("cpu", 4))}
    assert compare._likest(row(device="cpu", threads=2), list(on.values())).device == "cpu"


def test_no_choice_is_better_than_the_best():
    assert regret.regret_of(row(median=1.0e-4, run="a"), row(median=1.1e-4, run="b")) == 1.0
    assert regret.regret_of(row(median=2.0e-4, run="a"), row(median=1.0e-4, run="b")) == pytest.approx(2)


def test_a_time_at_the_limit_is_all_of_it():
    problem = jac.Problem(widths=(64, 256, 256, 16), batch=64)
    floor = ceilings.floor_s(problem, "reverse", RATES)
    assert ceilings.fraction(problem, "reverse", floor, RATES) == 1.0
    assert ceilings.fraction(problem, "reverse", 4 * floor, RATES) == 0.25


def test_times_of_libraries_are_not_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("JACOBIANS_CACHE", str(tmp_path))
    kept = []
    monkeypatch.setattr(machine, "remember_times", lambda device, key, times: kept.append(times))
    monkeypatch.setattr(machine, "time_in_turn", lambda calls, seconds: dict.fromkeys(calls, 1e-4))
    mlp, x = jac.MLP.random(widths=(3, 8, 2)), torch.ones(3)
    problem = jac.plan(mlp, x, "reverse:eager").problem
    planner.measure(mlp, (x,), problem, names=["reverse:eager", "reverse:torch.func"])
    assert [set(times) for times in kept] == [{"reverse:eager"}]


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_pieces_keep_their_bound_by_less_than_one_more(mode):
    problem = jac.Problem(widths=(500, 300, 400, 450), batch=40)
    for most in range(9_000_000, 60_000_000, 1_000_003):
        found = layout(problem, mode, most)
        more = found.bytes + (found.bytes - 8 * 2**20) // (found.samples if found.samples > 1 else found.seeds)
        assert found.bytes <= most
        assert more > most or found.samples == 40 or found.seeds in (450, 500)


def test_a_plan_that_makes_a_graph_is_another_plan():
    mlp, x = jac.MLP.random(widths=(3, 8, 2), dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    mlp.weights[0].requires_grad_()
    for method in ("auto", "reverse:eager"):
        assert not jac.jacobian(mlp, x, method).requires_grad
        assert jac.jacobian(mlp, x, method, create_graph=True).requires_grad
        assert not jac.jacobian(mlp, x, method).requires_grad

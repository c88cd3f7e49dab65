"""The planner: its estimates, its memory, and what it says."""

import json
import re

import pytest
import torch

import jacobians as jac
from jacobians.kernels.native import runner
from jacobians.planning import machine, planner
from jacobians.planning.cost_model import estimate
from jacobians.planning.registry import Request
from jacobians.problem import Problem
from tests import oracles
from tests.cases import network


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """A cache directory of its own, and nothing remembered before or after."""
    monkeypatch.setenv("JACOBIANS_CACHE", str(tmp_path))
    machine._ceilings.cache_clear()
    machine._times.cache_clear()
    yield tmp_path
    machine._ceilings.cache_clear()
    machine._times.cache_clear()


def test_lopsided_networks():
    assert planner.choose(Problem(widths=(1000, 1000, 1000, 1))).method.mode == "reverse"
    assert planner.choose(Problem(widths=(1, 1000, 1000, 1000))).method.mode == "forward"
    assert planner.choose(Problem(widths=(256, 512, 8, 512, 256))).method.mode == "mixed"
    assert planner.choose(Problem(widths=(2, 64, 64, 64, 64), batch=4096)).method.mode == "forward"


def test_only_what_can_serve_is_chosen():
    mlp, x = network((3, 6, 2), dtype=torch.float32)
    assert jac.plan(mlp, x[None], quantity="hessian", create_graph=True).method.endswith(":eager")
    assert jac.plan(mlp, x, create_graph=True).method.endswith(":native" if runner.available() else ":eager")
    wide = Problem(widths=(1000, 1000, 1000, 1000, 1))  # one sample in lanes of sixteen
    assert planner.choose(wide, Request(create_graph=True)).method.name == "reverse:eager"
    half, x = network((3, 6, 2), dtype=torch.bfloat16)
    assert jac.plan(half, x).method.endswith(":eager")


def test_predictions_grow_with_the_work():
    ceilings = machine.ASSUMED["cpu"]
    for implementation in ("native", "eager"):
        for mode in ("forward", "reverse", "mixed"):
            times = [estimate(Problem(widths=(64, K, K, 64)), mode, implementation, ceilings) for K in (16, 64, 256, 1024)]
            assert times == sorted(times)
            assert estimate(Problem(widths=(8, 64, 8), batch=8192), mode, implementation, ceilings) > estimate(
                Problem(widths=(8, 64, 8), batch=64), mode, implementation, ceilings
            )


def test_measuring_is_remembered_and_explained(own_cache):
    mlp, x = network((4, 32, 32, 4), dtype=torch.float32)
    before = jac.plan(mlp, x)
    assert "the shortest predicted time" in before.explain()
    assert "measured" not in before.explain()
    plan = jac.plan(mlp, x, effort="measure")
    text = plan.explain()
    assert "the fastest of 3 measured on this machine" in text
    assert text.count(", measured ") == 3
    (file,) = own_cache.glob("times-*.json")
    times = json.loads(file.read_text())[planner.key_of(plan.problem, plan.request)]
    assert plan.method == min(times, key=times.get)
    # A later plan knows, also in a process that has just begun, and measures no more.
    machine._times.cache_clear()
    assert jac.plan(mlp, x).method == plan.method
    assert jac.plan(mlp, x, effort="measure").choice.measured == times


def test_the_measured_winner_wins_over_the_predicted_one():
    problem = Problem(widths=(4, 32, 32, 4))
    predicted = planner.candidates(problem)
    slowest = list(predicted)[-1]
    key = planner.key_of(problem, jac.Request())
    machine.remember_times("cpu", key, {slowest: 1e-9, next(iter(predicted)): 1e-3})
    assert planner.choose(problem).method.name == slowest
    assert planner.choose(problem.with_(bias=True)).method.name != slowest


def test_what_another_process_measured_meanwhile_is_kept(own_cache):
    machine.remember_times("cpu", "mine", {"reverse:eager": 1.0})
    assert machine.known_times("cpu", "mine") == {"reverse:eager": 1.0}  # from now on this process remembers the file
    (file,) = own_cache.glob("times-*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "theirs": {"forward:eager": 2.0}}))
    machine.remember_times("cpu", "mine", {"forward:eager": 3.0})
    assert machine.known_times("cpu", "theirs") == {"forward:eager": 2.0}
    assert machine.known_times("cpu", "mine") == {"reverse:eager": 1.0, "forward:eager": 3.0}


@pytest.mark.parametrize("content", ["", "nonsense", "[]", '{"read": 3}', '{"read": [], "flops": "x", "call_s": 1}'])
def test_a_broken_memory_is_no_memory(own_cache, content):
    for name in ("times", "ceilings"):
        (own_cache / f"{name}-{machine.fingerprint('cpu')}.json").write_text(content)
    assert machine.ceilings("cpu") == machine.ASSUMED["cpu"]
    assert planner.choose(Problem(widths=(4, 32, 4))).method.hand_written


def test_without_a_cache_directory_nothing_is_kept_and_nothing_fails(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JACOBIANS_CACHE", str(tmp_path / "file"))
    machine.remember_times("cpu", "key", {"reverse:eager": 1.0})
    assert machine.known_times("cpu", "key") == {}


def test_ceilings_are_kept(own_cache, set_threads):
    measured = machine.Ceilings(((1000, 1e11), (10**6, 1e10)), 1e12, 5e11, 8e11, 1e-6, measured=True)
    machine.remember_ceilings("cpu", measured)
    assert machine.ceilings("cpu") == measured
    set_threads(torch.get_num_threads() + 1)  # another machine, as far as rates go
    assert not machine.ceilings("cpu").measured


@pytest.mark.parametrize("kind", ["ceilings", "times"])
@pytest.mark.parametrize(
    "content", ["null", "[]", "{", '"text"', '{"a": null}', '{"a": {"b": null}}', '{"a": {"b": "fast"}}', "\x00", '{"read": 3}']
)
def test_a_bad_file_in_the_cache_directory_is_set_aside(own_cache, kind, content, caplog):
    path = own_cache / f"{kind}-{machine.fingerprint('cpu')}.json"
    path.write_text(content)
    machine._ceilings.cache_clear()
    machine._times.cache_clear()
    mlp, x = network((3, 6, 2))
    assert jac.jacobian(mlp, x).shape == (2, 3)
    assert machine.known_times("cpu", "a") == {}
    assert not machine.ceilings("cpu").measured
    assert "could not be understood and was renamed" in caplog.text
    assert not path.exists()
    assert path.with_suffix(".bad").read_text() == content


def test_unknown_effort():
    mlp, x = network((3, 6, 2))
    with pytest.raises(ValueError, match="unknown effort 'try'; choose from compare, estimate, measure"):
        jac.plan(mlp, x, effort="try")


@pytest.mark.parametrize(("D", "P"), [(1, 4), (4, 1), (3, 3)])
def test_one_call_for_the_gradient_through_a_jacobian_is_preferred_to_two(D, P):
    problem = jac.Problem(widths=(D, 64, 64, P), batch=256, quantity="jacobian_gradient")
    rates = machine.Ceilings(((1000, 1e11), (10**6, 1e10)), 1e12, 5e11, 8e11, 1e-6, measured=True)
    times = {mode: estimate(problem, mode, "native", rates, 2) for mode in ("fused", "forward", "reverse")}
    assert times["fused"] < min(times["forward"], times["reverse"])


class TestComparing:
    """Where predictions are close, the first call times both; the clock is not asked here."""

    PREDICTED = {"reverse:eager": 1e-4, "forward:eager": 1.1e-4, "mixed:eager": 1e-4, "reverse:native": 2e-4}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def close(self, monkeypatch):
        self.timed = []

        def time_few(calls):
            self.timed.append(tuple(calls))
            for call in calls.values():
                call()
            return {"reverse:eager": 3e-4, "forward:eager": 2e-4}

        monkeypatch.setattr(planner, "_compared", {})
        monkeypatch.setattr(planner, "candidates", lambda *arguments, **options: dict(self.PREDICTED))
        monkeypatch.setattr(machine, "time_few", time_few)

    def test_the_faster_is_kept_said_and_known_to_the_next_plan(self):
        mlp, x = network((4, 32, 32, 4), batch=3)
        plan = jac.plan(mlp, x, effort="compare")
        assert (plan.method, self.timed) == ("reverse:eager", [])
        torch.testing.assert_close(plan(x), oracles.autograd(mlp, x))
        assert (plan.method, self.timed) == ("forward:eager", [("reverse:eager", "forward:eager")])
        assert "the faster of two whose predictions are close, timed at the first call" in plan.explain()
        plan(x)
        assert jac.plan(mlp, x, effort="compare").method == "forward:eager"
        assert jac.plan(mlp, x).method == "reverse:eager", "what was not asked to compare computes the same bits in every process"
        jac.jacobian(network((4, 32, 32, 4))[0], x)
        assert len(self.timed) == 1

    def test_where_nothing_is_compared(self):
        mlp, x = network((4, 32, 32, 4), batch=3)
        plans = [jac.plan(mlp, x), jac.plan(mlp, x, create_graph=True, effort="compare"), jac.plan(mlp, x, "reverse")]
        torch.use_deterministic_algorithms(True)
        try:
            plans.append(jac.plan(mlp, x, effort="compare"))
        finally:
            torch.use_deterministic_algorithms(False)
        self.PREDICTED = {"reverse:eager": 1e-4, "mixed:eager": 1e-4, "forward:eager": 1.6e-4}
        plans.append(jac.plan(mlp, x, effort="compare"))
        for plan in plans:
            plan(x)
            assert plan.method == "reverse:eager"
        assert not self.timed


def test_the_other_device_costs_its_time_and_the_way_there_and_back():
    small, large = (Problem(widths=(8, 16, 4), batch=N, device="cuda") for N in (1, 10**6))
    texts = [planner.elsewhere(problem, Request(), "cpu") for problem in (small, large)]
    moved = [float(re.search(r"and ([\d.]+) µs to move", text)[1]) for text in texts]
    assert moved[0] == pytest.approx(20.0, abs=0.1)
    assert moved[1] == pytest.approx(20.0 + 4 * 10**6 * (8 + 32) / planner.MOVE_RATE * 1e6, rel=1e-3)
    assert texts[0].startswith("on cpu: ")

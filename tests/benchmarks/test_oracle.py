"""The oracle passes what is right and catches what is wrong, on every sweep."""

from dataclasses import replace

import pytest
import torch

import jacobians as jac
from benchmarks.measure import oracle
from benchmarks.workloads.cases import Case, expand, load_sweeps
from jacobians.planning import registry
from jacobians.planning.cost import cost
from jacobians.planning.registry import Computation, find_quantity
from tests import oracles


def sample(sweep):
    """The first, the last and the costliest problem of a sweep, none of minutes, and all of the notebook's as published: saturated."""
    everything = sweep.model_copy(update={"exclude": []})
    cases = expand(everything, ["cpu"], ["reverse:eager"])
    if sweep.name == "notebook":
        return [replace(case, init="normal") for case in cases]
    flops = {case: cost(case.problem, "reverse").flops for case in cases}
    cases = [case for case in cases if flops[case] < 1e8]
    if not cases:  # e.g. of a sweep for GPUs
        return []
    return list(dict.fromkeys([cases[0], max(cases, key=flops.__getitem__), cases[-1]]))


CASES = [case for sweep in load_sweeps().values() if sweep.quantity == "jacobian" for case in sample(sweep)]


def chain(mlp, x, *, sign=1.0, skip_slope=None, swap=False):
    """A reverse mode with a fault to inject."""
    layers = list(mlp.layers(x))
    weights = [layer.weight for layer in layers]
    slopes = [layer.slope for layer in layers[:-1]]
    if swap and len(weights) > 3 and weights[1].shape == weights[2].shape:
        weights[1], weights[2] = weights[2], weights[1]
    elif swap:
        slopes[0] = slopes[0].flip(-1)
    if skip_slope is not None and slopes:
        slopes[skip_slope] = torch.ones_like(slopes[skip_slope])
    C = sign * weights[-1]
    for W, s in zip(reversed(weights[:-1]), reversed(slopes), strict=True):
        C = (C * s[..., None, :]) @ W
    return C


FAULTS = {
    "wrong sign": {"sign": -1.0},
    "first slope missing": {"skip_slope": 0},
    "last slope missing": {"skip_slope": -1},
    "swapped layers": {"swap": True},
    "one part in a thousand": {"sign": 1.001},
}


@pytest.fixture
def toy():
    """Register a method for one test."""
    names = []

    def add(compute):
        name = f"reverse:toy-{len(names)}"
        registry.register(name)(lambda mlp, problem, request: Computation(lambda x: (None, compute(mlp, x))))
        names.append(name)
        return name

    yield add
    for name in names:
        registry.unregister(name)


def verdict(case, method):
    ref = oracle.reference(case.problem, case.init, case.seed)
    J = jac.plan(ref.mlp, ref.x, method)(ref.x)
    return oracle.check(Case(case.sweep, case.problem, case.init, method, case.seed), J)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.sweep}-{case.id}")
def test_faults_are_caught_and_the_truth_passes(case, toy):
    right = verdict(case, toy(chain))
    assert right.reason is None, right
    for name, fault in FAULTS.items():
        if "slope" in name and case.problem.L == 0:
            continue
        wrong = verdict(case, toy(lambda mlp, x, fault=fault: chain(mlp, x, **fault)))
        assert wrong.reason is not None, (name, wrong)


@pytest.mark.parametrize("case", [case for case in CASES if case.init == "normal"], ids=lambda case: case.id)
def test_every_method_passes_on_saturated_networks(case):
    for method in ("forward:eager", "reverse:eager", "reverse:notebook", "reverse:torch.func"):
        assert verdict(case, method).reason is None


def test_the_tolerance_of_a_saturated_case_is_its_own():
    deep = next(case for case in CASES if case.init == "normal" and case.problem.K == 1000 and case.problem.L == 5)
    ref = oracle.reference(deep.problem, "normal", 0)
    assert oracle.BASE_TOLERANCE["float32"] < ref.tolerance < 1
    assert oracle.reference(deep.problem, "xavier", 0).tolerance == oracle.BASE_TOLERANCE["float32"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda J: J.T, r"shape \(3, 4\), expected \(4, 3\)"),
        (lambda J: J.double(), "J is torch.float64, expected torch.float32"),
        (lambda J: J.index_fill(0, torch.tensor([1]), float("nan")), "not finite"),
        (lambda J: J.index_fill(0, torch.tensor([1]), float("inf")), "not finite"),
        (lambda J: torch.zeros_like(J), "relative error 1 exceeds"),
    ],
)
def test_verdicts(spoil, reason):
    ref = oracle.reference(jac.Problem(widths=(3, 5, 4)), "xavier", 0)
    import re

    assert re.search(reason, oracle.judge(spoil(ref.exact[0].float()), ref).reason)


def test_the_oracle_is_float64_autograd():
    problem = jac.Problem(widths=(3, 5, 5, 4), batch=6, bias=True, output_activation="sigmoid")
    ref = oracle.reference(problem, "orthogonal", 3)
    assert ref.exact[0].dtype == torch.float64
    assert oracles.relative_error(ref.exact[0], oracles.autograd(ref.mlp, ref.x)) < 1e-14


def test_relabelling_changes_only_the_rounding():
    mlp, (x,) = oracle.network_and_inputs(jac.Problem(widths=(3, 50, 40, 4), dtype="float64", bias=True), "xavier", 0)
    other = oracle._relabel(mlp, torch.Generator().manual_seed(1))
    assert not torch.equal(mlp.weights[0], other.weights[0])
    torch.testing.assert_close(other(x), mlp(x))


@pytest.mark.parametrize("name", [quantity.name for quantity in jac.quantities() if quantity.name != "jacobian"])
class TestQuantities:
    """The verdict over tensors of any quantity, on a network whose layers differ in size."""

    def reference(self, name):
        loss = "cross_entropy" if find_quantity(name).loss else None
        return oracle.reference(jac.Problem(widths=(6, 9, 7, 3), batch=8, bias=True, quantity=name, loss=loss), "xavier", 0)

    def test_right_results_pass(self, name):
        ref = self.reference(name)
        for method in jac.methods("*:eager", name):
            computation = method.prepare(ref.mlp, ref.problem, jac.Request())
            found = computation.run(ref.inputs[0] if len(ref.inputs) == 1 else ref.inputs)[1]
            assert oracle.judge(tuple(t.clone() for t in found), ref).reason is None

    @pytest.mark.parametrize("factor", [-1.0, 0.0, 1.001])
    def test_one_wrong_tensor_or_sample_is_found(self, name, factor):
        ref = self.reference(name)
        for index in range(len(ref.exact)):
            wrong = [t.float() for t in ref.exact]
            place = (3, ...) if find_quantity(name).per_sample else ...
            if not wrong[index].any():  # e.g. the derivative of a penalty on J by the last bias
                continue
            wrong[index][place] *= factor
            assert "exceeds the tolerance" in oracle.judge(tuple(wrong), ref).reason

    def test_other_inputs_have_other_results(self, name):
        ref = self.reference(name)
        other = ref.at(ref.other_inputs(1))
        assert [t.shape for t in other.inputs] == [t.shape for t in ref.inputs]
        assert "exceeds the tolerance" in oracle.judge(tuple(t.float() for t in ref.exact), other).reason

    def test_missing_tensors_and_wrong_types(self, name):
        ref = self.reference(name)
        right = tuple(t.float() for t in ref.exact)
        assert "expected" in oracle.judge(right[:-1], ref).reason
        assert "expected torch.float32" in oracle.judge(ref.exact, ref).reason
        assert "not finite" in oracle.judge((*right[:-1], right[-1] * float("nan")), ref).reason

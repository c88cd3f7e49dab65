"""A method that remembers, works outside the timed region or changes what it is given is found out, whatever it returned first."""

import itertools

import pytest
import torch

import jacobians as jac
from benchmarks.measure import honesty, oracle
from benchmarks.measure.honesty import Dishonest, Trial
from jacobians.planning.registry import Computation

PROBLEM = jac.Problem(widths=(4, 8, 8, 3), batch=64)


@pytest.fixture
def ref():
    oracle.reference.cache_clear()
    return oracle.reference(PROBLEM, "xavier", 0)


def still_clock():
    """Every reading is a microsecond later, whatever happened between."""
    ticks = itertools.count()
    return lambda: next(ticks) * 1e-6


def trial_of(ref, run, clock=None, **others):
    return Trial(Computation(run, **others), ref, clock or still_clock())


def measured(trial, blocks=2, calls=5):
    """What the session does: blocks of calls at new inputs, then the verdict."""
    for block in range(blocks):
        trial.new_inputs(block + 1)
        call = trial.calls(calls)
        for _ in range(calls):
            call()
    return trial.verdict()


def honest(ref):
    return lambda x: (None, jac.reverse(ref.mlp, x)[1])


def test_an_honest_method_passes(ref):
    trial = trial_of(ref, honest(ref))
    assert oracle.judge(trial.check_first(), ref).reason is None
    assert measured(trial) is None


def test_one_that_converts_passes_too(ref):
    convert = {"convert": lambda x: x.detach().clone().contiguous(), "restore": lambda J: J.clone()}
    trial = trial_of(ref, honest(ref), **convert)
    trial.check_first()
    assert measured(trial) is None


@pytest.mark.parametrize("first_right", [1, 3])
def test_right_first_and_wrong_later(ref, first_right):
    count = itertools.count(1)

    def run(x):
        J = jac.reverse(ref.mlp, x)[1]
        return None, J if next(count) <= first_right else 1.01 * J

    trial = trial_of(ref, run)
    trial.check_first()
    assert "the last timed result is wrong: relative error 0.01 exceeds" in measured(trial)


def test_the_last_result_is_remembered(ref):
    memory = []

    def run(x):
        if not memory:
            memory.append(jac.reverse(ref.mlp, x)[1])
        return None, memory[0]

    trial = trial_of(ref, run)
    assert oracle.judge(trial.check_first(), ref).reason is None, "its first result is right"
    assert "the last timed result is wrong" in measured(trial)


def test_results_are_remembered_by_the_input_s_address(ref):
    memory = {}

    def run(x):
        if x.data_ptr() not in memory:
            memory[x.data_ptr()] = jac.reverse(ref.mlp, x)[1]
        return None, memory[x.data_ptr()]

    trial = trial_of(ref, run)
    trial.check_first()
    assert "the last timed result is wrong" in measured(trial), "the same tensors hold new numbers in each block"


@pytest.mark.parametrize("where", ["convert", "restore"])
def test_computing_in_a_conversion_is_seen(ref, where):
    compute = honest(ref)
    if where == "convert":
        trial = trial_of(ref, lambda J: (None, J), convert=lambda x: compute(x)[1])
    else:
        trial = trial_of(ref, lambda x: (None, x), restore=lambda x: compute(x)[1])
    with pytest.raises(Dishonest, match=rf"{where} computes outside the timed region: .*(mm|linear|tanh)"):
        trial.check_first()


@pytest.mark.parametrize("where", ["convert", "restore"])
def test_a_conversion_that_takes_long_computes_where_torch_does_not_see_it(ref, where):
    now = [0.0]

    def clock():
        now[0] += 1e-6
        return now[0]

    def slow(thing):
        now[0] += 0.5  # of a library of its own
        return thing

    trial = trial_of(ref, honest(ref), clock, **{where: slow})
    trial.check_first()
    assert measured(trial).startswith(f"{where} computes: it took 500 ms, and copying would take")


@pytest.mark.parametrize(("where", "times"), [("convert", 1), ("restore", 2)])
def test_a_conversion_that_is_fast_once_is_forgiven(ref, where, times):
    """The first one may import a library or compile, and any other meet a busy machine: each block is a look at both."""
    now, calls = [0.0], itertools.count()

    def clock():
        now[0] += 1e-6
        return now[0]

    def slow_at_first(x):
        now[0] += 0.5 if next(calls) < times else 0.0
        return x

    trial = trial_of(ref, honest(ref), clock, **{where: slow_at_first})
    trial.check_first()
    assert measured(trial) is None


def test_changed_weights_are_noticed_and_put_back(ref):
    before = [W.clone() for W in ref.mlp.weights]

    def run(x):
        J = jac.reverse(ref.mlp, x)[1]
        ref.mlp.weights[1].mul_(0.5)
        return None, J

    trial = trial_of(ref, run)
    trial.check_first()
    assert measured(trial) == "the method changed the weights of the network"
    assert all(torch.equal(now, then) for now, then in zip(ref.mlp.weights, before, strict=True))


def test_a_single_wrong_sample_of_a_batch_is_wrong(ref):
    def run(x):
        J = jac.reverse(ref.mlp, x)[1].clone()
        J[17] *= 1 + 5e-5  # in the norm of the whole batch this is below the tolerance
        return None, J

    J = run(ref.x)[1]
    whole = (torch.linalg.vector_norm(J - ref.exact[0]) / torch.linalg.vector_norm(ref.exact[0])).item()
    assert whole < ref.tolerance
    assert "exceeds the tolerance" in oracle.judge(J, ref).reason


def test_calls_alternate_between_inputs(ref):
    seen = []
    trial = trial_of(ref, lambda x: (None, seen.append(x.data_ptr())))
    trial.new_inputs(1)
    call = trial.calls(4)
    for _ in range(4):
        call()
    assert seen[0] == seen[2] != seen[1] == seen[3]
    assert len(set(seen)) == honesty.INPUTS

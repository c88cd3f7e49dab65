"""A method that remembers, works outside the timed region or changes what it is given is found out, whatever it returned first."""

import itertools
import threading

import pytest
import torch

import jacobians as jac
from benchmarks.measure import honesty, oracle
from benchmarks.measure.honesty import Dishonest, Inputs, Trial
from jacobians.planning.conversions import Converted, numpy_tensors
from jacobians.planning.registry import Computation, find_method
from tests.faults import liars

PROBLEM = jac.Problem(widths=(4, 8, 8, 3), batch=64)
SINGLE = jac.Problem(widths=(8, 16, 16, 4))


@pytest.fixture
def ref():
    oracle.reference.cache_clear()
    return oracle.reference(PROBLEM, "xavier", 0).own()


@pytest.fixture(autouse=True)
def no_gradients_and_nobody_at_work(monkeypatch):
    monkeypatch.setattr(honesty, "_others_at_work", lambda *seconds, **before: False)
    with torch.no_grad():
        yield


def still_clock():
    """Every reading is a microsecond later, whatever happened between."""
    ticks = itertools.count()
    return lambda: next(ticks) * 1e-6


def trial_of(ref, run, clock=None, **others):
    return Trial(Computation(run, **others), ref, clock or still_clock())


def measured(trial, blocks=6, rounds=12, calls=4, twin=None, call_s=0.0):
    """What the session does: blocks of rounds of calls, and a verdict over each; or what was found out on the way."""
    try:
        for block in range(1, blocks + 1):
            trial.rest()
            trial.new_inputs(block, calls)
            trial.call()()
            a_round = trial.round(calls)
            for _ in range(rounds):
                trial.between()
                before = liars.computed[0]
                a_round()
                trial.computed = liars.computed[0] - before
            trial.after()
            reason = trial.end_block(call_s, block in (1, blocks))
            if reason is not None:
                return reason
        return trial.check_last(twin)
    except Dishonest as error:
        return str(error)


def honest(ref):
    return lambda x: (None, jac.reverse(ref.mlp, x)[1])


def test_an_honest_method_passes(ref):
    trial = trial_of(ref, honest(ref))
    assert oracle.judge(trial.check_first(), ref).reason is None
    assert measured(trial) is None


@pytest.mark.parametrize("name", liars.LIARS)
def test_tricks(name, monkeypatch):
    """Each gets the verdict that stands beside it; what stays `ok` has computed one Jacobian for each call, within the timed region."""
    prepare, expected = liars.LIARS[name]
    monkeypatch.setattr(honesty, "_others_at_work", lambda *seconds, **before: any(t.name == "spins" for t in threading.enumerate()))
    monkeypatch.setattr(honesty, "_threads_at_work", lambda: {t.native_id for t in threading.enumerate() if t.name == "spins"})
    monkeypatch.setattr(honesty, "SPINS_S", 0.0)
    threads = torch.get_num_threads()
    ref = oracle.reference(SINGLE, "xavier", 0).own()
    try:
        trial = Trial(prepare(ref.mlp, SINGLE), ref, still_clock())
        reason = oracle.judge(trial.check_first(), ref).reason or measured(trial, blocks=10, rounds=40)
    except Dishonest as error:
        reason = str(error)
    finally:
        liars.stop()
        torch.set_num_threads(threads)
    assert not any(t.name == "spins" for t in threading.enumerate())
    if expected == liars.TIMED:
        assert (reason, trial.computed) == (None, 4)
    else:
        assert expected in (reason or "nothing was found")


def test_a_result_that_the_next_call_overwrites_is_none(ref):
    """Where a round is one call nothing comes after it but the next round: so the last result is looked at again."""
    J = torch.empty(PROBLEM.jacobian_shape)
    trial = trial_of(ref, lambda x: (None, J.copy_(jac.reverse(ref.mlp, x)[1])))
    assert measured(trial, calls=1) == "a result is overwritten by the next call"


def test_on_a_saturated_network_zeros_are_wrong_and_what_is_almost_right_must_be_right_on_other_weights(monkeypatch):
    problem = jac.Problem(widths=(2, 8, 2))
    twin, ref = (oracle.reference(problem, "xavier", seed).own() for seed in (3, 0))
    monkeypatch.setattr(oracle, "_tolerance", lambda *arguments: 2.0)
    loose = oracle.replace(ref, tolerance=0.49)
    calls, J = itertools.count(), honest(ref)
    assert "relative error 1 " in measured(trial_of(loose, lambda x: (None, torch.zeros(2, 2))))
    trial = trial_of(loose, lambda x: (None, J(x)[1] * (1.2 if next(calls) else 1)))
    trial.check_first()
    assert "after timing, on a xavier network of the same shape: relative error 0.2" in measured(trial, twin=twin)


@pytest.mark.parametrize("spoilt", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "autograd", "native", "jax"])
def test_what_trains_is_followed_step_by_step(implementation, spoilt):
    problem = jac.Problem(widths=(4, 8, 3), batch=16, quantity="sgd_step", loss="mse")
    method = find_method(f"sgd_step/reverse:{implementation}")
    if method.unsupported(problem):
        pytest.skip(method.unsupported(problem))
    ref = oracle.reference(problem, "xavier", 0).own()
    computation, number, kept = method.prepare(ref.mlp, problem, jac.Request()), itertools.count(), []

    def run(native):
        if not kept or not spoilt or next(number) % 4 == 0:  # else three steps of four are left out
            kept[:] = [computation.run(native)]
        return kept[0]

    trial = Trial(Computation(run, computation.convert, computation.restore, reset=computation.reset), ref, still_clock())
    assert oracle.judge(trial.check_first(), ref).reason is None
    assert ("wrong" in (measured(trial, blocks=2, rounds=3) or "")) == spoilt


def test_the_conversions_of_the_suite_are_not_timed_and_those_of_others_are():
    ref = oracle.reference(SINGLE, "xavier", 0).own()
    compute = liars.by_numpy(ref.mlp)
    in_numpy = Computation(lambda native: (None, [compute(torch.from_numpy(native[0])).numpy()]), Converted("numpy"), numpy_tensors)
    for computation in (in_numpy, find_method("reverse:jax").prepare(ref.mlp, SINGLE, jac.Request())):
        trial = Trial(computation, ref, still_clock())
        assert trial._run is computation.run
        assert oracle.judge(trial.check_first(), ref).reason is None
        assert measured(trial) is None
        trial.new_inputs(1, 2)
        assert honesty._in_place(trial._natives[1], trial._inputs.given[1][0]), "what is written there is its new value"
        other = Computation(computation.run, lambda x, convert=computation.convert: convert(x), computation.restore)
        assert Trial(other, ref, still_clock())._run is not computation.run


def test_what_arrives_when_it_is_looked_at_is_found_out(monkeypatch):
    """An array of an asynchronous library that nobody has waited for."""
    now, seen = [0.0], set()
    ref = oracle.reference(SINGLE, "xavier", 0).own()

    def look(found):
        now[0] += 1e-5 if id(found) in seen else 1e-3
        seen.add(id(found))

    monkeypatch.setattr(honesty, "_may_be_pending", lambda found: True)
    monkeypatch.setattr(honesty, "_look_at", look)
    trial = Trial(Computation(honest(ref)), ref, lambda: now[0])
    assert measured(trial) == "results are computed when they are looked at: a first look takes 1e+03 µs, a second 10 µs"
    seen.clear()
    assert measured(Trial(Computation(honest(ref)), ref, lambda: now[0]), call_s=0.2) is None, "a hundredth of a call is no gain"


def test_each_round_has_numbers_that_no_other_had_and_all_methods_the_same(ref):
    one, other = (Inputs(ref, 3, block=2) for _ in range(2))
    seen = set()
    for _ in range(50):
        assert torch.equal(one.given[1][0], other.given[1][0])
        seen |= {x.flatten()[0].item() for x, *_ in one.given}
        assert torch.equal(one.at(2)[0], one.given[2][0])
        one.renew()
        other.renew()
    assert len(seen) == 150
    assert len({x.data_ptr() for x, *_ in one.given}) == 3
    assert all(x.data_ptr() % honesty.LINE == 0 and x.is_contiguous() for x, *_ in one.given)
    assert len(Inputs(ref, 10**6, 1).given) == honesty.INPUTS_BYTES // ref.x.nbytes


def test_one_earlier_result_is_alive_during_every_call(ref):
    import weakref

    alive, counts = [], []

    def run(x):
        counts.append(sum(one() is not None for one in alive))
        J = jac.reverse(ref.mlp, x)[1]
        alive.append(weakref.ref(J))
        return None, J

    trial = trial_of(ref, run)
    trial.new_inputs(1, 5)
    trial.call()()
    a_round = trial.round(5)
    for _ in range(4):
        a_round()
    assert counts == [0] + [1] * 20


def test_every_call_of_a_round_is_judged_now_and_then(ref):
    trial = trial_of(ref, honest(ref))
    trial.new_inputs(1, 5)
    a_round, kept = trial.round(5), set()
    for _ in range(200):
        a_round()
        kept.add(trial._kept[0])
    assert kept == set(range(5))


def test_a_neighbour_s_thread_is_load_and_not_his_fault(ref, monkeypatch):
    monkeypatch.setattr(honesty, "_others_at_work", lambda *seconds, **before: True)
    monkeypatch.setattr(honesty, "_threads_at_work", lambda: {123456})
    trial = trial_of(ref, honest(ref))
    assert trial.rest() is True


def test_changed_weights_are_the_method_s_own(ref):
    """The others have theirs: nothing is put back, and nobody else is harmed."""
    shared = oracle.reference(PROBLEM, "xavier", 0)
    before = [W.clone() for W in shared.mlp.weights]

    def run(x):
        J = jac.reverse(ref.mlp, x)[1]
        ref.mlp.weights[1].mul_(0.5)
        return None, J

    trial = trial_of(ref, run)
    trial.check_first()
    assert measured(trial) == "the method changed the weights of the network"
    assert all(torch.equal(now, then) for now, then in zip(shared.mlp.weights, before, strict=True))


def test_a_single_wrong_sample_of_a_batch_is_wrong(ref):
    def run(x):
        J = jac.reverse(ref.mlp, x)[1].clone()
        J[17] *= 1 + 5e-5  # in the norm of the whole batch this is below the tolerance
        return None, J

    J = run(ref.x)[1]
    whole = (torch.linalg.vector_norm(J - ref.exact[0]) / torch.linalg.vector_norm(ref.exact[0])).item()
    assert whole < ref.tolerance
    assert "exceeds the tolerance" in oracle.judge(J, ref).reason


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(lambda J: J, None), (torch.zeros_like, "relative error 1 "), (lambda J: 2 * J, "relative error"), (lambda J: J / 0, "not finite")],
)
def test_along_a_direction(ref, spoil, reason):
    xs = [ref.other_inputs(number)[0] for number in range(3)]
    found = [jac.reverse(ref.mlp, x)[1] for x in xs]
    found[1][17] = spoil(found[1][17])
    said = oracle.judge_along(found, xs, ref)
    assert said is None if reason is None else reason in said


def test_along_a_direction_that_is_almost_orthogonal_to_a_row_rounding_is_no_error():
    """What counts is the error beside the usual size of J·v; beside J·v itself, of one output, it would be large by chance."""
    ref = oracle.reference(jac.Problem(widths=(64, 16, 1), batch=100), "xavier", 0).own()
    xs = [ref.other_inputs(number)[0] for number in range(3)]
    found = [jac.reverse(ref.mlp, x)[1] for x in xs]
    noise = torch.Generator().manual_seed(0)
    for J in found:
        off = torch.randn(J.shape, generator=noise)
        J += ref.tolerance / 2 * off * (torch.linalg.matrix_norm(J) / torch.linalg.matrix_norm(off))[:, None, None]
    torch.default_generator.manual_seed(0)
    assert oracle.judge_along(found, xs, ref) is None

"""Every case of a sweep, one block of rounds per test: prepare and verdict in the first, then warm up and measure in turn.

The tests that the workers of `python bench.py run SWEEP` run; `benchmarks/bench_jacobians.py` has those of pytest-benchmark.
"""

from __future__ import annotations

from functools import partial
from statistics import mean, median
from typing import NoReturn

import pytest
import torch

import jacobians as jac
from benchmarks.measure import clock, conditions, memory, oracle
from benchmarks.measure.honesty import Dishonest, Trial
from benchmarks.run.session import RECORD, SESSION, Record, Turn, cases_of, in_turn
from jacobians.planning.cost import memory_bytes
from jacobians.planning.plan import make_plan
from jacobians.planning.registry import Request


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each turn."""
    params = []
    for turn in in_turn(cases_of(metafunc.config.option)):
        # Markers do not merge: all options must stand in the one marker nearest to the test, or they are ignored.
        device = turn.case.problem.device
        options = pytest.mark.benchmark(group=turn.case.key.split("/")[0], timer=clock.timer_for(device), disable_gc=True)
        params.append(pytest.param(turn, id=turn.id, marks=options))
    metafunc.parametrize("turn", params)


def test_block(turn: Turn, request: pytest.FixtureRequest) -> None:
    """Measure one block of one method on one problem."""
    session = request.config.stash[SESSION]
    record = session.record(turn.case)
    if record.status is not None:
        pytest.skip(f"{record.status} already")
    request.node.stash[RECORD] = record
    session.wait_for_turn(turn)
    with torch.no_grad():
        if turn.block == 0:
            prepare(record)
        try:
            _measure(record, request)
        except Dishonest as error:
            _reject(record, str(error))


def prepare(record: Record) -> Trial:
    """Make the computation ready and judge its result; skip or fail the test where there is nothing to time."""
    case, problem = record.case, record.case.problem
    reason = jac.find_method(case.method).unsupported(problem)
    if reason is not None:
        record.close("unsupported", reason)
        pytest.skip(reason)
    needed, free = memory_bytes(problem, jac.find_method(case.method).mode), memory.free_bytes(problem.device)
    if needed > free:
        reason = f"not started: it needs at least {needed / 1e9:.3g} GB and {free / 1e9:.3g} GB are free"
        record.close("oom", reason)
        pytest.skip(reason)

    ref = oracle.reference(problem, case.init, case.seed)
    if ref.tolerance >= oracle.REFUSED:
        error = ref.tolerance / oracle.SAFETY
        reason = f"rounding to {problem.dtype} alone makes errors of {error:.2g} here, so that nothing can be told; take xavier weights"
        record.close("unsupported", reason)
        pytest.skip(reason)
    ref = ref.own()
    timer = clock.timer_for(problem.device)
    clock.resolution(timer)  # refuses a clock that stands still or runs backward before anything relies on it
    start = timer()
    computation = make_plan(ref.mlp, ref.inputs, problem, Request(), case.method).computation
    try:
        trial = Trial(computation, ref, timer)
        result = trial.check_first()
    except Dishonest as error:
        _reject(record, str(error))
    record.prepare_s = timer() - start
    record.verdict = oracle.check(case, result)
    if record.verdict.reason is not None:
        _reject(record, record.verdict.reason)
    record.trial = trial
    return trial


def _measure(record: Record, request: pytest.FixtureRequest) -> None:
    """Measure a block and judge results of it; after the last one settle the case."""
    trial, measurement, case = record.trial, record.measurement, record.case
    device = case.problem.device
    assert trial is not None
    disturbed = trial.rest()
    trial.new_inputs(len(measurement.blocks) + 1, measurement.iterations)
    # Asked for only now: a skip inside a benchmark that has no sample loses the session's own report.
    benchmark = request.getfixturevalue("benchmark")
    timer = clock.timer_for(device)
    rule = measurement.rule
    call_s, busy_s = clock.settle_and_warm(trial.call(), timer, seconds=rule.block_seconds / 4, settle_s=0.0)
    measurement.busy_s += busy_s
    if not measurement.blocks:
        # Laid out here: pytest-benchmark's own calibration goes by a single call, which on a busy machine may be slow.
        measurement.rounds, measurement.iterations = clock.rounds_and_iterations(call_s, rule.block_seconds, timer)
        if record.cache == "cold":
            flush_s, _ = clock.settle_and_warm(lambda: memory.flush_caches(device), timer, seconds=0.0, settle_s=0.0)
            measurement.iterations, measurement.rounds = 1, max(1, round(rule.block_seconds / (flush_s + call_s)))
        trial.new_inputs(1, measurement.iterations)
        trial.call()()
    before = conditions.snapshot()
    loops = [conditions.fixed_s(before, device, timer)]
    a_round = trial.round(measurement.iterations)
    benchmark.pedantic(a_round, setup=partial(_between, trial, record.cache, device), rounds=measurement.rounds, iterations=1)
    trial.after()
    after = conditions.snapshot()
    record.conditions = record.conditions or after
    measurement.add([seconds / measurement.iterations for seconds in benchmark.stats.stats.data])
    measurement.loops.append(mean([*loops, conditions.fixed_s(after, device, timer)]))
    measurement.device_times += clock.device_seconds(trial.call(), device)
    noticed = conditions.notices(before, after, record.conditions, record.threads) + ["load"] * disturbed
    if device == "cuda":
        noticed += conditions.notices_of_gpu(str(torch.cuda.get_device_properties(device).uuid))
    measurement.notices += set(noticed)
    last = measurement.stop is not None
    reason = trial.end_block(median(measurement.blocks[-1]), first_or_last=last or len(measurement.blocks) == 1)
    peak_bytes = memory.peak_bytes(trial.call(), device) if last and reason is None else None
    if last and reason is None:
        reason = trial.check_last(oracle.twin_of(case))
    if reason is not None:
        raise Dishonest(reason)
    if last:
        record.peak_bytes = peak_bytes
        record.close("ok")


def _between(trial: Trial, cache: str, device: str) -> None:
    """Make the next round ready; nothing of this is timed."""
    trial.between()
    if cache == "cold":
        memory.flush_caches(device)


def _reject(record: Record, reason: str) -> NoReturn:
    record.close("invalid", reason)
    pytest.fail(reason, pytrace=False)

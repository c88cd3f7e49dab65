"""Every case of a sweep as a benchmark of pytest-benchmark: `pytest benchmarks --sweep quick --device cpu --benchmark-only`.

All switches of pytest-benchmark apply. `python bench.py run SWEEP` measures the same cases block by block in turn instead, and each library
in a process of its own.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from benchmarks.measure import clock
from benchmarks.measure.honesty import Dishonest, Trial
from benchmarks.measure.oracle import twin_of
from benchmarks.run.blocks import prepare
from benchmarks.run.session import SESSION, cases_of
from benchmarks.workloads.cases import Case
from jacobians.planning.registry import find_method

INPUTS = 64  # that calls take in turn, for pytest-benchmark has no place between rounds of calls


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one benchmark of each case."""
    params = []
    for case in cases_of(metafunc.config.option):
        # Markers do not merge: all options must stand in the one marker nearest to the test, or they are ignored.
        options = pytest.mark.benchmark(group=case.group, timer=clock.timer_for(case.problem.device), disable_gc=True)
        params.append(pytest.param(case, id=case.id, marks=options))
    metafunc.parametrize("case", params)


def _timed(trial: Trial, case: Case, benchmark: Any) -> str | None:
    trial.new_inputs(1, INPUTS)
    trial.round(1)
    call = trial.call()
    if benchmark.enabled:
        clock.settle_and_warm(call, clock.timer_for(case.problem.device), seconds=0.0)
    benchmark(call)
    trial.again_if_it_trains()
    trial.after()
    call_s = benchmark.stats.stats.median if benchmark.enabled else math.inf  # nothing is timed, and nothing gained
    return trial.end_block(call_s) or trial.check_last(twin_of(case))


def test_jacobian(case: Case, benchmark: Any, request: pytest.FixtureRequest) -> None:
    """Check a case against the oracle, time it as pytest-benchmark lays it out, and check the last timed result."""
    record = request.config.stash[SESSION].record(case)
    with torch.no_grad():
        trial = prepare(record)
        try:
            reason = _timed(trial, case, benchmark)
        except Dishonest as error:
            reason = str(error)
    record.close("ok" if reason is None else "invalid", reason)
    problem, method = case.problem, find_method(case.method)
    sizes = {"L": problem.L, "D": problem.D, "K": problem.K, "P": problem.P, "N": problem.N, "widths": list(problem.widths)}
    assert record.verdict is not None
    benchmark.extra_info.update(
        sizes,
        sweep=case.sweep,
        quantity=problem.quantity,
        mode=method.mode,
        implementation=method.implementation,
        device=problem.device,
        dtype=problem.dtype,
        rel_error=record.verdict.rel_error,
        tolerance=record.verdict.tolerance,
    )
    if reason is not None:  # no time without a verdict: neither in the JSON nor in the table
        benchmark.has_error = True
        if benchmark.stats is not None:
            benchmark.stats.stats.data.clear()
        pytest.fail(reason, pytrace=False)

"""The instrument without pytest: measure a few callables in turn, block by block. The suite tests the instrument with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from benchmarks.measure.clock import Timer, rounds_and_iterations, settle_and_warm
from benchmarks.measure.samples import Measurement, StopRule


def measure_in_turn(
    calls: Sequence[Callable[[], object]], rule: StopRule, timer: Timer = time.perf_counter, settle_s: float = 0.0
) -> list[Measurement]:
    """Measure callables A…A B…B C…C A…A …, so that what drifts, drifts for all of them.

    Args:
        calls: The callables.
        rule: When each has been measured enough.
        timer: Clock in seconds.
        settle_s: Pause before each block.

    Returns:
        One measurement per callable.

    Example:
        >>> [m] = measure_in_turn([lambda: sum(range(1000))], StopRule(seconds=0.01))
        >>> len(m.blocks) >= 6
        True
    """
    found = [Measurement(rule) for _ in calls]
    while any(measurement.stop is None for measurement in found):
        for call, measurement in zip(calls, found, strict=True):
            if measurement.stop is None:
                _block(call, measurement, timer, settle_s)
    return found


def _block(call: Callable[[], object], measurement: Measurement, timer: Timer, settle_s: float) -> None:
    call_s, busy_s = settle_and_warm(call, timer, measurement.rule.block_seconds / 4, settle_s)
    measurement.busy_s += busy_s
    if not measurement.blocks:
        measurement.rounds, measurement.iterations = rounds_and_iterations(call_s, measurement.rule.block_seconds, timer)
    loop = range(measurement.iterations)
    samples: list[float] = []
    for _ in range(measurement.rounds):
        start = timer()
        for _ in loop:
            call()
        samples.append((timer() - start) / measurement.iterations)
    measurement.add(samples)

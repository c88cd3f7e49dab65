"""Overhead of the measurement."""

from __future__ import annotations

import statistics
import time

from benchmarks.measure.clock import resolution, timer_for


def measure() -> dict[str, float]:
    """Measure the clock and an empty round."""
    timer = timer_for("cpu")

    def nothing() -> None:
        pass

    def a_round(iterations: int) -> float:
        loop = range(iterations)
        start = timer()
        for _ in loop:
            nothing()
        return timer() - start

    def median(iterations: int) -> float:
        return statistics.median(a_round(iterations) for _ in range(500))

    start = time.perf_counter()
    for _ in range(10_000):
        timer()
    timer_s = (time.perf_counter() - start) / 10_000
    call_s = (median(101) - median(1)) / 100
    return {"timer_s": timer_s, "resolution_s": resolution(timer), "call_s": call_s, "round_s": max(0.0, median(1) - call_s)}

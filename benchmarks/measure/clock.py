"""Clocks and warm-up: synchronised timers, the layout of rounds, thread limits."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable
from functools import lru_cache

import torch

from benchmarks.measure.samples import ClockError

Timer = Callable[[], float]
SETTLE_S = 0.01  # OpenMP's threads spin for some milliseconds after a call
MIN_ROUND_S = 1e-4  # shorter calls are repeated within a round, so that the clock's own cost stays below 0.1 %


def synchronised(synchronize: Callable[[], object], clock: Timer = time.perf_counter) -> Timer:
    """Return a clock that waits for the device before it reads."""

    def timer() -> float:
        synchronize()
        return clock()

    return timer


@lru_cache  # pytest-benchmark caches a timer's precision by the function object: one device, one timer
def timer_for(device: str) -> Timer:
    """Return the timer of a device: the plain clock on the CPU, a synchronised one on any accelerator."""
    if torch.device(device).type == "cpu":
        return time.perf_counter
    return synchronised(lambda: torch.accelerator.synchronize(torch.device(device)))


def settle_and_warm(run: Callable[[], object], timer: Timer, seconds: float, settle_s: float = SETTLE_S) -> tuple[float, float]:
    """Let the machine come to rest, then call `run` until it is warm.

    The thread pools of OpenMP and XLA go on spinning for a while after a call and slow down the next method: hence
    the pause. At least two calls follow: the first one may be slow.
    """
    time.sleep(settle_s)
    calls: list[float] = []
    end = timer() + seconds
    while len(calls) < 2 or timer() < end:
        start = timer()
        run()
        calls.append(timer() - start)
    return statistics.median_low(calls), sum(calls)


def rounds_and_iterations(call_s: float, seconds: float, timer: Timer) -> tuple[int, int]:
    """Lay out a block: rounds of equal numbers of calls.

    Example:
        >>> rounds_and_iterations(call_s=1e-5, seconds=0.1, timer=time.perf_counter)
        (1000, 10)
        >>> rounds_and_iterations(call_s=2.0, seconds=0.1, timer=time.perf_counter)
        (1, 1)
    """
    least_s = max(MIN_ROUND_S, 20 * resolution(timer))
    iterations = max(1, math.ceil(0.95 * least_s / max(call_s, 1e-9)))
    return max(1, round(seconds / (call_s * iterations))), iterations


@lru_cache
def resolution(timer: Timer) -> float:
    """Measure the smallest step a timer shows."""
    steps: list[float] = []
    last = timer()
    for _ in range(100_000):
        now = timer()
        if now < last:
            raise ClockError(f"the clock ran backward, by {last - now:g} s")
        if now > last:
            steps.append(now - last)
            if len(steps) == 100:
                break
        last = now
    if not steps:
        raise ClockError("the clock stands still: 100000 readings gave the same time")
    return statistics.median(steps)


def device_seconds(run: Callable[[], object], device: str, calls: int = 5) -> list[float]:
    """Time calls by the device's own events: the work without the launch."""
    if torch.device(device).type != "cuda":
        return []
    times: list[float] = []
    for _ in range(calls):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return times


def limit_threads(threads: int) -> None:
    """Keep this process on `threads` cores, and torch on as many threads.

    Libraries size their pools by the cores they may run on, some of them only once: call this before they are used.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:threads])
    torch.set_num_threads(threads)


def available_threads() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

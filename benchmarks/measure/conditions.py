"""Conditions of a block: clock rate, other processes, our threads. Noticed, never silent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil
import torch

CLOCK_CHANGE = 0.30  # a fixed loop may differ this much between blocks of a case before it is noticed: turbo steps are smaller
OTHERS_BUSY = 0.25  # cores kept busy by others, of one


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Processor seconds used so far: by all processes, by ours; the wall clock; the fixed loop's duration."""

    all_s: float
    ours_s: float
    wall_s: float
    loop_s: float


def snapshot() -> Snapshot:
    """Read the conditions now; takes about 0.3 ms."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    everything = sum(times[: 8 if hasattr(times, "steal") else None]) - idle  # without guest time, which user time includes
    own = os.times()
    return Snapshot(everything, own.user + own.system, time.perf_counter(), fixed_loop())


def fixed_loop() -> float:
    """Time a loop of fixed length in plain Python: it tells the processor's speed and nothing else."""
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(500):
            pass
        best = min(best, time.perf_counter() - start)
    return best


def fixed_s(shot: Snapshot, device: str, timer: Callable[[], float]) -> float:
    """Return the time of the fixed loop of a device: on a processor that of the snapshot, on a card that of matrix products."""
    if device == "cpu":
        return shot.loop_s
    with torch.inference_mode():
        a = torch.full((1024, 1024), 1 / 1024, device=device)  # its square is itself
        b = torch.empty_like(a)
        best = float("inf")
        for _ in range(5):
            start = timer()
            for _ in range(5):
                torch.mm(a, a, out=b)
            best = min(best, timer() - start)
    return best


def notices(before: Snapshot, after: Snapshot, first: Snapshot, threads: int) -> list[str]:
    """Say what was unusual during a block."""
    found: list[str] = []
    now, then = min(before.loop_s, after.loop_s), first.loop_s
    if max(now, then) > (1 + CLOCK_CHANGE) * min(now, then):
        found.append("clock")
    wall = after.wall_s - before.wall_s
    others = (after.all_s - before.all_s) - (after.ours_s - before.ours_s)
    # The system counts in ticks of 10 ms per core: below a tenth of a second that says nothing.
    if wall >= 0.1 and others / wall > OTHERS_BUSY:
        found.append("load")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else threads
    if available < threads or torch.get_num_threads() < threads:
        found.append("threads")
    return found


def load_before(seconds: float = 0.3) -> str | None:
    """Look at the load before a run starts, and say what it will cost."""
    cores = psutil.cpu_count() or 1
    busy = psutil.cpu_percent(interval=seconds) / 100 * cores
    if busy < OTHERS_BUSY:
        return None
    return (
        f"other processes keep {busy:.1f} of {cores} cores busy: times will be longer and intervals wider, and the rows flagged; "
        "ratios between methods hold better, for they are of blocks measured in turn"
    )


def notices_of_gpu(name: str) -> list[str]:
    """Ask NVML what the card that is measured was doing; the run's other workers hold it too, and wait meanwhile."""
    import pynvml

    found = []
    try:
        _open_nvml()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        own = [handle for handle in handles if name in str(pynvml.nvmlDeviceGetUUID(handle))] or handles
        slow = pynvml.nvmlClocksThrottleReasonSwThermalSlowdown | pynvml.nvmlClocksThrottleReasonHwSlowdown
        if any(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) & slow for handle in own):
            found.append("clock")
        if any(_others({one.pid for one in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}) for handle in own):
            found.append("load")
    except pynvml.NVMLError:
        pass  # there is no NVML, or a slice of a card does not answer everything
    return found


@lru_cache
def _open_nvml() -> None:
    import pynvml

    pynvml.nvmlInit()  # takes longer than a block: once a process


def _others(on_card: set[int]) -> bool:
    """Say whether somebody else computes on a card; in a container its numbers of processes can be others than ours, and are counted."""
    family = {os.getpid(), *(one.pid for one in psutil.Process(os.getppid()).children() if _is_worker(one))}
    return bool(on_card - family) if on_card & family else len(on_card) > len(family)


def _is_worker(process: psutil.Process) -> bool:
    try:
        return any(Path(part).name == "blocks.py" for part in process.cmdline())
    except psutil.Error:
        return False

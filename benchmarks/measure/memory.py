"""Memory: what is free, the peak of a call, and caches pushed empty."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import psutil
import torch


@lru_cache
def _flush_buffer(device: str) -> torch.Tensor:
    sizes = [
        int(path.read_text().strip().removesuffix("K")) * 1024 for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    wanted = 2 * max(sizes, default=32 * 2**20) if torch.device(device).type == "cpu" else 256 * 2**20
    return torch.zeros(min(wanted, 2**30) // 8, dtype=torch.float64, device=device)


def flush_caches(device: str) -> None:
    """Push everything else out of the caches, by writing a buffer twice as large as the largest of them (1 GiB at most)."""
    _flush_buffer(device).add_(1.0)
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def free_bytes(device: str) -> int:
    """Return the memory that a computation may still take."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def peak_bytes(run: Callable[[], object], device: str) -> int | None:
    """Measure the peak memory of one call beyond what was held before it.

    On CUDA this is the allocator's own count. On the CPU it is the kernel's high-water mark of resident memory, reset
    before the call, so it counts every library's memory alike, to a page.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = run()
        torch.cuda.synchronize(device)
        del result
        return torch.cuda.max_memory_allocated(device) - before
    if torch.device(device).type != "cpu":
        return None
    gc.collect(1)  # young garbage alone: to visit every object of the libraries takes a third of a second
    _return_free_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark to the current resident size
        before = _resident("VmHWM")
        result = run()
        peak = _resident("VmHWM")
        del result
    except (OSError, LookupError):
        return None
    return max(0, peak - before)


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def _return_free_memory() -> None:
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that is free but still resident would hide the peak
    except (OSError, AttributeError):
        pass

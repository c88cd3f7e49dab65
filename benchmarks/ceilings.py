"""The measured ceilings of a device: how fast it reads memory, multiplies matrices, and starts an operation."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

from benchmarks.timing import timer_for

READ_SIZES = {"1MB": 2**20, "16MB": 2**24, "256MB": 2**28}


@lru_cache
def measure(device: str) -> dict[str, float]:
    """Measure the ceilings of a device, in about a second.

    Args:
        device: Torch device.

    Returns:
        `read_<size>_bytes_per_s`: the best rate of a sum over that much memory; `gemm_flops_per_s`: of a float32 product of two
        1024×1024 matrices; `call_s`: of an operation on one number.
    """
    found: dict[str, float] = {}
    for name, size in READ_SIZES.items():
        data = torch.ones(size // 4, device=device)
        found[f"read_{name}_bytes_per_s"] = size / _best(data.sum, device)
    A = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)).to(device)
    found["gemm_flops_per_s"] = 2 * 1024**3 / _best(lambda: A @ A, device)
    one = torch.ones(1, device=device)
    found["call_s"] = _best(lambda: one * one, device, calls=2000)
    return found


def _best(run: Callable[[], object], device: str, calls: int = 8) -> float:
    timer = timer_for(device)
    best = float("inf")
    for _ in range(calls):
        start = timer()
        run()
        best = min(best, timer() - start)
    return best

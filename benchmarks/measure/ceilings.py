"""The measured ceilings of a device: how fast it reads memory, multiplies matrices, and starts an operation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
import torch

from benchmarks.measure.clock import timer_for
from jacobians import machine
from jacobians.cost import cost
from jacobians.kernels.cpu import runner
from jacobians.machine import Ceilings
from jacobians.problem import Problem

READ_SIZES = {"256KB": 2**18, "1MB": 2**20, "4MB": 2**22, "16MB": 2**24, "32MB": 2**25, "64MB": 2**26, "256MB": 2**28}
AT_LEAST_BYTES = 2**26  # read in one timing


def measured(device: str) -> Ceilings:
    """Return the ceilings of a device, measured once per machine and then kept in the user's cache directory.

    Args:
        device: Torch device.

    Returns:
        The ceilings.
    """
    known = machine.ceilings(device)
    return known if known.measured else _measured_now(device, torch.get_num_threads())


@functools.cache  # in this process too, for without a cache directory nothing is kept
def _measured_now(device: str, threads: int) -> Ceilings:
    found = measure(device)
    machine.remember_ceilings(device, found)
    return found


def measure(device: str) -> Ceilings:
    """Measure the ceilings of a device, in about two seconds.

    Memory is read by our own loop over all threads (on an accelerator by a sum), each size again and again, so that a small one
    is read from the caches. The rate of products is that of torch or NumPy, whichever is faster, on 1024×1024 float32 matrices.

    Args:
        device: Torch device.

    Returns:
        The ceilings.
    """
    read: list[tuple[int, float]] = []
    ours = device == "cpu" and runner.available()
    for size in READ_SIZES.values():
        data = torch.ones(size // 4, device=device)
        passes = max(1, AT_LEAST_BYTES // size) if ours else 1
        threads = torch.get_num_threads()
        run: Callable[[], object] = (lambda d=data, p=passes, t=threads: runner.read_all(d, p, t)) if ours else data.sum
        read.append((size, size * passes / _best(run, device)))
    A = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0)).to(device)
    best = _best(lambda: A @ A, device)
    if device == "cpu":
        B: np.ndarray = A.numpy()
        best = min(best, _best(lambda: B @ B, device))
    one = torch.ones(1, device=device)
    call_s = _best(lambda: one * one, device, calls=2000)
    return Ceilings(tuple(read), 2 * 1024**3 / best, call_s, measured=True)


def floor_s(problem: Problem, mode: str, ceilings: Ceilings) -> float:
    """Say how fast a mode could be at best: all its operations at the rate of products, or its traffic at the rate of memory.

    The larger of the two counts, as if everything overlapped, and one operation's call. Forward mode reads the weights once; reverse
    and mixed mode need all slopes before they multiply, and read them twice. x is read and J written once.

    Args:
        problem: The problem.
        mode: `"forward"`, `"reverse"` or `"mixed"`.
        ceilings: Rates of the device.

    Returns:
        Seconds.

    Example:
        >>> c = Ceilings(read=((10**6, 100e9),), flops=1e11, call_s=1e-6)
        >>> f"{floor_s(Problem(widths=(1000, 1000, 1000, 1)), 'reverse', c):.1e}"
        '1.6e-04'
    """
    work = cost(problem, mode)
    weights = work.bytes - problem.itemsize * problem.N * (problem.D + problem.P * problem.D)
    traffic = work.bytes + (weights if mode != "forward" else 0)
    rate = ceilings.flops * 4 / max(4, problem.itemsize)
    return ceilings.call_s + max(work.flops / rate, traffic / ceilings.bandwidth(work.bytes))


def as_record(ceilings: Ceilings) -> dict[str, float]:
    """Return the ceilings under the names of environment.json.

    Args:
        ceilings: The ceilings.

    Returns:
        Name with unit to number.
    """
    names = {size: name for name, size in READ_SIZES.items()}
    rates = {f"read_{names.get(size, str(size))}_bytes_per_s": rate for size, rate in ceilings.read}
    return {**rates, "gemm_flops_per_s": ceilings.flops, "call_s": ceilings.call_s}


def from_record(record: Mapping[str, float]) -> Ceilings:
    """Read ceilings back from what `as_record` made of them.

    Args:
        record: Of an environment.json.

    Returns:
        The ceilings.

    Raises:
        KeyError: A rate is missing.
    """
    sizes = {f"read_{name}_bytes_per_s": size for name, size in READ_SIZES.items()}
    read = sorted((sizes[name], rate) for name, rate in record.items() if name in sizes)
    return Ceilings(tuple(read), record["gemm_flops_per_s"], record["call_s"], measured=True)


def _best(run: Callable[[], object], device: str, calls: int = 8) -> float:
    timer = timer_for(device)
    best = float("inf")
    for _ in range(calls):
        start = timer()
        run()
        best = min(best, timer() - start)
    return best

"""The measured ceilings of a device: how fast it reads memory, multiplies and adds, and starts an operation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.measure.clock import timer_for
from jacobians.kernels.native import runner
from jacobians.modes.bracketing import known_bracketing
from jacobians.planning import machine
from jacobians.planning.cost import cost
from jacobians.planning.machine import Ceilings
from jacobians.planning.registry import JACOBIAN
from jacobians.problem import Problem

READ_SIZES = {"256KB": 2**18, "1MB": 2**20, "4MB": 2**22, "16MB": 2**24, "32MB": 2**25, "64MB": 2**26, "256MB": 2**28}
LARGEST_BYTES = 2**30  # of an accelerator, whose caches are large
AT_LEAST_BYTES = 2**26  # read in one timing
MULTIPLY_ADD_PASSES = 200_000
AGAIN_S = 60.0  # between two looks at the ceilings in one process
MOST = 1.05  # of a ceiling: what noise explains; a case above it is flagged

_last_look: dict[tuple[str, int], float] = {}  # device and threads to the time


def measured(device: str) -> Ceilings:
    """Return the ceilings of a device, measured once per machine and then kept in the user's cache directory."""
    known = machine.ceilings(device)
    return known if known.measured else raised(device)


def raised(device: str, doubted: bool = False) -> Ceilings:
    """Measure the ceilings again, and keep the better of each rate: what else runs on a machine can only hide how fast it is.

    Within a minute of the last time in this process they are not measured again, so that short runs are short.
    """
    known, threads = machine.ceilings(device), torch.get_num_threads()
    last = _last_look.get((device, threads))
    if known.measured and last is not None and monotonic() - last < AGAIN_S and not doubted:
        return known
    found = best(known, measure(device)) if known.measured else _measured_now(device, threads)
    machine.remember_ceilings(device, found)
    _last_look[device, threads] = monotonic()
    return found


def best(one: Ceilings, other: Ceilings) -> Ceilings:
    """Combine two measurements of one device.

    Example:
        >>> a = Ceilings(((10**6, 1e11),), 2e11, 1e11, 1e11, 2e-6, measured=True)
        >>> b = Ceilings(((10**6, 2e11),), 1e11, 1e11, 1e11, 1e-6, measured=True)
        >>> best(a, b) == Ceilings(((10**6, 2e11),), 2e11, 1e11, 1e11, 1e-6, measured=True)
        True
    """
    sizes = dict(one.read)
    read = tuple((size, max(rate, sizes.get(size, 0.0))) for size, rate in other.read)
    flops, flops64, gemm = (max(getattr(one, name), getattr(other, name)) for name in ("flops", "flops64", "gemm"))
    return Ceilings(read, flops, flops64, gemm, min(one.call_s, other.call_s), measured=True)


@functools.cache  # in this process too, for without a cache directory nothing is kept
def _measured_now(device: str, threads: int) -> Ceilings:
    return measure(device)


def measure(device: str) -> Ceilings:
    """Measure the ceilings of a device, in about two seconds.

    Memory is read by our own loop over all threads (on an accelerator by a sum), each size again and again, so that a small one
    is read from the caches. Arithmetic is our own loop of multiply-adds in registers, which no method can beat. The rate of products
    is that of torch or NumPy, whichever is faster, on 1024×1024 float32 matrices: what the planner goes by, and no ceiling. On an
    accelerator products of 8192×8192 matrices by the library stand for both.
    """
    one = torch.ones(1, device=device)
    if device != "cpu":
        call_s = _best(lambda: one * one, device, calls=2000)
        flops = _products(device)
        return Ceilings(_reads_of_an_accelerator(device), flops, _products(device, torch.float64), flops, call_s, measured=True)
    read: list[tuple[int, float]] = []
    ours = runner.available()
    for size in READ_SIZES.values():
        data = torch.ones(size // 4, device=device)
        passes = max(1, AT_LEAST_BYTES // size) if ours else 1
        threads = torch.get_num_threads()
        run: Callable[[], object] = (lambda d=data, p=passes, t=threads: runner.read_all(d, p, t)) if ours else data.sum
        read.append((size, size * passes / _best(run, device)))
    call_s = _best(lambda: one * one, device, calls=2000)
    gemm = _products(device)
    if not ours:
        return Ceilings(tuple(read), gemm, gemm / 2, gemm, call_s, measured=True)
    flops, flops64 = (max(_multiply_adds(dtype) for _ in range(8)) for dtype in ("float32", "float64"))
    return Ceilings(tuple(read), flops, flops64, gemm, call_s, measured=True)


def _reads_of_an_accelerator(device: str) -> tuple[tuple[int, float], ...]:
    """Return working sets and the rates of sums over them, many between two looks at the clock, so that launches overlap.

    A small set is read faster than launches follow each other: it counts as read at the rate of the next larger one, at least.
    """
    found: list[tuple[int, float]] = []
    for size in (*READ_SIZES.values(), LARGEST_BYTES):
        data, times = torch.ones(size // 4, device=device), max(20, min(200, LARGEST_BYTES // size))

        def sums(data: torch.Tensor = data, times: int = times) -> None:
            for _ in range(times):
                data.sum()

        found.append((size, size * times / _best(sums, device, calls=4)))
    rates = [max(rate for _, rate in found[index:]) for index in range(len(found))]
    return tuple((size, rate) for (size, _), rate in zip(found, rates, strict=True) if size in READ_SIZES.values())


def library_rates(device: str) -> dict[str, float]:
    """Return the rates of large matrix products on an accelerator by precision, for a report: no method here uses the lower ones."""
    before = torch.get_float32_matmul_precision()
    rates = {"float32": _products(device), "bfloat16": _products(device, torch.bfloat16)}
    try:
        torch.set_float32_matmul_precision("high")
        rates["tf32"] = _products(device)
    finally:
        torch.set_float32_matmul_precision(before)
    return rates


def _multiply_adds(dtype: str) -> float:
    """Return the operations per second of our loop of multiply-adds in registers, on all threads."""
    timer = timer_for("cpu")
    start = timer()
    operations = runner.multiply_add(dtype, MULTIPLY_ADD_PASSES, torch.get_num_threads())
    return operations / (timer() - start)


def _products(device: str, dtype: torch.dtype = torch.float32) -> float:
    """Return the operations per second of a large matrix product by torch or NumPy, whichever is faster."""
    n = 1024 if device == "cpu" else 8192
    A = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    best = _best(lambda: A @ A, device)
    if device == "cpu":
        B: np.ndarray = A.numpy()
        with threadpool_limits(torch.get_num_threads()):
            best = min(best, _best(lambda: B @ B, device))
    return 2 * n**3 / best


def floor_s(problem: Problem, mode: str, ceilings: Ceilings) -> float:
    """Return the least time of a mode: all operations at the rate of multiply-adds in registers, or its traffic at that of memory.

    The larger of the two counts, as if everything overlapped, and one operation's call. Forward mode reads the weights once; reverse
    and mixed mode need all slopes before they multiply, and read them twice, but what the second-level caches hold of the first reading
    is near. x is read and J written once.

    Example:
        >>> c = Ceilings(read=((10**6, 100e9),), flops=2e11, flops64=1e11, gemm=1e11, call_s=1e-6)
        >>> f"{floor_s(Problem(widths=(1000, 1000, 1000, 1)), 'forward', c):.1e}"
        '1.0e-02'
    """
    work = cost(problem, mode)
    # Between two measured sizes the faster rate: where a cache ends is not known, and a limit must not be too strict.
    rate = next((rate for size, rate in reversed(ceilings.read) if size <= work.bytes), ceilings.read[0][1])
    total = again = work.bytes  # of other quantities all may be near
    if problem.quantity == JACOBIAN:
        weights = work.bytes - problem.itemsize * problem.N * (problem.D + problem.P * problem.D)
        real = known_bracketing(problem.widths, problem.batch is not None, problem.scaled).mode if mode == "mixed" else mode
        again = 0 if real == "forward" else weights
        total += again
    near = min(again, near_bytes() if problem.device == "cpu" else 0)
    traffic = (total - near) / rate + near / max(rate for _, rate in ceilings.read)
    return ceilings.call_s + max(work.flops / ceilings.peak(problem.itemsize), traffic)


@functools.cache
def near_bytes() -> int:
    """Return the size of the second-level caches of all cores together; 4 MB where the system does not tell."""
    found = 0
    for index in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index2"):
        shared = len((index / "shared_cpu_list").read_text().split(","))
        found += int((index / "size").read_text().strip().removesuffix("K")) * 1024 // max(1, shared)
    return found or 2**22


def fraction(problem: Problem, mode: str, median_s: float, ceilings: Ceilings) -> float:
    """Return how close a time is to the limit."""
    return floor_s(problem, mode, ceilings) / median_s


def as_record(ceilings: Ceilings) -> dict[str, float]:
    """Return the ceilings under the names of environment.json."""
    names = {size: name for name, size in READ_SIZES.items()}
    rates = {f"read_{names.get(size, str(size))}_bytes_per_s": rate for size, rate in ceilings.read}
    arithmetic = {"multiply_add_flops_per_s": ceilings.flops, "multiply_add_float64_flops_per_s": ceilings.flops64}
    return {**rates, **arithmetic, "gemm_flops_per_s": ceilings.gemm, "call_s": ceilings.call_s}


def from_record(record: Mapping[str, float]) -> Ceilings:
    """Read ceilings back from what `as_record` made of them."""
    sizes = {f"read_{name}_bytes_per_s": size for name, size in READ_SIZES.items()}
    read = sorted((sizes[name], rate) for name, rate in record.items() if name in sizes)
    names = ("multiply_add_flops_per_s", "multiply_add_float64_flops_per_s", "gemm_flops_per_s", "call_s")
    return Ceilings(tuple(read), *(record[name] for name in names), measured=True)


def _best(run: Callable[[], object], device: str, calls: int = 12) -> float:
    timer = timer_for(device)
    best = float("inf")
    for _ in range(calls):
        start = timer()
        run()
        best = min(best, timer() - start)
    return best

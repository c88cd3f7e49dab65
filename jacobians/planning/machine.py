"""The machine at hand: its ceilings, and the methods' times measured here. Kept in the user's cache directory.

The one place of this package that knows a clock and a file, besides the compiler of the kernels. Nothing here is needed to be right:
without a cache directory, plans are made from typical ceilings.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from jacobians.kernels.native.compiler import cache_directory, processor

VERSION = 3  # of the files
BLOCKS = 10  # of `time_in_turn`: what disturbs a shared machine may last for several


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The best rates of a device."""

    read: tuple[tuple[int, float], ...]  # working sets in bytes, ascending, and the bytes/s at which each is read again and again
    flops: float  # floating-point operations per second of multiply-adds in registers, float32: nothing is faster
    flops64: float  # the same in float64
    gemm: float  # of a large float32 matrix product by the fastest library: what products reach
    call_s: float  # seconds of a torch operation on one number
    measured: bool = False  # here, rather than assumed

    def peak(self, itemsize: int) -> float:
        """Return the rate of arithmetic for numbers of a size."""
        return self.flops64 if itemsize == 8 else self.flops

    def bandwidth(self, working_set: float) -> float:
        """Return the read rate at a working set, between the measured ones on logarithmic scales.

        Example:
            >>> c = Ceilings(read=((10**6, 100e9), (10**8, 25e9)), flops=2e11, flops64=1e11, gemm=1e11, call_s=1e-6)
            >>> round(c.bandwidth(10**7) / 1e9), round(c.bandwidth(1) / 1e9), round(c.bandwidth(10**12) / 1e9)
            (50, 100, 25)
        """
        below = [point for point in self.read if point[0] <= working_set]
        above = [point for point in self.read if point[0] > working_set]
        if not below or not above:
            return (below[-1] if below else above[0])[1]
        (small, fast), (large, slow) = below[-1], above[0]
        share = math.log(working_set / small) / math.log(large / small)
        return fast ** (1 - share) * slow**share


# Defaults when nothing was measured; ratios between methods depend on them little.
ASSUMED = {
    "cpu": Ceilings(((2**18, 150e9), (2**20, 100e9), (2**24, 60e9), (2**28, 25e9)), 3e11, 1.5e11, 2e11, 1e-6),
    "accelerator": Ceilings(((2**20, 3e12), (2**28, 1.5e12)), 5e13, 2.5e13, 3e13, 5e-6),
}


def fingerprint(device: str) -> str:
    """Name this machine, library and number of threads by a hash; what was measured under another name does not count."""
    return _fingerprint(device, torch.get_num_threads())


@functools.lru_cache
def _fingerprint(device: str, threads: int) -> str:
    name = torch.cuda.get_device_name(torch.device(device)) if device.startswith("cuda") and torch.cuda.is_available() else processor()
    facts = (VERSION, device, name, platform.machine(), platform.system(), os.cpu_count(), torch.__version__, threads)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def ceilings(device: str) -> Ceilings:
    """Return the ceilings of a device: those measured here, by `benchmarks.ceilings`, else assumed ones."""
    return _ceilings(device, torch.get_num_threads())


@functools.lru_cache
def _ceilings(device: str, threads: int) -> Ceilings:
    found = _read(f"ceilings-{fingerprint(device)}.json")
    try:
        read = tuple((int(size), float(rate)) for size, rate in found["read"])
        rates = [float(found[name]) for name in ("flops", "flops64", "gemm", "call_s")]
        if read and all(0 < rate < math.inf for rate in (*rates, *(rate for _, rate in read))):
            return Ceilings(read, *rates, measured=True)
        raise ValueError("rates must be positive")
    except (KeyError, TypeError, ValueError):
        if found:
            _set_aside(f"ceilings-{fingerprint(device)}.json")
        return ASSUMED["cpu" if device == "cpu" else "accelerator"]


def remember_ceilings(device: str, measured: Ceilings) -> None:
    """Keep what was measured, for the planner of later processes."""
    _write(f"ceilings-{fingerprint(device)}.json", asdict(measured))
    _ceilings.cache_clear()


def known_times(device: str, key: str) -> dict[str, float]:
    """Return what methods took on a shape on this machine."""
    return dict(_times(fingerprint(device)).get(key, {}))


def remember_times(device: str, key: str, times: dict[str, float]) -> None:
    """Keep what methods took."""
    mark = fingerprint(device)
    _times.cache_clear()  # another process may have added to it
    _write(f"times-{mark}.json", {**_times(mark), key: {**known_times(device, key), **times}})
    _times.cache_clear()


@functools.lru_cache
def _times(mark: str) -> dict[str, dict[str, float]]:
    name = f"times-{mark}.json"
    found = _read(name)
    known: dict[str, dict[str, float]] = {}
    for key, times in found.items():
        if not isinstance(times, dict) or not all(isinstance(s, int | float) and 0 < s < math.inf for s in times.values()):
            _set_aside(name)  # corrupt cache file
            return {}
        known[key] = {method: float(s) for method, s in times.items()}
    return known


def time_in_turn(calls: dict[str, Callable[[], object]], seconds: float = 0.05) -> dict[str, float]:
    """Time callables against each other, in blocks and in turn."""
    blocks: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(BLOCKS):
        for name, call in calls.items():
            end = time.perf_counter() + seconds / BLOCKS
            samples: list[float] = []
            call()
            while len(samples) < 3 or time.perf_counter() < end:
                start = time.perf_counter()
                call()
                samples.append(time.perf_counter() - start)
            blocks[name].append(statistics.median(samples))
    return {name: min(medians) for name, medians in blocks.items()}


def time_few(calls: dict[str, Callable[[], object]], rounds: int = 3) -> dict[str, float]:
    """Time callables against each other by a few calls in turn, of which the first warms up."""
    best = dict.fromkeys(calls, math.inf)
    for number in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start if number else math.inf)
    return best


def _read(name: str) -> dict:
    try:
        found = json.loads((cache_directory() / name).read_text(encoding="utf-8"))
    except (OSError, RuntimeError):
        return {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        _set_aside(name)
        return {}
    return found


def _set_aside(name: str) -> None:
    """Rename a file that cannot be understood, so that it is noticed and no longer read."""
    with contextlib.suppress(OSError, RuntimeError):
        path = cache_directory() / name
        path.replace(path.with_suffix(".bad"))
        logging.getLogger("jacobians").warning("%s could not be understood and was renamed to %s", path, path.with_suffix(".bad").name)


def _write(name: str, content: object) -> None:
    try:
        directory = cache_directory()
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=directory, delete=False, encoding="utf-8") as file:
            json.dump(content, file)
        Path(file.name).replace(directory / name)
    except (OSError, RuntimeError):
        return  # the cache is optional

"""Checks of a CUDA device beyond its methods: driver, card, clocks, launches, and agreement of events and clock."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Iterator

import torch

from benchmarks.analysis.tables import byte_count, duration
from benchmarks.measure.ceilings import library_rates
from benchmarks.measure.clock import timer_for
from benchmarks.run.environment import cuda_driver
from benchmarks.run.items import Item

LAUNCHES = 200
AGREE = 0.2  # of a long kernel's time: what events and the clock, which sees the launch too, may differ by


def items() -> Iterator[Item]:
    """Check the CUDA device."""
    driver = cuda_driver()
    yield Item("driver", "ok" if driver else "wrong", f"{driver or 'NVML does not answer'}, torch is built for {torch.version.cuda}")
    facts = torch.cuda.get_device_properties(0)
    built = torch.cuda.get_arch_list()
    name = f"sm_{facts.major}{facts.minor}"
    served = any(arch.removeprefix("sm_").rstrip("af") <= f"{facts.major}{facts.minor}" for arch in built if arch.startswith("sm_"))
    detail = f"{facts.name}, {name}, {facts.multi_processor_count} multiprocessors; torch has {', '.join(built)}"
    yield Item("card", "ok" if served else "wrong", detail)
    free, total = torch.cuda.mem_get_info()
    yield Item("device memory", "ok" if free > total / 2 else "busy", f"{byte_count(free)} of {byte_count(total)} free")
    yield _card_now()
    version = None if importlib.util.find_spec("triton") is None else __import__("triton").__version__
    yield Item("Triton", "ok" if version else "absent", version or "the kernels in Triton are left out: pip install 'jacobians[cuda]'")
    yield _launch()
    yield _events()
    rates = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {name}" for name, rate in library_rates("cuda").items())
    yield Item("products of 8192×8192", "ok", rates)


def _card_now() -> Item:
    """Say what clocks and power the card has, and who else uses it, as NVML tells."""
    try:
        import pynvml

        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByIndex(0)
        clock, most = (f(card, pynvml.NVML_CLOCK_SM) for f in (pynvml.nvmlDeviceGetClockInfo, pynvml.nvmlDeviceGetMaxClockInfo))
        watts = pynvml.nvmlDeviceGetEnforcedPowerLimit(card) / 1000
        others = max(0, len(pynvml.nvmlDeviceGetComputeRunningProcesses(card)) - 1)
        pynvml.nvmlShutdown()
    except Exception as error:  # NVML says many things on virtual machines
        return Item("clocks", "absent", f"NVML: {error}")
    shared = f"; {others} other processes compute on it" if others else ""
    return Item("clocks", "busy" if others else "ok", f"{clock} of {most} MHz, limit {watts:.0f} W{shared}")


def _launch() -> Item:
    """Time a launch waited for, one not waited for, and a replayed graph of twenty."""
    one = torch.ones(1, device="cuda")
    timer, wait = timer_for("cuda"), torch.cuda.synchronize
    waited = []
    for _ in range(LAUNCHES):
        start = timer()
        one * one
        waited.append(timer() - start)  # the timer synchronises
    start = timer()
    for _ in range(LAUNCHES):
        one * one
    each = (timer() - start) / LAUNCHES
    graph = torch.cuda.CUDAGraph()
    wait()
    with torch.cuda.graph(graph):
        for _ in range(20):
            one * one
    replays = []
    for _ in range(LAUNCHES):
        start = timer()
        graph.replay()
        replays.append(timer() - start)
    median = statistics.median
    detail = (
        f"{duration(median(waited))} with the wait, {duration(each)} in a row, {duration(median(replays) / 20)} each of twenty in a graph"
    )
    return Item("launch", "ok", detail)


def _events() -> Item:
    """Compare CUDA events with the clock around a kernel that is long beside its launch."""
    A = torch.randn(4096, 4096, device="cuda")
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    timer, ratios = timer_for("cuda"), []
    for _ in range(10):
        before = timer()
        start.record()
        A @ A
        end.record()
        seconds = timer() - before
        ratios.append(start.elapsed_time(end) / 1e3 / seconds)
    ratio = statistics.median(ratios)
    answer = "ok" if 1 - AGREE <= ratio <= 1.05 else "wrong"
    return Item("events and clock", answer, f"events say {ratio:.3f} of the clock's time of a large product")

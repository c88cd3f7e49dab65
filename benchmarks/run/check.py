"""Is everything right on this machine? Every method against the oracle, and what measuring relies on."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

import jacobians as jac
from benchmarks.analysis.tables import byte_count, duration
from benchmarks.errors import BadInput
from benchmarks.measure import ceilings, oracle
from benchmarks.measure.clock import available_threads, resolution, timer_for
from benchmarks.measure.conditions import load_before
from benchmarks.run import check_cuda, environment
from benchmarks.run.items import Item
from jacobians.kernels.native import compiler, runner
from jacobians.planning import machine
from jacobians.planning.plan import make_plan
from jacobians.planning.registry import Method, Request, find_quantity

# Small, for the oracle goes through every second derivative by autograd; beyond whole vectors in each size, for the kernels.
PROBLEMS = (jac.Problem(widths=(3, 17, 17, 3), batch=17, bias=True), jac.Problem(widths=(3, 17, 17, 1)))
SLOW = ("torch.compile",)  # half a minute a network: left to the sweeps
LIBRARIES = {
    "jax": "the peers of JAX",
    "safetensors": "checkpoints",
    "scipy": "comparisons",
    "playwright": "tests of the report in a browser",
}


Report = Callable[[int, int, str], object]
Step = tuple[str, Callable[[], Iterable[Item]]]


def check(devices: Sequence[str], module: str | None = None, report: Report = lambda done, total, what: None) -> list[Item]:
    if module is None:
        _compile_quickly()
    steps: list[Step] = [("this machine", lambda: [_clock(), _threads(), _memory(), _load(), *_libraries()])]
    steps += [("the C compiler", lambda: [_compiler(), _cache()])]
    for device in devices:
        steps += _steps(device)
    if module is not None:
        steps.append((module, lambda: _module(module)))
    items = []
    for done, (what, step) in enumerate(steps):
        report(done, len(steps), what)
        items += step()
    return items


def _steps(device: str) -> list[Step]:
    if device not in environment.available_devices():
        return [(device, lambda: [Item(f"device {device}", "absent", f"torch finds no {device} device here")])]
    steps: list[Step] = [(device, lambda: [Item(f"device {device}", "ok", environment.device_name(device))])]
    if device == "cuda":
        steps.append(("the card", check_cuda.items))
    everything = [method for quantity in jac.quantities() for method in jac.methods(quantity=quantity.name)]
    steps += [(f"{m.name}, {device}", lambda m=m: [_method(m, device)]) for m in everything if m.device in {None, device}]
    return [*steps, (f"ceilings, {device}", lambda: [_ceiling(device)])]


def _compile_quickly() -> None:
    """Let JAX compile without optimising what runs once: nothing of it is timed here."""
    if "jax" not in sys.modules:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()


def verdict(items: Sequence[Item]) -> str:
    """Say in one line whether all is right."""
    wrong = [item.what for item in items if item.failed]
    absent = [item.what for item in items if item.answer == "absent"]
    rest = f"; absent, with its reason above: {', '.join(absent)}" if absent else ""
    return f"wrong: {', '.join(wrong)}" if wrong else f"everything checked is right{rest}"


def _clock() -> Item:
    try:
        return Item("clock", "ok", f"resolution {duration(resolution(timer_for('cpu')))}")
    except RuntimeError as error:
        return Item("clock", "wrong", str(error))


def _threads() -> Item:
    return Item("threads", "ok", f"{available_threads()} cores may be used, torch uses {torch.get_num_threads()}")


def _memory() -> Item:
    memory = psutil.virtual_memory()
    return Item("memory", "ok", f"{byte_count(memory.available)} of {byte_count(memory.total)} free")


def _compiler() -> Item:
    command = compiler.compiler()
    if command is None:
        return Item("C compiler", "absent", "none found; the kernels in C are left out: install gcc or clang, or set CC")
    if not runner.available():
        return Item("C compiler", "wrong", jac.find_method("reverse:native").unsupported(jac.Problem(widths=(2, 2))) or command)
    return Item("C compiler", "ok", f"{Path(command).name}; the library knows this processor")


def _cache() -> Item:
    try:
        directory = compiler.cache_directory()
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except (OSError, RuntimeError) as error:
        return Item("cache directory", "absent", f"{error}; kernels are compiled by each process, times are not remembered")
    return Item("cache directory", "ok", f"writable, {byte_count(shutil.disk_usage(directory).free)} free")


def _load() -> Item:
    busy = load_before()
    return Item("load", "busy" if busy else "ok", busy or "the machine is idle")


def _libraries() -> Iterator[Item]:
    for name, purpose in LIBRARIES.items():
        there = importlib.util.find_spec(name) is not None
        yield Item(f"library {name}", "ok" if there else "absent", f"for {purpose}")


def _method(method: Method, device: str) -> Item:
    """Judge a method on a batch, or on one sample with one output where it serves no other."""
    what = f"{method.name}, {device}"
    if method.implementation in SLOW:
        return Item(what, "left out", "it compiles for half a minute; run a sweep with it")
    reasons = []
    quantity = find_quantity(method.quantity)
    for problem in PROBLEMS:
        here = problem.with_(device=device, quantity=quantity.name, loss="mse" if quantity.loss else None)
        if quantity.batched and here.batch is None:
            continue
        reason = method.unsupported(here)
        if reason is not None:
            reasons.append(reason)
            continue
        # So shallow a network amplifies no rounding, but a derivative that is asked for by name may be small itself.
        ref = oracle.reference(here, "xavier", 0, amplifies=here.quantity == "derivatives")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of libraries about themselves
                result = make_plan(ref.mlp, ref.inputs, here, Request(), method.name)(*ref.inputs)
            error = oracle.judge(result, ref)
        except Exception as failure:  # whatever a library does on this machine is the answer
            return Item(what, "wrong", _first_line(failure))
        if error.reason is not None:
            return Item(what, "wrong", error.reason)
        return Item(what, "ok", f"relative error {error.rel_error:.1e} on {_name(here)}")
    return Item(what, "absent", reasons[-1])


def _name(problem: jac.Problem) -> str:
    """Name what was computed: the widths, and the number of samples of a batch."""
    return f"{'-'.join(map(str, problem.widths))}, {'one sample' if problem.batch is None else f'N={problem.batch}'}"


def _ceiling(device: str) -> Item:
    """Compare the fastest product of our kernels with the ceiling of arithmetic: nothing may be above it."""
    rates = ceilings.measured(device)
    if rates.gemm > ceilings.MOST * rates.flops:  # kept from a time when the machine was busy, perhaps
        rates = ceilings.raised(device, doubted=True)
    detail = (
        f"{rates.flops / 1e9:.0f} GFLOP/s multiply-add, {rates.gemm / 1e9:.0f} in products, {rates.read[-1][1] / 1e9:.0f} GB/s from memory"
    )
    if rates.gemm <= ceilings.MOST * rates.flops:
        return Item(f"ceilings, {device}", "ok", detail)
    return Item(f"ceilings, {device}", "busy" if load_before() else "wrong", detail)  # the two are timed one after the other


def _module(name: str) -> Iterator[Item]:
    """Check and time a user's own function beside the best hand-written method."""
    function = _load_function(name)
    for problem in PROBLEMS:
        ref = oracle.reference(problem, "xavier", 0)
        what = f"{name}, {_name(problem)}"
        try:
            J = function(ref.mlp, ref.x)
        except Exception as error:  # the user's own
            yield Item(what, "wrong", _first_line(error))
            continue
        judged = oracle.judge(J, ref) if isinstance(J, torch.Tensor) else None
        if judged is None or judged.reason is not None:
            yield Item(what, "wrong", judged.reason or "" if judged else f"it returned a {type(J).__name__}, expected a tensor")
            continue
        ours = jac.plan(ref.mlp, ref.x)
        calls: dict[str, Callable[[], Any]] = {"theirs": lambda ref=ref: function(ref.mlp, ref.x), "ours": lambda ref=ref, p=ours: p(ref.x)}
        times = machine.time_in_turn(calls)
        detail = f"relative error {judged.rel_error:.1e}; {duration(times['theirs'])}, {ours.method} takes {duration(times['ours'])}"
        yield Item(what, "ok", detail)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


def _load_function(name: str) -> Callable[[jac.MLP, torch.Tensor], Any]:
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise BadInput(f"--module takes package:function, got {name!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever the user's module does
        raise BadInput(f"--module {name}: {type(error).__name__}: {error}; is it on the Python path?") from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise BadInput(f"--module {name}: a {type(found).__name__} cannot be called; give a function (mlp, x) -> J")
    return found

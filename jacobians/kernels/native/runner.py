"""Calling the C function: addresses looked up in each call, and tensors that it may not read handed back to torch."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jacobians.kernels.native import compiler
from jacobians.kernels.native.compiler import CompilerError, library
from jacobians.kernels.native.program import EVALUATION, assemble
from jacobians.modes.scaling import index_of
from jacobians.network.mlp import MLP
from jacobians.network.parameters import Parameters
from jacobians.planning.registry import NotPlain, register
from jacobians.problem import Problem

DTYPES = ("float32", "float64")
NO_MEMORY, UNKNOWN_FUNCTION = -1, -2
_PLAIN = {Tensor, nn.Parameter}


class Addresses:
    """Addresses of the parameters of a network, looked up in each call: nothing is copied, and every change is seen."""

    def __init__(self, mlp: MLP, problem: Problem) -> None:
        self._parameters = Parameters(mlp, problem)
        self._known: tuple[object, list[int], bool, Any, Any] = (None, [], True, None, None)

    def now(self) -> tuple[Any, Any, Sequence[Sequence[Tensor | None]]]:
        """Look the parameters up; behind the weights stands the first one again, the seed of a Jacobian."""
        current, flat = self._parameters.now()
        of, at, whole, weights, biases = self._known
        if of is not flat:
            for t in flat:
                if type(t) not in _PLAIN or t.is_neg() or t.layout is not torch.strided:
                    raise NotPlain(f"a parameter is a {type(t).__name__} not a plain strided tensor")
        now = [t.data_ptr() for t in flat]
        if of is not flat or now != at:
            for t in flat:
                _has_memory("a parameter", t)
            whole = all(t.is_contiguous() for t in flat)
            weights, biases = addresses_of((*current[0], current[0][0])), addresses_of(current[1])
            self._known = (flat, now, whole, weights, biases)
        if whole:
            return weights, biases, current
        Ws, bs = copies = [[None if t is None else t.contiguous() for t in tensors] for tensors in current]
        return addresses_of((*Ws, Ws[0])), addresses_of(bs), copies


def plain(name: str, t: Tensor) -> Tensor:
    """Return a contiguous tensor that a C function may read."""
    if type(t) not in _PLAIN or t.is_neg() or t.layout is not torch.strided:
        raise NotPlain(f"{name} is a {type(t).__name__} not a plain strided tensor")
    if not t.is_contiguous():
        t = t.contiguous()
    if t.data_ptr() == 0:
        _has_memory(name, t)
    return t


def done(status: int, result: str) -> None:
    """Raise what the status of a C function means."""
    if status == NO_MEMORY:
        raise MemoryError(f"no memory for the working set of {result}; use a smaller batch")
    if status == UNKNOWN_FUNCTION:
        raise RuntimeError("the compiled library does not know an activation or a loss of this plan; delete the cache directory")


class Runner:
    """Calls the C function for a Jacobian, or some columns of it; `lean` with the least memory, on one thread."""

    def __init__(self, mlp: MLP, mode: str, problem: Problem, value: bool, lean: bool = False, wrt: Sequence[int] = ()) -> None:
        self._kernel = assemble(mode, problem, lean, columns=len(wrt))
        self._columns = index_of(wrt) if wrt else None
        self._program = ctypes.addressof(self._kernel.program)
        self._function = getattr(library(), f"jacobian_{problem.dtype}")
        self._function.argtypes = [ctypes.c_void_p] * 6 + [ctypes.c_int]
        self._addresses, self._value = Addresses(mlp, problem), value
        self._differentiates = mode != EVALUATION
        self._shape, self._value_shape = (*problem.jacobian_shape[:-1], len(wrt) or problem.D), (*problem.input_shape[:-1], problem.P)

    def __call__(self, x: Tensor, addresses: tuple[Any, Any, Any] | None = None) -> tuple[Tensor | None, Tensor]:
        """Compute `(y or None, J)` at x; with the parameters at other addresses where these are given."""
        weights, biases, alive = addresses or self._addresses.now()
        x = plain("x", x)
        if self._columns is not None:
            W = alive[0][0]
            assert W is not None
            seed = W.detach()[:, self._columns].contiguous()
            weights = (ctypes.c_void_p * len(weights))(*weights[:-1], seed.data_ptr())
        y = x.new_empty(self._value_shape) if self._value else None
        J = x.new_empty(self._shape) if self._differentiates or y is None else y  # of which an evaluation writes nothing
        threads = torch.get_num_threads() if self._kernel.threaded else 1
        status = self._function(self._program, weights, biases, x.data_ptr(), J.data_ptr(), None if y is None else y.data_ptr(), threads)
        if status:
            done(status, f"a Jacobian of shape {self._shape}")
        del alive
        return y, J


def read_all(data: Tensor, passes: int, threads: int) -> float:
    """Read memory as fast as our kernels could, to measure the ceiling of it."""
    function = library().read_all_float32
    function.restype = ctypes.c_float
    return function(ctypes.c_void_p(data.data_ptr()), ctypes.c_int64(data.numel()), ctypes.c_int64(passes), ctypes.c_int(threads))


def multiply_add(dtype: str, passes: int, threads: int) -> int:
    """Multiply and add in registers alone, as fast as the processor can, to measure the ceiling of it."""
    function = getattr(library(), f"multiply_add_{dtype}")
    function.restype = ctypes.c_int64
    return function(ctypes.c_int64(passes), ctypes.c_int(threads))


def _has_memory(name: str, t: Tensor) -> None:
    if t.data_ptr() == 0 and t.numel() > 0:
        raise ValueError(f"{name} of shape {tuple(t.shape)} has no memory any more (its storage was resized); gather it first")


def addresses_of(tensors: Sequence[Tensor | None]) -> Any:
    """Return where tensors stand in memory, as a C array."""
    return (ctypes.c_void_p * len(tensors))(*[None if t is None else t.data_ptr() for t in tensors])


@functools.cache
def _why_not() -> str | None:
    try:
        library()
    except CompilerError as error:
        return str(error)
    return None


def available() -> bool:
    """Say whether the library can be compiled and loaded here."""
    return _why_not() is None


def ready(problem: Problem) -> bool:
    """Say whether what the kernels can do for a problem is known at once; where it is not, they are being compiled meanwhile."""
    return problem.device != "cpu" or problem.dtype not in DTYPES or compiler.ready()


def supports(problem: Problem) -> str | None:
    """Say why the kernels cannot serve a problem."""
    if problem.structure:
        return f"computes chains of layers, and this network is none: {problem.structure}"
    if problem.device != "cpu":
        return f"runs on the CPU, not on {problem.device}"
    if problem.dtype not in DTYPES:
        return f"computes in {' and '.join(DTYPES)}, not in {problem.dtype}"
    why_not = _why_not()
    if why_not is not None:
        return why_not
    unknown = [rule.name for rule in problem.activations if not rule.coupled and library().activation_code(rule.name.encode()) < 0]
    return f"has no activation {unknown[0]!r} in C" if unknown else None


in_c = functools.partial(register, hand_written=True, supports=supports, device="cpu", ready=ready)

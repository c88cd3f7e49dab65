"""Guards against methods that remember results, compute outside the timed region, or change the network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measure.clock import Timer
from benchmarks.measure.oracle import Reference, judge
from jacobians.planning.registry import Computation

INPUTS = 2  # that the calls alternate between
FREE_S = 2e-3  # a conversion may take this long whatever it converts: a library's own overhead
TIMES_COPY = 20.0  # and this many times what a copy of the network and the inputs takes
# Operations that move numbers and compute none.
_MOVES = (
    "_to_copy alias as_strided clone contiguous copy_ detach detach_ empty empty_like empty_strided expand is_pinned lift_fresh "
    "new_empty new_empty_strided permute reshape resolve_conj resolve_neg select slice split_with_sizes squeeze t to transpose "
    "unflatten_dense_tensors unsqueeze view"
)
_ALLOWED = frozenset(_MOVES.split())


class Dishonest(Exception):
    """A method did what it must not; the message says what."""


class _OperationsSeen(TorchDispatchMode):
    """Notes the torch operations that compute."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in _ALLOWED:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


class Trial:
    """A prepared method on a network and inputs that change, watched.

    Each block of calls gets new numbers, written into the same tensors, and its calls alternate between two inputs: what a method
    remembers is then wrong. The last timed result is kept and judged; conversions are watched and timed; weights are compared.

    Args:
        computation: The prepared method.
        reference: The network, and what the Jacobian must be.
        timer: The device's timer.
    """

    def __init__(self, computation: Computation, reference: Reference, timer: Timer) -> None:
        self._computation, self._reference, self._timer = computation, reference, timer
        self._weights = [(t, t.detach().clone()) for t in reference.mlp.parameters()]
        start = timer()
        copies = [t.detach().to("cpu", copy=True) for t in (*reference.mlp.parameters(), *reference.inputs, *reference.exact)]
        self._allowed_s = FREE_S + TIMES_COPY * (timer() - start)
        del copies
        self._inputs = [tuple(t.clone() for t in reference.inputs) for _ in range(INPUTS)]
        self._native: list[Any] = []
        self._kept: Any = None
        self._slowest = {"convert": 0.0, "restore": 0.0}

    def check_first(self) -> Tensor | tuple[Tensor, ...]:
        """Run once at the reference's own input."""
        native = self._watched("convert", self._computation.convert, _given(self._reference.inputs))
        self._reset()
        _, result = self._computation.run(native)
        return self._watched("restore", self._computation.restore, result)

    def new_inputs(self, block: int) -> None:
        """Write new numbers into the inputs, in place, and convert them."""
        if self._kept is not None:  # one more look at the conversion back: a busy machine makes a single one slow
            self._watched("restore", self._computation.restore, self._kept[1][1])
            self._kept = None
        for number, inputs in enumerate(self._inputs):
            for now, new in zip(inputs, self._reference.other_inputs(block * INPUTS + number), strict=True):
                now.copy_(new)
        self._native = [self._watched("convert", self._computation.convert, _given(inputs)) for inputs in self._inputs]
        self._reset()

    def calls(self, count: int | None = None) -> Callable[[], None]:
        """Return the function to time; of its `count` calls, of any number by default, the last result is kept for `verdict`."""
        run, native, number, last = self._computation.run, self._native, itertools.count(1).__next__, count

        def call() -> None:
            n = number()
            result = run(native[n % INPUTS])
            if last is None or n == last:
                self._kept = (n % INPUTS, result)

        return call

    def verdict(self) -> str | None:
        """Judge the last timed result, the conversions and the weights."""
        if any(not torch.equal(now.detach(), then) for now, then in self._weights):
            for now, then in self._weights:
                now.detach().copy_(then)  # the other methods of the problem use the same network
            return "the method changed the weights of the network"
        if self._kept is None:
            return "no timed result was kept to be checked"
        which, (_, result) = self._kept
        self._kept = None
        if self._computation.reset is not None:
            # What trains has moved thousands of steps away: judged is a step from the beginning, at the inputs of the last timed one.
            self._reset()
            _, result = self._computation.run(self._native[which])
        try:
            result = self._watched("restore", self._computation.restore, result)
        except Dishonest as error:
            return str(error)
        reason = judge(result, self._reference.at(self._inputs[which])).reason
        if reason is not None:
            return f"the last timed result is wrong: {reason}"
        for what, seconds in self._slowest.items():
            if seconds > self._allowed_s:
                return f"{what} computes: it took {seconds * 1e3:.3g} ms, and copying would take {self._allowed_s * 1e3:.3g} ms at most"
        return None

    def _reset(self) -> None:
        if self._computation.reset is not None:
            self._computation.reset()

    def _watched(self, what: str, function: Callable[[Any], Any], argument: Any) -> Any:
        with _operations() as seen:
            start = self._timer()
            result = function(argument)
            seconds = self._timer() - start
        if seen:
            raise Dishonest(f"{what} computes outside the timed region: {', '.join(dict.fromkeys(seen))}")
        # The fastest of the blocks counts: the first one may compile or import.
        previous = self._slowest[what]
        self._slowest[what] = min(previous, seconds) if previous else seconds
        return result


def _given(inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """Pass x by itself where there is nothing else."""
    return inputs[0] if len(inputs) == 1 else inputs


@contextmanager
def _operations() -> Iterator[list[str]]:
    with _OperationsSeen() as mode:
        yield mode.seen

"""The parameters of a network as a plan trusts them: read at each call, and looked at closely where anything about one has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from jacobians.network.mlp import MLP, Tuples
from jacobians.planning.registry import Stale
from jacobians.problem import Problem

try:  # one call in C, which torch.compile guards its graphs by
    from torch._C._dynamo.guards import TensorGuards  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
except ImportError:  # pragma: no cover - another torch
    TensorGuards = None


class Parameters:
    """Reads the parameters of a network, and refuses those that a plan was not made for."""

    def __init__(self, mlp: MLP, problem: Problem) -> None:
        self._mlp = mlp
        self._chain = mlp._chain  # pyright: ignore[reportPrivateUsage]
        self._biased = mlp.biased
        self._expected = [(out, into) for into, out in pairwise(problem.widths)]
        self._dtype, self._device = getattr(torch, problem.dtype), problem.device
        # One object, so that threads see all of it or nothing: the tuples, all tensors in order, and whether these still look the same.
        self._known: tuple[object, list[Tensor], Callable[..., bool]] = (None, [], lambda *_: False)

    def now(self) -> tuple[Tuples, list[Tensor]]:
        current = self._mlp.parameter_tuples()
        seen, flat, same = self._known
        if current is seen and same(*flat):
            return current, flat
        flat = [t for pair in zip(*current, strict=True) for t in pair if t is not None]
        self._check(current)
        self._known = (current, flat, _guard(flat))
        return current, flat

    def _check(self, current: Tuples) -> None:
        if self._mlp._chain is not self._chain:  # pyright: ignore[reportPrivateUsage]
            raise Stale("the layers were others when this was planned; make another plan")
        if self._mlp.graph is not None:
            if any(t.dtype != self._dtype or str(t.device) != self._device for t in current[0]):
                raise Stale("a parameter has another dtype or device than when this was planned; make another plan")
            return
        if [b is not None for b in current[1]] != self._biased or len(current[0]) != len(self._expected):
            raise Stale("a layer had a bias when this was planned and has none now, or the other way round; make another plan")
        for W, b, shape in zip(*current, self._expected, strict=True):
            for t, wanted in ((W, shape), (b, shape[:1])):
                if t is not None and (tuple(t.shape) != wanted or t.dtype != self._dtype or str(t.device) != self._device):
                    raise Stale(
                        f"a parameter was {wanted}, {self._dtype}, on {self._device} when this was planned and now is {tuple(t.shape)}, "
                        f"{t.dtype}, on {t.device}; make another plan"
                    )


def _guard(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """Return a function of the same tensors that says whether type, dtype, shape, strides and conjugate bits are what they are now."""
    if TensorGuards is not None and all(type(t) in (Tensor, torch.nn.Parameter) for t in tensors):
        return TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check
    now = [_look(t) for t in tensors]
    return lambda *again: [_look(t) for t in again] == now


def _look(t: Tensor) -> tuple[object, ...]:
    return type(t), t.dtype, t.device, t.shape, t.layout, t.stride() if t.layout is torch.strided else None, t.is_neg()

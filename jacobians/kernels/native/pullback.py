"""The way back from y, J and Laplacians to x and the parameters: `torch.autograd` sees one operation.

It recomputes what it needs, block by block, from x and the parameters: nothing but these is kept between the two passes, unless that is
little. Keeping the values and derivatives of every layer always was measured too: docs/methods.md.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from jacobians.kernels.native.compiler import library
from jacobians.kernels.native.input_derivatives import BACK_FORWARD, BACK_REVERSE, PUSH, InputDerivatives, along_tangents
from jacobians.kernels.native.runner import addresses_of, plain
from jacobians.problem import Problem
from jacobians.quantities.pullback import in_pairs, views_of

# A push leaves for the way back what takes no more than this. Beyond, memory comes fresh from the system in each step and its page faults
# cost more than computing again: docs/methods.md.
KEPT_BYTES = 2**25
THIRD = (
    "the kernels in C pull back once, and this asks for a derivative of what they pulled back; "
    "compute with method='forward:eager' or 'reverse:eager' (quantities of their own: 'forward:eager'), which can be differentiated again"
)


class Pullback:
    """The way back from cotangents of y, J (of the columns `wrt`, where not all) and Laplacians to x and the parameters.

    It recomputes what it needs unless the push keeps it; `lean` takes the fewest samples at a time, on one thread.
    """

    def __init__(
        self,
        problem: Problem,
        biased: Sequence[bool],
        laplacians: int = 0,
        keeps: bool = False,
        lean: bool = False,
        wrt: Sequence[int] = (),
    ) -> None:
        kind = BACK_FORWARD if laplacians or along_tangents(problem) else BACK_REVERSE
        self._biased = list(biased)
        self._columns, self._shape = list(wrt), problem.jacobian_shape
        pairs = zip(pairwise(problem.widths), biased, strict=True)
        self._shapes = [shape for (i, o), b in pairs for shape in ((o, i), *([(o,)] if b else []))]
        self.call = InputDerivatives(problem, biased, kind, laplacians, keeps=keeps, lean=lean)

    def __call__(
        self,
        x: Tensor,
        parameters: Sequence[Tensor],
        directions: Tensor | None,
        kept: Tensor | None,
        cotangents: Sequence[Tensor | None],
        wants_x: bool,
        wants_parameters: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Pull back, to one vector of all parameters."""
        weights, biases, alive = self.addresses(parameters)
        if self._columns and cotangents[1] is not None:
            whole = x.new_zeros(self._shape).index_add_(-1, torch.tensor(self._columns), cotangents[1])
            cotangents = (cotangents[0], whole, *cotangents[2:])
        three = [*(None if t is None else plain("a cotangent", t) for t in cotangents), None][:3]
        out = x.new_empty(self.call.parameters) if wants_parameters else None
        gx = torch.empty_like(x) if wants_x else None
        self.call(weights, biases, x, (directions, *three, None), (None, None, None, None, out, gx, kept))
        del alive
        return gx, out

    def addresses(self, parameters: Sequence[Tensor]) -> tuple[Any, Any, object]:
        """Return where parameters stand in memory; behind the weights stands the first one again, the seed of a Jacobian."""
        if [tuple(t.shape) for t in parameters] != self._shapes:  # the C function trusts them
            raise ValueError("a parameter has another shape than in the forward pass; call backward before it is changed")
        pairs = in_pairs([plain("a parameter", t) for t in parameters], self._biased)
        return addresses_of([*(W for W, _ in pairs), pairs[0][0]]), addresses_of([b for _, b in pairs]), pairs


class _Differentiable(Function):
    """One operation of autograd: values by one C function, and their pullback by another."""

    @staticmethod
    def forward(ctx: Any, compute: Any, pull: Pullback, directions: Tensor | None, x: Tensor, *parameters: Tensor) -> Any:
        """Compute y or `None`, J, and Laplacians where there are any."""
        ctx.set_materialize_grads(False)
        ctx.pull = pull
        results, kept = compute(x)
        ctx.save_for_backward(x, kept, directions, *parameters)
        return results

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        x, kept, directions, *parameters = ctx.saved_tensors
        wants_x, wanted = ctx.needs_input_grad[3], ctx.needs_input_grad[4:]
        with torch.no_grad():
            gx, out = ctx.pull(plain("x", x), parameters, directions, kept, cotangents, wants_x, any(wanted))
        found = [None] * len(parameters) if out is None else views_of(out, parameters)
        gradients = [g if wants else None for g, wants in zip((gx, *found), (wants_x, *wanted), strict=True)]
        return None, None, None, *refusing(gradients, [x, *parameters, *cotangents])


def scaled(t: Tensor, factor: float) -> Tensor:
    """Multiply by a number, on one thread."""
    out = torch.empty_like(t)
    function = getattr(library(), f"scaled_{str(t.dtype).removeprefix('torch.')}")
    function.argtypes = [ctypes.c_void_p, ctypes.c_double, ctypes.c_void_p, ctypes.c_int64]
    function.restype = None
    function(t.data_ptr(), factor, out.data_ptr(), t.numel())
    return out


def refusing(gradients: Sequence[Tensor | None], of: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """Raise on double backward."""
    if not torch.is_grad_enabled():
        return gradients
    anchors = [t for t in of if t is not None and t.requires_grad]
    there = iter(_Refusal.apply(len(anchors), *anchors, *[g for g in gradients if g is not None]))
    return [None if g is None else next(there) for g in gradients]


class _Refusal(Function):
    """The identity, which refuses to be differentiated."""

    @staticmethod
    def forward(ctx: FunctionCtx, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.view_as(t) for t in tensors[count:])

    @staticmethod
    def backward(ctx: FunctionCtx, *cotangents: Tensor) -> Any:
        raise RuntimeError(THIRD)


def differentiable(compute: Any, pull: Pullback, x: Tensor, parameters: Sequence[Tensor], directions: Tensor | None = None) -> Any:
    """Compute so that autograd can pull back."""
    with torch.enable_grad():
        return _Differentiable.apply(compute, pull, directions, x, *parameters)


def keeps_for(problem: Problem, biased: Sequence[bool], laplacians: int) -> bool:
    """Say whether a push through a Laplacian leaves what the way back needs, or that is computed again."""
    call = InputDerivatives(problem, biased, PUSH, laplacians, keeps=True)
    return call.kept_numbers * problem.itemsize <= KEPT_BYTES

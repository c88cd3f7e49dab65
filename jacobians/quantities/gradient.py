"""Gradients of a loss with respect to parameters and inputs: one evaluation, one pullback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from jacobians.modes.chunked import ALLOCATOR, LIBRARY_BYTES
from jacobians.network.losses import Loss
from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Cost, Quantity, Request, readable, register_quantity
from jacobians.problem import Problem
from jacobians.quantities.parameters import draw_target, leaves_of, loss_in, sizes, target_fits, torch_loss
from jacobians.quantities.pullback import by_parameters, tape_of, views_of


class Parts(NamedTuple):
    """A gradient as one vector, of which the derivatives by the parameters are views."""

    all: Tensor  # all derivatives, in the order of `mlp.parameters()`, and behind them the loss
    like: Sequence[Tensor]  # a tensor of the shape of each parameter
    x: Tensor | None  # `∂L/∂x`

    @property
    def loss(self) -> Tensor:
        return self.all[-1]

    @property
    def vector(self) -> Tensor:
        return self.all[:-1]

    def tensors(self) -> tuple[Tensor, ...]:
        """Return `(loss, W_1, b_1, W_2, …)`, with `∂L/∂x` behind it where it is there."""
        views = views_of(self.vector, self.like)
        return (self.loss, *views) if self.x is None else (self.loss, *views, self.x)


class Gradient:
    """A loss and its derivatives, of the shapes of the parameters.

    Args:
        given: `(loss, W_1, b_1, W_2, …)`, with `∂L/∂x` behind it where it was asked for; or the same as one vector.
        inputs: Whether `∂L/∂x` is there.

    Attributes:
        x: `∂L/∂x`, of the shape of x, where it was asked for, else `None`.
    """

    __slots__ = ("_given", "_parameters", "x")

    def __init__(self, given: tuple[Tensor, ...] | Parts, inputs: bool) -> None:
        self._given = given
        self._parameters: tuple[Tensor, ...] | None = None
        self.x = given[-1] if inputs else None

    @property
    def loss(self) -> Tensor:
        """The loss, a scalar; with reduction `none` all its values, whose sum is differentiated."""
        return self._given.loss if isinstance(self._given, Parts) else self._given[0]

    def parameters(self) -> tuple[Tensor, ...]:
        """Return `∂L/∂W_1, ∂L/∂b_1, ∂L/∂W_2, …`, in the order of `mlp.parameters()`."""
        if self._parameters is None:
            # Views of one vector are made when they are asked for: each takes about a microsecond.
            tensors = self._given.tensors() if isinstance(self._given, Parts) else self._given
            self._parameters = tensors[1:] if self.x is None else tensors[1:-1]
        return self._parameters

    @property
    def vector(self) -> Tensor:
        """All derivatives by the parameters in one vector, in that order."""
        if isinstance(self._given, Parts):
            return self._given.vector
        return torch.cat([t.reshape(-1) for t in self.parameters()])

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """`∂L/∂W_l`, each (out, in)."""
        return tuple(g for g in self.parameters() if g.ndim == 2)

    @property
    def biases(self) -> tuple[Tensor | None, ...]:
        """`∂L/∂b_l`, each (out,), or `None` where there is no bias."""
        following = zip(self.parameters(), (*self.parameters()[1:], None), strict=True)
        return tuple(b if b is not None and b.ndim == 1 else None for W, b in following if W.ndim == 2)


def gradient_of(mlp: MLP, x: Tensor, target: Tensor, loss: Loss, inputs: bool = False) -> tuple[Tensor, ...]:
    """Compute the gradient of a loss by hand: `∂L/∂W_l = Σ_n C_l[n] ⊗ h_{l-1}[n]`, `∂L/∂b_l = Σ_n C_l[n]`.

    Source:
        Rumelhart, Hinton & Williams, Learning representations by back-propagating errors, Nature 323 (1986).
    """
    batch = x[None] if x.ndim == 1 else x
    y, steps = tape_of(mlp, batch)
    own = y[0] if x.ndim == 1 else y
    value, C = loss.value_and_cotangent(own, target)
    found, C = by_parameters(mlp, steps, C.reshape(y.shape))
    return (value, *found, C.reshape(x.shape)) if inputs else (value, *found)


def gradient_in_pieces(
    mlp: MLP, x: Tensor, target: Tensor, loss: Loss, problem: Problem, inputs: bool, most_bytes: int
) -> tuple[Tensor, ...]:
    """Compute the gradient of a loss a few samples at a time: the sum over all samples is that of the pieces' sums."""
    widths = problem.widths
    each = int(ALLOCATOR * problem.itemsize * (3 * sum(widths) + 4 * max(widths)))  # values, slopes, and two cotangents of a sample
    fixed = LIBRARY_BYTES + int(ALLOCATOR * problem.itemsize * sizes(problem).parameters)  # the derivatives of a piece
    samples = (most_bytes - fixed) // each
    if samples < 1:
        raise ValueError(f"max_bytes={most_bytes} bytes is too little for a gradient of this network; it needs at least {fixed + each}")
    batch, targets = (x[None], target[None]) if x.ndim == 1 else (x, target)
    count = (len(batch) if loss.per_sample else len(batch) * problem.P) if loss.reduction == "mean" else 1
    own = Loss(loss.name, "sum", loss.scale / max(1, count))
    total = [x.new_zeros(()), *(torch.zeros_like(p) for p in mlp.parameters())]
    gx = torch.empty_like(batch) if inputs else None
    for first in range(0, len(batch), samples):
        piece = slice(first, first + samples)
        found = gradient_of(mlp, batch[piece], targets[piece], own, inputs)
        for sum_, part in zip(total, found, strict=False):
            sum_.add_(part)
        if gx is not None:
            gx[piece] = found[-1]
    return (*total, gx.reshape(x.shape)) if gx is not None else tuple(total)


def cost(problem: Problem, mode: str) -> Cost:
    """Count: evaluation, pullback to all layers but the first, and one outer product a weight, each `2 N Σ in out`; two a slope."""
    s = sizes(problem)
    flops = problem.N * (2 * s.weights + 2 * s.weights + 2 * (s.weights - s.first) + 3 * s.neurons)
    return Cost(flops, problem.itemsize * (2 * s.parameters + problem.N * (problem.D + problem.P)))


def exact(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, target = inputs
    with torch.enable_grad():
        network, parameters = leaves_of(mlp)
        loss = torch_loss(loss_in(problem), network(x), target)
        return (loss.detach(), *torch.autograd.grad(loss, parameters))


register_quantity(
    Quantity(
        "gradient",
        "Gradient of a loss in the parameters",
        {"reverse": "C_{L+1} = ∂L/∂y S_{L+1},  C_l = C_{l+1} W_{l+1} S_l,  ∂L/∂W_l = Σ_n C_l[n] ⊗ h_{l-1}[n]"},
        cost,
        exact,
        draw=draw_target,
        takes=("target",),
        fits=target_fits,
        of_parameters=True,
        loss=True,
        call='g = jac.gradient(mlp, x, target, "{loss}", method="{method}")  # g.loss, g.weights, g.biases',
    )
)


@readable("gradient/reverse:eager", options=("inputs", "unreduced"), summary="the cotangent of the loss pulled back, in torch")
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    loss = loss_in(problem)
    return Computation(run=lambda inputs: (None, gradient_of(mlp, *inputs, loss=loss, inputs=request.inputs)))

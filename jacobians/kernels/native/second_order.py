"""Laplacians, Hessians, and the loss of a Jacobian with all its derivatives, by the C function of second order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from jacobians.kernels.native.input_derivatives import BACK_FORWARD, BACK_REVERSE, HESSIAN, PUSH, InputDerivatives, along_tangents
from jacobians.kernels.native.pullback import Pullback, differentiable, keeps_for, refusing, scaled
from jacobians.kernels.native.runner import Addresses, in_c, plain, supports
from jacobians.network.mlp import MLP
from jacobians.planning.registry import JACOBIAN, Computation, Request
from jacobians.problem import Problem
from jacobians.quantities.jacobian_gradient import gradients, not_empty, through
from jacobians.quantities.laplacian import bends
from jacobians.quantities.laplacian_gradient import through_laplacian
from jacobians.quantities.parameters import leaves_of
from jacobians.quantities.pullback import views_of


class _Loss(Function):
    """The loss of a Jacobian with its derivatives, all in one pass: what goes back is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, compute: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        loss, gx, out = compute(x, parameters, ctx.needs_input_grad[1])
        ctx.save_for_backward(x, gx, out, *parameters)
        return loss

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        x, gx, out, *parameters = ctx.saved_tensors
        (g,) = cotangents
        with torch.no_grad():
            found = (None if gx is None else scaled(gx, g.item()), *views_of(scaled(out, g.item()), parameters))
        gradients = [t if wants else None for t, wants in zip(found, ctx.needs_input_grad[1:], strict=True)]
        return None, *refusing(gradients, [x, *parameters, g])


class JacobianLoss:
    """Calls the C function for the mean squared difference of J and a target, with all derivatives in the same pass."""

    def __init__(self, mlp: MLP, problem: Problem) -> None:
        self._pull = Pullback(problem, mlp.biased)
        kind = BACK_FORWARD if along_tangents(problem) else BACK_REVERSE
        numbers = max(1, problem.N * problem.P * problem.D)
        self._call = InputDerivatives(problem, mlp.biased, kind, penalty=1.0 / numbers)

    def __call__(self, x: Tensor, parameters: Sequence[Tensor], target: Tensor | None) -> Tensor:
        for t in (x, *parameters):
            plain("x or a parameter", t)
        at = None if target is None else plain("the target", target)

        def compute(x: Tensor, parameters: Sequence[Tensor], wants_x: bool) -> tuple[Tensor, Tensor | None, Tensor]:
            weights, biases, alive = self._pull.addresses(parameters)
            x = plain("x", x)
            loss, out, gx = x.new_empty(()), x.new_empty(self._call.parameters), torch.empty_like(x) if wants_x else None
            self._call(weights, biases, x, (None, None, None, None, at), (None, None, None, None, out, gx, None), loss)
            del alive
            return loss, gx, out

        with torch.enable_grad():
            return _Loss.apply(compute, x, *parameters)  # pyright: ignore[reportReturnType]


class Laplacians:
    """Calls the C function for y, J and so many Laplacians; with `keeps` it leaves what the way back needs."""

    def __init__(self, mlp: MLP, problem: Problem, laplacians: int, keeps: bool = False) -> None:
        self._addresses = Addresses(mlp, problem)
        self._call = InputDerivatives(problem, mlp.biased, PUSH, laplacians, keeps=keeps)
        batch = problem.input_shape[:-1]
        self._shapes = (*batch, problem.P), problem.jacobian_shape, (*batch, problem.P, laplacians)

    def __call__(
        self, x: Tensor, directions: Tensor, addresses: tuple[Any, Any, object] | None = None
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
        """Compute; with the parameters at other addresses where these are given."""
        weights, biases, alive = addresses or self._addresses.now()
        x, directions = plain("x", x), plain("weights", directions)
        y, J, laplacians = (x.new_empty(shape) for shape in self._shapes)
        kept = x.new_empty(self._call.kept_numbers) if self._call.kept_numbers else None
        self._call(weights, biases, x, (directions, None, None, None, None), (y, J, laplacians, None, None, None, kept))
        del alive
        return (y, J, laplacians), kept


def _second(problem: Problem) -> str | None:
    return bends(problem) or supports(problem)


@in_c(
    "laplacian/forward:native",
    differentiable=True,
    supports=_second,
    summary="value, tangents and Laplacian of a block in C, with a pullback in C",
)
def prepare_laplacian(mlp: MLP, problem: Problem, request: Request) -> Computation:
    """Prepare y, J and any number of Laplacians."""
    biased = mlp.biased
    made: dict[int, tuple[Laplacians, Pullback | None]] = {}

    def run(inputs: tuple[Tensor, Tensor]) -> tuple[None, tuple[Tensor, Tensor, Tensor]]:
        x, directions = inputs
        count = len(directions)
        if count not in made:
            keeps = request.create_graph and keeps_for(problem, biased, count)
            pull = Pullback(problem, biased, count, keeps) if request.create_graph else None
            made[count] = Laplacians(mlp, problem, count, keeps), pull
        compute, pull = made[count]
        if pull is None:
            return None, compute(x, directions)[0]
        plain("x", x)  # raises outside the autograd function, where torch can still step in
        fixed = plain("weights", directions.detach())
        return None, differentiable(lambda x: compute(x, fixed), pull, x, tuple(mlp.parameters()), fixed)

    return Computation(run, records=False)


def loss_reason(problem: Problem) -> str | None:
    """Say why the loss of a Jacobian cannot be computed in one pass."""
    psi = problem.activations[-1]
    if psi.coupled:
        return f"has no {psi.name} in C, through which rows of J are not computed by themselves"
    return supports(problem) or not_empty(problem)


@in_c("jacobian_gradient/fused:native", supports=loss_reason, summary="J, its loss and their pullback block by block in C, no J formed")
def _prepare_loss(mlp: MLP, problem: Problem, request: Request) -> Computation:
    network, parameters = leaves_of(mlp)
    loss = JacobianLoss(network, problem.with_(quantity=JACOBIAN))

    def run(x: Tensor) -> tuple[None, tuple[Tensor, ...]]:
        return None, gradients(loss(x, parameters, None), parameters)

    return Computation(run, records=False, holds=True)


@in_c("hessian/symmetric:native", supports=_second, summary="U' diag(A φ'') U of a block in C")
def _prepare_hessian(mlp: MLP, problem: Problem, request: Request) -> Computation:
    addresses = Addresses(mlp, problem)
    call = InputDerivatives(problem, mlp.biased, HESSIAN)
    nothing = (None,) * 5
    shape = (*problem.jacobian_shape, problem.D)

    def run(x: Tensor) -> tuple[None, tuple[Tensor]]:
        weights, biases, alive = addresses.now()
        x = plain("x", x)
        H = x.new_empty(shape)
        call(weights, biases, x, nothing, (None, None, None, H, None, None, None))
        del alive
        return None, (H,)

    return Computation(run, records=False)


in_c(
    "laplacian_gradient/forward:native",
    supports=lambda problem: _second(problem) or not_empty(problem),
    summary="the forward Laplacian and its pullback in C",
)(through_laplacian("forward:native"))
for _mode in ("forward", "reverse"):
    in_c(
        f"jacobian_gradient/{_mode}:native",
        supports=lambda problem: supports(problem) or not_empty(problem),
        summary=f"{_mode} mode and the pullback through it in C",
    )(through(f"{_mode}:native"))

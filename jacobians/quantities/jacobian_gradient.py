"""Training through a Jacobian: the gradient of the mean of its squared entries with respect to all parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.planning.registry import JACOBIAN, Computation, Cost, Prepare, Quantity, Request, find_method, register, register_quantity
from jacobians.problem import Problem
from jacobians.quantities.parameters import followed, leaves_of, sizes


def penalty(J: Tensor) -> Tensor:
    """Return the mean of the squared entries: the regulariser of contractive networks, but for a factor.

    Source:
        Rifai et al., Contractive auto-encoders (2011); Hoffman, Roberts & Yaida, arXiv 1908.02729 (2019).
    """
    return J.square().mean()


def gradients(loss: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    """Return a loss and its derivatives by autograd, zero where there is no path."""
    if not loss.requires_grad:  # a constant, e.g. the Laplacian of a network without curvature
        return (loss, *(torch.zeros_like(p) for p in parameters))
    return (loss.detach(), *torch.autograd.grad(loss, parameters, materialize_grads=True))


def through(name: str, quantity: str = JACOBIAN, loss: Callable[[Any], Tensor] = penalty) -> Prepare:
    """Make a method that back-propagates through a Jacobian, or another quantity, of ours."""

    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        network, parameters = leaves_of(mlp)
        computation = find_method(name, quantity).prepare(network, problem.with_(quantity=quantity), Request(create_graph=True))

        def run(inputs: Any) -> tuple[None, tuple[Tensor, ...]]:
            with torch.enable_grad():
                return None, gradients(loss(computation.run(inputs)[1]), parameters)

        return Computation(run, records=False, holds=True)

    return prepare


def _cost(problem: Problem, mode: str) -> Cost:
    """Count the Jacobian and the way back, which may go along the other order where that takes less."""
    # For each tangent or cotangent there is a product ahead, one back and an outer product; none by the layer where it begins, for a
    # tangent of the input is a column of its weights.
    s = sizes(problem)
    tangents = 2 * problem.D * (s.weights - s.first)
    cotangents = 2 * problem.P * (s.weights - problem.widths[-2] * problem.widths[-1])
    forward = mode == "forward" or (mode == "fused" and problem.D <= problem.P)
    streams = problem.D if forward else problem.P
    ahead, other = (tangents, cotangents) if forward else (cotangents, tangents)
    value = 2 * s.weights * 2 + 2 * (s.weights - s.first)
    chain = ahead + min(2 * ahead, 3 * other)
    flops = problem.N * (value + chain + 6 * s.neurons * (1 + streams))
    return Cost(flops, problem.itemsize * (2 * s.parameters + problem.N * problem.D * (1 + 2 * problem.P)))


def _exact(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        y, at, parameters = followed(mlp, problem, inputs[0])
        rows = [torch.autograd.grad(y[:, p].sum(), at, create_graph=True)[0] for p in range(problem.P)]
        return gradients(penalty(torch.stack(rows, 1)), parameters)


def not_empty(problem: Problem) -> str | None:
    """Say why there is no gradient."""
    return None if problem.N else "has nothing to do for an empty batch"


register_quantity(
    Quantity(
        "jacobian_gradient",
        "Gradient of mean J² in the parameters",
        {
            "reverse": "J by cotangents, and back: what was pulled is pushed, then the value is pulled back",
            "forward": "J by tangents, and back: what was pushed is pulled, then the value is pulled back",
            "fused": "J, its loss and the way back for a few samples at a time; J is not formed",
            "chain": "reverse mode written out, and autograd back through it",
        },
        _cost,
        _exact,
        of_parameters=True,
        call="J = jac.jacobian(mlp, x, create_graph=True)  # then any loss of J, and loss.backward()\n"
        "loss = jac.jacobian_loss(mlp, x)  # or this one, with all derivatives in the same pass",
    )
)

_in_torch = partial(register, hand_written=True, supports=not_empty)
_in_torch("jacobian_gradient/reverse:eager", summary="autograd through reverse mode in torch")(through("reverse:eager"))
_in_torch("jacobian_gradient/forward:eager", summary="autograd through forward mode in torch")(through("forward:eager"))

"""Training through a Laplacian: the gradient of its mean square in all parameters, as physics-informed networks need it."""

from __future__ import annotations

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.planning.registry import Cost, Prepare, Quantity, register, register_quantity
from jacobians.problem import Problem
from jacobians.quantities.jacobian_gradient import gradients, not_empty, through
from jacobians.quantities.laplacian import bends, directions_fit, ones, second_by_autograd
from jacobians.quantities.parameters import followed, sizes


def residual(lap: Tensor) -> Tensor:
    """Return the mean square of Laplacians: the loss of Laplace's equation at sampled points.

    Source:
        Raissi, Perdikaris & Karniadakis, Physics-informed neural networks (2019).
    """
    return lap.square().mean()


def through_laplacian(name: str) -> Prepare:
    """Make a method that back-propagates through a Laplacian of ours."""
    return through(name, "laplacian", lambda three: residual(three[2]))


def _cost(problem: Problem, mode: str) -> Cost:
    """Count D + 2 streams, each pushed and pulled and with an outer product: tangents and Laplacian are free in the first layer."""
    s = sizes(problem)
    streams = problem.D + 1
    value = 2 * s.weights * 2 + 2 * (s.weights - s.first)
    flops = problem.N * (value + 6 * streams * (s.weights - s.first) + 12 * s.neurons * streams)
    return Cost(flops, problem.itemsize * (2 * s.parameters + problem.N * (problem.D + 2 * problem.P)))


def _exact(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, directions = inputs
    with torch.enable_grad():
        y, at, parameters = followed(mlp, problem, x)
        _, lap = second_by_autograd(y, at, directions, create_graph=True)
        return gradients(residual(lap), parameters)


register_quantity(
    Quantity(
        "laplacian_gradient",
        "Gradient of mean (Δy)² in the parameters",
        {
            "forward": "value, tangents and Laplacian pushed, and all three pulled back",
            "reverse": "each entry of each row of J differentiated again, and autograd back through it",
            "forward-over-reverse": "traces of Hessians, and autograd back through them",
            "nested": "tangents of tangents, and autograd back through them",
            "taylor": "Taylor polynomials of degree two, and autograd back through them",
        },
        _cost,
        _exact,
        draw=ones,
        takes=("directions",),
        fits=directions_fit,
        of_parameters=True,
        order=lambda problem: 2,
        call="y, J, lap = jac.laplacian(mlp, x, create_graph=True)  # then any loss of the three, and loss.backward()",
    )
)


register(
    "laplacian_gradient/forward:eager",
    hand_written=True,
    supports=lambda problem: bends(problem) or not_empty(problem),
    summary="autograd through the formula in torch",
)(through_laplacian("forward:eager"))

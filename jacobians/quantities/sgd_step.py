"""A step of stochastic gradient descent, `θ ← θ - η ∂L/∂θ`: what training does, gradient and update together."""

from __future__ import annotations

import torch
from torch import Tensor

from jacobians.network.mlp import MLP, converted
from jacobians.planning.registry import Computation, Cost, Quantity, Request, register, register_quantity
from jacobians.problem import Problem
from jacobians.quantities import gradient
from jacobians.quantities.parameters import draw_target, loss_in, sizes, target_fits

RATE = 1e-3  # so small that parameters keep their size over the thousands of steps of a measurement


def own_copy(mlp: MLP) -> MLP:
    """Copy a network: a method that trains changes its own parameters, not the caller's."""
    # A kernel writes where the numbers stand one behind the other.
    return converted(mlp, lambda t: t.detach().clone(memory_format=torch.contiguous_format))


def put_back(copy: MLP, original: MLP) -> None:
    """Write the parameters of a network into those of another one."""
    with torch.no_grad():
        for to, of in zip(copy.parameters(), original.parameters(), strict=True):
            to.copy_(of)


def _cost(problem: Problem, mode: str) -> Cost:
    of_gradient = gradient.cost(problem, mode)
    return Cost(of_gradient.flops + 2 * sizes(problem).parameters, of_gradient.bytes)


def _exact(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    loss, *gradients = gradient.exact(mlp, problem, inputs)
    return (loss, *(p.detach() - RATE * g for p, g in zip(mlp.parameters(), gradients, strict=True)))


register_quantity(
    Quantity(
        "sgd_step",
        "Training step",
        {"reverse": "θ ← θ - η ∂L/∂θ, the gradient by one pullback"},
        _cost,
        _exact,
        draw=draw_target,
        takes=("target",),
        fits=target_fits,
        of_parameters=True,
        loss=True,
        call='loss = jac.SGD(mlp, lr=0.1).minimize(x, target, "{loss}")',
    )
)


@register("sgd_step/reverse:eager", hand_written=True, options=("unreduced",), summary="the gradient in torch, then the update in place")
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    network, loss = own_copy(mlp), loss_in(problem)

    def run(inputs: tuple[Tensor, Tensor]) -> tuple[None, tuple[Tensor, ...]]:
        value, *gradients = gradient.gradient_of(network, *inputs, loss)
        parameters = list(network.parameters())
        torch._foreach_add_(parameters, gradients, alpha=-RATE)
        return None, (value, *parameters)

    return Computation(run, reset=lambda: put_back(network, mlp))

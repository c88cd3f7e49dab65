"""A step of stochastic gradient descent, `θ ← θ - η ∂L/∂θ`: what training does, gradient and update together."""

from __future__ import annotations

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Cost, Quantity, Request, register, register_quantity
from jacobians.problem import Problem
from jacobians.quantities.gradient import gradient_of
from jacobians.quantities.parameters import draw_target, leaves_of, loss_in, sizes, target_fits, torch_loss

RATE = 1e-3  # so small that parameters keep their size over the thousands of steps of a measurement


def own_copy(mlp: MLP) -> MLP:
    """Copy a network: a method that trains changes its own parameters, not the caller's."""
    whole = torch.contiguous_format  # a kernel writes where the numbers stand one behind the other
    weights = [W.detach().clone(memory_format=whole) for W in mlp.weights]
    biases = [None if b is None else b.detach().clone(memory_format=whole) for b in mlp.biases]
    return MLP(weights, biases, mlp.activations[:-1], mlp.activations[-1])


def put_back(copy: MLP, original: MLP) -> None:
    """Write the parameters of a network into those of another one."""
    with torch.no_grad():
        for to, of in zip(copy.parameters(), original.parameters(), strict=True):
            to.copy_(of)


def _cost(problem: Problem, mode: str) -> Cost:
    s = sizes(problem)
    flops = problem.N * (4 * s.weights + 2 * (s.weights - s.first) + 3 * s.neurons) + 2 * s.parameters
    return Cost(flops, problem.itemsize * (2 * s.parameters + problem.N * (problem.D + problem.P)))


def _exact(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, target = inputs
    with torch.enable_grad():
        network, parameters = leaves_of(mlp)
        loss = torch_loss(loss_in(problem), network(x), target)
        gradients = torch.autograd.grad(loss, parameters)
    return (loss.detach(), *(p.detach() - RATE * g for p, g in zip(parameters, gradients, strict=True)))


register_quantity(
    Quantity(
        "sgd_step",
        "Training step",
        {"reverse": "θ ← θ - η ∂L/∂θ, the gradient by one pullback"},
        _cost,
        _exact,
        lambda problem, mode: _cost(problem, mode).bytes,
        draw=lambda problem, generator: (draw_target(problem, generator),),
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
        value, *gradients = gradient_of(network, *inputs, loss)
        parameters = list(network.parameters())
        torch._foreach_add_(parameters, gradients, alpha=-RATE)
        return None, (value, *parameters)

    return Computation(run, reset=lambda: put_back(network, mlp))

"""Products with the Gauss-Newton matrix of a loss: a JVP in the parameters, the curvature of the loss, a VJP."""

from __future__ import annotations

import torch
from torch import Tensor

from jacobians.network.losses import Loss
from jacobians.network.mlp import MLP
from jacobians.planning.inputs import check_like
from jacobians.planning.registry import Computation, Cost, Quantity, Request, readable, register_quantity
from jacobians.problem import Problem
from jacobians.quantities.parameters import draw_target, leaves_of, loss_in, sizes, target_fits, torch_loss
from jacobians.quantities.pullback import by_parameters, split_parameters, tape_of, unflatten


def product_of(mlp: MLP, x: Tensor, target: Tensor, v: Tensor, loss: Loss) -> tuple[Tensor, ...]:
    """Compute `G v = Fᵀ (∇²_y L) F v` with the parameter Jacobian F, which is not formed.

    Source:
        Schraudolph, Fast curvature matrix-vector products, Neural Computation 14 (2002); Martens & Sutskever (2012).
    """
    batch = x[None] if x.ndim == 1 else x
    y, steps = tape_of(mlp, batch)
    tangent: Tensor | None = None
    for step, (V, v_b) in zip(steps, split_parameters(mlp, v), strict=True):
        pushed = step.entering @ V.mT if v_b is None else step.entering @ V.mT + v_b
        if tangent is not None:
            pushed = pushed + tangent @ step.weight.mT
        tangent = step.push(pushed)
    assert tangent is not None
    own = y[0] if x.ndim == 1 else y
    C = loss.curvature(own, target, tangent.reshape(own.shape)).reshape(y.shape)
    return tuple(by_parameters(mlp, steps, C)[0])


def _cost(problem: Problem, mode: str) -> Cost:
    s = sizes(problem)
    flops = problem.N * (2 * s.weights + 2 * (2 * s.weights - s.first) + 2 * (s.weights - s.first) + 2 * s.weights + 5 * s.neurons)
    return Cost(flops, problem.itemsize * (3 * s.parameters + problem.N * (problem.D + problem.P)))


def _exact(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """By autograd alone: a JVP as the derivative of a VJP by its cotangent, the loss differentiated twice, a VJP."""
    x, target, v = inputs
    with torch.enable_grad():
        network, parameters = leaves_of(mlp)
        y = network(x)
        u = torch.zeros_like(y, requires_grad=True)
        pulled = torch.autograd.grad(y, parameters, u, create_graph=True)
        (pushed,) = torch.autograd.grad(pulled, u, unflatten(v, parameters), retain_graph=True)
        at = y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(torch_loss(loss_in(problem), at, target), at, create_graph=True)
        # The slope of |y - t| is a constant, and autograd does not record it.
        curved = torch.autograd.grad(slope, at, pushed)[0] if slope.requires_grad else torch.zeros_like(at)
        return torch.autograd.grad(y, parameters, curved)


def _fits(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> None:
    target_fits(mlp, problem, inputs)
    check_like("v", inputs[2], (sum(p.numel() for p in mlp.parameters()),), inputs[0])


register_quantity(
    Quantity(
        "ggn",
        "Gauss-Newton product",
        {"products": "G v = Fᵀ (∇²_y L) F v by a JVP and a VJP"},
        _cost,
        _exact,
        draw=lambda problem, generator: (
            *draw_target(problem, generator),
            torch.randn(sizes(problem).parameters, generator=generator, dtype=torch.float64),
        ),
        takes=("target", "v"),
        fits=_fits,
        of_parameters=True,
        loss=True,
        call='v = [torch.randn_like(p) for p in mlp.parameters()]\nGv = jac.ggn_product(mlp, x, target, "{loss}", v, method="{method}")',
    )
)


@readable("ggn/products:eager", summary="tangents pushed and cotangents pulled by hand, in torch")
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    loss = loss_in(problem)
    return Computation(run=lambda inputs: (None, product_of(mlp, *inputs, loss=loss)))

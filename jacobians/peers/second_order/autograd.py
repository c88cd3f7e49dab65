"""`torch.autograd`: gradients of gradients, as codes for differential equations write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jacobians.network.activations import RULES
from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Prepare, Request, register
from jacobians.problem import Problem
from jacobians.quantities.jacobian_gradient import gradients, not_empty, penalty
from jacobians.quantities.laplacian import second_by_autograd
from jacobians.quantities.laplacian_gradient import residual
from jacobians.quantities.parameters import leaves_of


def _first(y: Tensor, x: Tensor) -> Tensor:
    """Differentiate each output: J of shape (N, P, D), recorded."""
    rows = [torch.autograd.grad(y[:, p].sum(), x, create_graph=True)[0] for p in range(y.shape[1])]
    return torch.stack(rows, 1)


def _recorded(compute: Callable[[Problem, list[Tensor], Tensor, Tensor, list[Tensor]], tuple[Tensor, ...]]) -> Prepare:
    """Make a method of `(problem, others, x, y, parameters) -> tensors`, of a batch that requires grad and what it gave."""

    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        network, parameters = leaves_of(mlp)

        def run(inputs: Tensor | tuple[Tensor, ...]) -> tuple[None, tuple[Tensor, ...]]:
            x, *others = inputs if isinstance(inputs, tuple) else (inputs,)
            with torch.enable_grad():
                at = x.detach().reshape(-1, problem.D).requires_grad_()
                return None, tuple(t.detach() for t in compute(problem, others, at, network(at), parameters))

        return Computation(run, records=False)

    return prepare


def _laplacian(problem: Problem, others: list[Tensor], x: Tensor, y: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    J, lap = second_by_autograd(y, x, others[0], create_graph=False)
    batch = problem.input_shape[:-1]
    return y.reshape(*batch, problem.P), J.reshape(problem.jacobian_shape), lap.reshape(*batch, problem.P, -1)


def _laplacian_gradient(problem: Problem, others: list[Tensor], x: Tensor, y: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    return gradients(residual(second_by_autograd(y, x, others[0], create_graph=True)[1]), parameters)


def _jacobian_gradient(problem: Problem, others: list[Tensor], x: Tensor, y: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    return gradients(penalty(_first(y, x)), parameters)


def _hessian(problem: Problem, others: list[Tensor], x: Tensor, y: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
    J = _first(y, x)
    entries = [torch.autograd.grad(J[:, p, d].sum(), x, retain_graph=True)[0] for p in range(problem.P) for d in range(problem.D)]
    return (torch.stack(entries, 1).reshape(*problem.jacobian_shape, problem.D),)


def bent(problem: Problem) -> str | None:
    """Say why the loops of gradients of gradients do not serve a problem."""
    # A gradient of a piecewise linear network has no record to differentiate again.
    straight = not any(rule.coupled or RULES[rule.name].curvature is not None for rule in problem.activations)
    return not_empty(problem) or ("a gradient without curvature has no record to differentiate again" if straight else None)


register("laplacian/reverse:autograd", supports=bent, summary="a gradient, and a gradient of each of its entries")(_recorded(_laplacian))
register("laplacian_gradient/reverse:autograd", supports=bent, summary="gradients of gradients, and backward through them")(
    _recorded(_laplacian_gradient)
)
register("jacobian_gradient/reverse:autograd", supports=not_empty, summary="a loop of gradients with create_graph, and backward")(
    _recorded(_jacobian_gradient)
)
register("hessian/reverse:autograd", supports=bent, summary="a gradient of each entry of J")(_recorded(_hessian))

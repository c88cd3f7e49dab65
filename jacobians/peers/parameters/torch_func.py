"""`torch.func`, by the recipes of its tutorials: the kernel by Jacobian contraction and by products, norms by `vmap` of `grad`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jacrev, jvp, vjp, vmap

from jacobians.network.mlp import MLP
from jacobians.peers.evaluation import FORWARD_AD
from jacobians.planning.registry import Computation, Request, register
from jacobians.problem import Problem
from jacobians.quantities.parameters import loss_in, sizes, torch_loss
from jacobians.quantities.per_sample import own_loss
from jacobians.quantities.pullback import split_parameters

Parameters = tuple[Tensor, ...]


def functional(mlp: MLP) -> tuple[Callable[[Parameters, Tensor], Tensor], Parameters]:
    """Return the network as a function of its parameters, as `torch.func.functional_call` gives it, and the parameters."""
    biased = [b is not None for b in mlp.biases]

    def f(parameters: Parameters, x: Tensor) -> Tensor:
        rest, h = iter(parameters), x
        for rule, has_bias in zip(mlp.activations, biased, strict=True):
            h = rule.value(torch.nn.functional.linear(h, next(rest), next(rest) if has_bias else None))
        return h

    return f, tuple(p.detach() for p in mlp.parameters())


@register("gradient/reverse:torch.func", summary="torch.func.grad_and_value of the loss")
def _gradient(mlp: MLP, problem: Problem, request: Request) -> Computation:
    loss, (f, parameters) = loss_in(problem), functional(mlp)
    compute = grad_and_value(lambda parameters, x, target: torch_loss(loss, f(parameters, x), target))

    def run(inputs: tuple[Tensor, Tensor]) -> tuple[None, Parameters]:
        gradients, value = compute(parameters, *inputs)
        return None, (value, *gradients)

    return Computation(run)


@register("gradient_norms/dense:torch.func", summary="vmap of grad, then the norm of every sample's gradient")
def _norms(mlp: MLP, problem: Problem, request: Request) -> Computation:
    loss, (f, parameters) = own_loss(loss_in(problem)), functional(mlp)
    each = vmap(
        grad(lambda parameters, x, target: torch_loss(loss, f(parameters, x[None]), target[None])),
        in_dims=(None, 0, 0),
    )

    def run(inputs: tuple[Tensor, Tensor]) -> tuple[None, tuple[Tensor]]:
        found = each(parameters, *inputs)
        return None, (torch.stack([g.flatten(1).square().sum(1) for g in found]).sum(0).sqrt(),)

    return Computation(run)


@register("ggn/products:torch.func", summary="jvp, the Hessian of the loss by vjp of grad, vjp")
def _ggn(mlp: MLP, problem: Problem, request: Request) -> Computation:
    loss, (f, parameters) = loss_in(problem), functional(mlp)

    def run(inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[None, Parameters]:
        x, target, v = inputs
        tangents = tuple(t for pair in split_parameters(mlp, v) for t in pair if t is not None)
        with FORWARD_AD:
            y, pushed = jvp(lambda p: f(p, x), (parameters,), (tangents,))[:2]
        # The Hessian of the loss is symmetric; forward mode over `grad` fails on |y - t|, whose slope is constant.
        (curved,) = vjp(grad(lambda y: torch_loss(loss, y, target)), y)[1](pushed)
        return None, vjp(lambda p: f(p, x), parameters)[1](curved)[0]

    return Computation(run)


MOST_BYTES = 2e9  # of what a recipe forms on the way


def _forms(rows: Callable[[Problem], int]) -> Callable[[Problem], str | None]:
    """Refuse what a recipe would form too much for, `rows` times the parameters: it takes minutes, or more memory than there is."""

    def supports(problem: Problem) -> str | None:
        needed = rows(problem) * sizes(problem).parameters * problem.itemsize
        return f"the recipe forms {needed / 1e9:.1f} GB on the way, more than {MOST_BYTES / 1e9:.0f} GB" if needed > MOST_BYTES else None

    return supports


@register("ntk/contraction:torch.func", summary="the tutorial's Jacobian contraction", supports=_forms(lambda p: p.N * p.P))
def _contraction(mlp: MLP, problem: Problem, request: Request) -> Computation:
    f, parameters = functional(mlp)
    rows = vmap(jacrev(f), in_dims=(None, 0))

    def run(inputs: Tensor | tuple[Tensor, ...]) -> tuple[None, tuple[Tensor]]:
        x1, *rest = inputs if isinstance(inputs, tuple) else (inputs,)
        first = [J.flatten(2) for J in rows(parameters, x1)]
        second = [J.flatten(2) for J in rows(parameters, rest[0])] if rest else first
        terms = [torch.einsum("Naf,Mbf->NMab", a, b) for a, b in zip(first, second, strict=True)]
        return None, (torch.stack(terms).sum(0),)

    return Computation(run)


@register("ntk/products:torch.func", summary="the tutorial's NTK-vector products", supports=_forms(lambda p: p.N * p.N * p.P))
def _products(mlp: MLP, problem: Problem, request: Request) -> Computation:
    f, parameters = functional(mlp)
    seeds = torch.eye(problem.P, dtype=mlp.dtype, device=mlp.device)

    def of_pair(x1: Tensor, x2: Tensor) -> Tensor:
        def product(seed: Tensor) -> Tensor:
            (pulled,) = vjp(lambda p: f(p, x1), parameters)[1](seed)
            return jvp(lambda p: f(p, x2), (parameters,), (pulled,))[1]

        return vmap(product)(seeds)

    def run(inputs: Tensor | tuple[Tensor, ...]) -> tuple[None, tuple[Tensor]]:
        x1, *rest = inputs if isinstance(inputs, tuple) else (inputs,)
        with FORWARD_AD:
            return None, (vmap(vmap(of_pair, (None, 0)), (0, None))(x1, rest[0] if rest else x1),)

    return Computation(run)

"""Derivatives by name as people compute them: nested `autograd.grad`, towers of `jacfwd` over `jacrev`, nested `jvp` and `jet` in JAX."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

from jacobians.modes.taylor import order_of
from jacobians.network.mlp import MLP
from jacobians.peers.jax import evaluate_one
from jacobians.peers.parameters.jax import Compute, prepare_with
from jacobians.peers.second_order.autograd import bent
from jacobians.peers.second_order.jax import needs_tanh, supports
from jacobians.peers.second_order.torch_func import Compute as TorchCompute
from jacobians.peers.second_order.torch_func import Network, batches
from jacobians.peers.second_order.torch_func import prepare_with as prepare_with_functions
from jacobians.planning.registry import Computation, Request, register
from jacobians.problem import Problem
from jacobians.quantities.derivatives import asked_of, by_autograd, order
from jacobians.quantities.parameters import leaves_of


def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    network, _ = leaves_of(mlp)
    asked = asked_of(problem)

    def run(x: Tensor) -> tuple[None, tuple[Tensor, ...]]:
        with torch.enable_grad():
            at = x.detach().reshape(-1, problem.D).requires_grad_()
            found = by_autograd(network(at), at, asked, create_graph=False)
        return None, tuple(t.detach().reshape(x.shape[:-1]) for t in found)

    return Computation(run, records=False)


def tower(f: Callable[[Any], Any], highest: int, over: Callable[..., Any], inner: Callable[..., Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Return `x -> (y, J, H, …)`, each level differentiated once more with the levels below it as auxiliary outputs."""

    def value(x: Any) -> tuple[Any, tuple[Any, ...]]:
        y = f(x)
        return y, (y,)

    def above(level: Callable[..., Any], transform: Callable[..., Any]) -> Callable[..., Any]:
        def next_level(x: Any) -> tuple[Any, tuple[Any, ...]]:
            T, below = transform(level, has_aux=True)(x)
            return T, (*below, T)

        return next_level

    top = reduce(above, [inner, *[over] * (highest - 1)][:highest], value)
    return lambda x: top(x)[1]


def _entries(problem: Problem) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Pick what is asked for out of the tensors of all orders."""
    asked = asked_of(problem)
    return lambda levels: tuple(sum(w * levels[len(m)][(p, *m)] for m, w in stream) for p, stream in asked)


def _functions(f: Network, problem: Problem) -> TorchCompute:
    pick, highest = _entries(problem), order(problem)

    def compute(parameters: Any, x: Tensor) -> tuple[Tensor, ...]:
        return vmap(lambda x: pick(tower(lambda x: f(parameters, x), highest, jacfwd, jacrev)(x)))(x)

    return compute


def _nested(jax: Any, problem: Problem) -> Compute:
    f, asked = evaluate_one(problem), asked_of(problem)

    def along(g: Callable[[Any], Any], d: int) -> Callable[[Any], Any]:
        return lambda x: jax.jvp(g, (x,), (jax.numpy.zeros_like(x).at[d].set(1),))[1]

    def each(parameters: Any, x: Any) -> tuple[Any, ...]:
        return tuple(sum(w * reduce(along, m, lambda x: f(parameters, x))(x)[p] for m, w in stream) for p, stream in asked)

    return jax.vmap(each, in_axes=(None, 0))


def _jet(jax: Any, problem: Problem) -> Compute:
    from jax.experimental.jet import jet

    f, asked = evaluate_one(problem), asked_of(problem)
    highest: dict[int, int] = {}
    for index in (m for _, stream in asked for m, _ in stream if m):
        highest[index[0]] = max(highest.get(index[0], 0), len(index))

    def each(parameters: Any, x: Any) -> tuple[Any, ...]:
        value, found = f(parameters, x), {}
        for d, most in highest.items():
            series = [jax.numpy.zeros_like(x).at[d].set(1), *[jax.numpy.zeros_like(x)] * (most - 1)]
            _, found[d] = jet(lambda x: f(parameters, x), (x,), (series,))
        return tuple(sum(w * (found[m[0]][len(m) - 1] if m else value)[p] for m, w in stream) for p, stream in asked)

    return jax.vmap(each, in_axes=(None, 0))


def _univariate(problem: Problem) -> str | None:
    mixed = any(len(set(m)) > 1 for _, stream in asked_of(problem) for m, _ in stream)
    return needs_tanh(problem) or ("jet is a series in one variable: it has no mixed derivatives" if mixed else None)


def _smooth(problem: Problem) -> str | None:
    return bent(problem) if any(order_of(stream) > 1 for _, stream in asked_of(problem)) else None


register("derivatives/reverse:autograd", supports=_smooth, summary="a gradient for each derivative, as PINN codes write it")(_prepare)
register("derivatives/forward-over-reverse:torch.func", supports=batches, summary="vmap of jacfwd(… jacrev), and entries of it")(
    prepare_with_functions(_functions)
)
register("derivatives/nested:jax", supports=supports, runtime="jax", summary="jit of jvp of jvp … for each derivative")(
    prepare_with(_nested)
)
register("derivatives/taylor:jax", supports=_univariate, runtime="jax", summary="jit of jax.experimental.jet along each coordinate")(
    prepare_with(_jet)
)

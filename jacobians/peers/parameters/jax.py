"""JAX: `jit` of `value_and_grad`, of `vmap(grad)`, and of the structured formulas written in JAX."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from jacobians.network.losses import Loss
from jacobians.network.mlp import MLP
from jacobians.peers.jax import why_not
from jacobians.planning.conversions import Converted, jax_tensors
from jacobians.planning.registry import Computation, Prepare, Request, register
from jacobians.problem import Problem
from jacobians.quantities.parameters import loss_in
from jacobians.quantities.per_sample import own_loss
from jacobians.quantities.sgd_step import RATE

Compute = Callable[..., Any]


def evaluate(
    jax: Any, problem: Problem, parameters: list[tuple[Any, Any]], x: Any, shifts: list[Any] | None = None
) -> tuple[Any, list[Any]]:
    """Evaluate a batch by JAX's own functions."""
    h, entering = x, []
    for index, ((W, b), rule) in enumerate(zip(parameters, problem.activations, strict=True)):
        entering.append(h)
        z = jax.numpy.matmul(h, W.T, precision=jax.lax.Precision.HIGHEST)
        z = z if b is None else z + b
        h = rule.jax(jax, z if shifts is None else z + shifts[index])
    return h, entering


LOSSES = ("mse", "l1", "bce", "bce_with_logits", "cross_entropy")


def _supports(problem: Problem) -> str | None:
    loss = None if problem.loss is None else loss_in(problem).name
    return why_not(problem) or (None if loss is None or loss in LOSSES else f"the JAX code here knows {', '.join(LOSSES)}, not {loss}")


def value_of(jax: Any, loss: Loss, y: Any, target: Any) -> Any:
    """Evaluate a loss by JAX's own functions."""
    np = jax.numpy
    if loss.name == "cross_entropy":
        logs = jax.nn.log_softmax(y)
        each = -np.take_along_axis(logs, target[:, None], 1)[:, 0] if target.ndim == 1 else -(target * logs).sum(-1)
    else:
        each = {
            "mse": lambda: (y - target) ** 2,
            "l1": lambda: np.abs(y - target),
            "bce": lambda: -(target * np.maximum(np.log(y), -100) + (1 - target) * np.maximum(np.log1p(-y), -100)),
            "bce_with_logits": lambda: np.maximum(y, 0) - y * target + np.log1p(np.exp(-np.abs(y))),
        }[loss.name]()
    return loss.scale * (each.mean() if loss.reduction == "mean" else each.sum())


def prepare_with(build: Callable[[Any, Problem], Compute], state: bool = False) -> Prepare:
    """Make a method of `(jax, problem) -> (parameters, x, *others) -> arrays`; with `state`, of `-> (value, parameters)` that trains."""

    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        import jax

        precise = (lambda: jax.enable_x64(True)) if problem.dtype == "float64" else nullcontext
        compute = build(jax, problem)

        def of_batch(parameters: Any, x: Any, *others: Any) -> Any:
            if problem.batch is None:  # one sample, and what the first of the others says of it
                x, others = x[None], tuple(t if index else t[None] for index, t in enumerate(others))
            return compute(parameters, x, *others)

        compiled = jax.jit(of_batch)
        if not state:

            def run(native: Any) -> tuple[None, Any]:
                with precise():
                    found = jax.block_until_ready(compiled(*native))
                    return None, found if isinstance(found, tuple) else (found,)

            return Computation(run, Converted("jax", mlp), jax_tensors)

        def reset() -> None:
            held["parameters"] = Converted("jax", mlp)(())[0]

        def step(native: Any) -> tuple[None, Any]:
            with precise():
                value, held["parameters"] = jax.block_until_ready(compiled(held["parameters"], *native))
                return None, (value, held["parameters"])

        held: dict[str, Any] = {}
        reset()
        return Computation(step, Converted("jax"), jax_tensors, reset=reset)

    return prepare


def _gradient(jax: Any, problem: Problem) -> Compute:
    loss = loss_in(problem)
    return jax.value_and_grad(lambda parameters, x, target: value_of(jax, loss, evaluate(jax, problem, parameters, x)[0], target))


def _step(jax: Any, problem: Problem) -> Compute:
    gradient = _gradient(jax, problem)

    def step(parameters: Any, x: Any, target: Any) -> Any:
        value, gradients = gradient(parameters, x, target)
        return value, jax.tree_util.tree_map(lambda p, g: p - RATE * g, parameters, gradients)

    return step


def _norms(jax: Any, problem: Problem) -> Compute:
    loss = own_loss(loss_in(problem))
    each = jax.vmap(
        jax.grad(lambda parameters, x, target: value_of(jax, loss, evaluate(jax, problem, parameters, x[None])[0], target[None])),
        in_axes=(None, 0, 0),
    )

    def norms(parameters: Any, x: Any, target: Any) -> Any:
        leaves = jax.tree_util.tree_leaves(each(parameters, x, target))
        return jax.numpy.sqrt(sum((g.reshape(len(x), -1) ** 2).sum(1) for g in leaves))

    return norms


def _structured_norms(jax: Any, problem: Problem) -> Compute:
    loss = own_loss(loss_in(problem))

    def norms(parameters: Any, x: Any, target: Any) -> Any:
        def total(shifts: Any) -> tuple[Any, Any]:
            y, entering = evaluate(jax, problem, parameters, x, shifts)
            return jax.vmap(lambda y, t: value_of(jax, loss, y[None], t[None]))(y, target).sum(), entering

        shifts = [jax.numpy.zeros((len(x), W.shape[0]), x.dtype) for W, _ in parameters]
        cotangents, entering = jax.grad(total, has_aux=True)(shifts)
        squares = [(C**2).sum(1) * ((h**2).sum(1) + (b is not None)) for C, h, (_, b) in zip(cotangents, entering, parameters, strict=True)]
        return jax.numpy.sqrt(sum(squares))

    return norms


def _kernel(jax: Any, problem: Problem) -> Compute:
    np, highest = jax.numpy, jax.lax.Precision.HIGHEST

    def factors(parameters: Any, x: Any) -> tuple[list[Any], list[Any]]:
        def outputs(shifts: Any) -> tuple[Any, Any]:
            return evaluate(jax, problem, parameters, x, shifts)

        shifts = [np.zeros((len(x), W.shape[0]), x.dtype) for W, _ in parameters]
        _, pull, entering = jax.vjp(outputs, shifts, has_aux=True)
        seeds = np.broadcast_to(np.eye(problem.P, dtype=x.dtype)[:, None, :], (problem.P, len(x), problem.P))
        (cotangents,) = jax.vmap(pull)(seeds)  # each (P, N, out)
        return cotangents, entering

    def kernel(parameters: Any, x1: Any, x2: Any = None) -> Any:
        C1, h1 = factors(parameters, x1)
        C2, h2 = (C1, h1) if x2 is None else factors(parameters, x2)
        total = 0.0
        for (_, b), c1, e1, c2, e2 in zip(parameters, C1, h1, C2, h2, strict=True):
            inner = np.matmul(e1, e2.T, precision=highest) + (b is not None)
            total = total + np.einsum("pno,qmo->nmpq", c1, c2, precision=highest) * inner[:, :, None, None]
        return total

    return kernel


def _ggn(jax: Any, problem: Problem) -> Compute:
    loss = loss_in(problem)

    def product(parameters: Any, x: Any, target: Any, v: Any) -> Any:
        leaves, tree = jax.tree_util.tree_flatten(parameters)
        tangents, at = [], 0
        for leaf in leaves:
            tangents.append(v[at : at + leaf.size].reshape(leaf.shape))
            at += leaf.size
        tangent = jax.tree_util.tree_unflatten(tree, tangents)
        y, pushed = jax.jvp(lambda p: evaluate(jax, problem, p, x)[0], (parameters,), (tangent,))
        _, curved = jax.jvp(jax.grad(lambda y: value_of(jax, loss, y, target)), (y,), (pushed,))
        return jax.vjp(lambda p: evaluate(jax, problem, p, x)[0], parameters)[1](curved)[0]

    return product


register("gradient/reverse:jax", summary="jit(value_and_grad)", supports=_supports, runtime="jax")(prepare_with(_gradient))
register("sgd_step/reverse:jax", summary="value_and_grad and the update under one jit", supports=_supports, runtime="jax")(
    prepare_with(_step, state=True)
)
register("gradient_norms/dense:jax", summary="jit(vmap(grad)), then the norms", supports=_supports, runtime="jax")(prepare_with(_norms))
register("gradient_norms/reverse:jax", summary="from the norms of both factors, written in JAX", supports=_supports, runtime="jax")(
    prepare_with(_structured_norms)
)
register("ntk/structured:jax", summary="the structured formula written in JAX", supports=_supports, runtime="jax")(prepare_with(_kernel))
register("ggn/products:jax", summary="jit of jvp, jvp of grad, vjp", supports=_supports, runtime="jax")(prepare_with(_ggn))

"""JAX: `jit(jacrev)` and `jit(jacfwd)`, under `vmap` for batches, waited for with `block_until_ready`.

The weights are arguments of the compiled function, so nothing is folded into it as a constant. Matrix products are
asked for in full precision, as torch computes them; JAX's default on GPUs is lower.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from jacobians.network.mlp import MLP
from jacobians.planning.conversions import Converted, jax_tensors
from jacobians.planning.registry import Computation, Prepare, Request, register
from jacobians.problem import Problem

INSTALL = "JAX is not installed; install it with: pip install 'jacobians[jax]'"


def why_not(problem: Problem) -> str | None:
    """Say why this library cannot serve a problem."""
    if importlib.util.find_spec("jax") is None:
        return INSTALL
    if problem.dtype == "bfloat16":
        return "NumPy, through which tensors reach JAX here, has no bfloat16; use float32"
    platform = problem.device.split(":")[0]
    if platform == "cpu":
        return None
    if platform != "cuda":
        return f"JAX has no backend for the torch device {problem.device!r}"
    import jax

    try:
        jax.devices("gpu")
    except RuntimeError:
        return "the installed JAX has no GPU backend; install it with: pip install 'jax[cuda13]'"
    return None


def evaluate_one(problem: Problem) -> Callable[..., Any]:
    """Build f(parameters, x) for one sample, from JAX's own functions."""
    import jax
    import jax.numpy as jnp

    def evaluate(parameters: list[tuple[Any, Any]], x: Any) -> Any:
        h = x
        for (W, b), rule in zip(parameters, problem.activations, strict=True):
            z = jnp.matmul(W, h, precision=jax.lax.Precision.HIGHEST)
            h = rule.jax(jax, z if b is None else z + b)
        return h

    return evaluate


def _prepare(transform_name: str | None) -> Prepare:
    """Make a method of a transform of JAX; of none, the evaluation."""

    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        import jax

        # JAX narrows float64 to float32 unless told otherwise; told per call, other users of JAX are left alone.
        precise = (lambda: jax.enable_x64(True)) if problem.dtype == "float64" else nullcontext
        evaluate = evaluate_one(problem)

        def with_value(parameters: Any, x: Any) -> Any:
            y = evaluate(parameters, x)
            return y, y

        if transform_name is None:
            per_sample = evaluate
        else:
            transform = getattr(jax, transform_name)
            per_sample = transform(with_value, argnums=1, has_aux=True) if request.value else transform(evaluate, argnums=1)
        compiled = jax.jit(per_sample if problem.batch is None else jax.vmap(per_sample, in_axes=(None, 0)))

        def run(native: Any) -> tuple[Any, Any]:
            with precise():
                result = jax.block_until_ready(compiled(*native))
            if transform_name is None:
                return None, (result,)
            return (result[1], result[0]) if request.value else (None, result)

        return Computation(run, Converted("jax", mlp), jax_tensors)

    return prepare


register("reverse:jax", summary="jit(jacrev), under vmap for batches", supports=why_not, runtime="jax")(_prepare("jacrev"))
register("forward:jax", summary="jit(jacfwd), under vmap for batches", supports=why_not, runtime="jax")(_prepare("jacfwd"))
register("value/evaluation:jax", summary="jit of the evaluation, under vmap for batches", supports=why_not, runtime="jax")(_prepare(None))

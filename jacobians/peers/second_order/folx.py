"""folx: the forward Laplacian of any JAX function, by an interpreter of its operations (Gao, Köhler & Foster, 2023)."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

from jacobians.network.mlp import MLP
from jacobians.peers.jax import evaluate_one
from jacobians.peers.parameters.jax import prepare_with
from jacobians.peers.second_order.jax import Seconds, batched, supports, trained
from jacobians.planning.registry import Computation, Prepare, Request, register
from jacobians.problem import Problem


def _supports(problem: Problem) -> str | None:
    return supports(problem) or (None if importlib.util.find_spec("folx") else "folx is not installed; pip install 'jacobians[peers]'")


def _laplacian(jax: Any, problem: Problem) -> Seconds:
    import folx

    f = evaluate_one(problem)

    def compute(parameters: Any, x: Any, directions: Any) -> tuple[Any, Any, Any]:
        found = folx.forward_laplacian(lambda x: f(parameters, x))(x)
        return found.x, found.jacobian.dense_array.T, found.laplacian[:, None]

    return compute


def _of_ones(prepare: Prepare) -> Prepare:
    """Refuse weighted sums of second derivatives, which folx does not give."""

    def checked(mlp: MLP, problem: Problem, request: Request) -> Computation:
        computation, known = prepare(mlp, problem, request), []

        def run(native: Any) -> tuple[None, Any]:
            if not known or known[0] is not native[2]:  # to look costs as much as a small Laplacian
                if native[2].tolist() != [[1.0] * problem.D]:
                    raise ValueError("folx gives the Laplacian itself, not weighted sums of second derivatives; use another method")
                known[:] = [native[2]]
            return computation.run(native)

        return replace(computation, run=run)

    return checked


register("laplacian/forward:folx", supports=_supports, runtime="jax", summary="jit of vmap(folx.forward_laplacian)")(
    _of_ones(prepare_with(batched(_laplacian)))
)
register("laplacian_gradient/forward:folx", supports=_supports, runtime="jax", summary="value_and_grad of vmap(folx.forward_laplacian)")(
    _of_ones(prepare_with(trained(batched(_laplacian))))
)

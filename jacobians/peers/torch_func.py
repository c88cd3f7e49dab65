"""`torch.func.jacrev` and `jacfwd`, under `vmap` for batches, as the functorch tutorials write per-sample Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

from jacobians.network.mlp import MLP
from jacobians.peers.evaluation import FORWARD_AD, one_sample
from jacobians.planning.registry import Computation, Prepare, Request, register
from jacobians.problem import Problem


def jacobian_function(
    transform: Callable[..., Callable[..., object]], mlp: MLP, problem: Problem, request: Request
) -> Callable[..., object]:
    """Compose the transform with `vmap` for a batch; with a value, the evaluation is shared as the auxiliary output."""
    f = one_sample(mlp) if problem.batch is None else mlp
    if request.value:

        def with_value(x: Tensor) -> tuple[Tensor, Tensor]:
            y = f(x)
            return y, y

        per_sample = transform(with_value, has_aux=True)
    else:
        per_sample = transform(f)
    return per_sample if problem.batch is None else vmap(per_sample)


def _prepare(transform: Callable[..., Callable[..., object]]) -> Prepare:
    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        f = jacobian_function(transform, mlp, problem, request)

        def run(x: Tensor) -> tuple[object, object]:
            if problem.N == 0:  # vmap refuses an empty batch
                return mlp(x) if request.value else None, x.new_zeros(problem.jacobian_shape)
            with FORWARD_AD if transform is jacfwd else nullcontext():
                result = f(x)
            return (result[1], result[0]) if request.value else (None, result)  # pyright: ignore[reportIndexIssue]

        return Computation(run)

    return prepare


register("reverse:torch.func", differentiable=True, summary="torch.func.jacrev, under vmap for batches")(_prepare(jacrev))
register("forward:torch.func", differentiable=True, summary="torch.func.jacfwd, under vmap for batches")(_prepare(jacfwd))

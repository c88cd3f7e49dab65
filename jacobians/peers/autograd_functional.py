"""`torch.autograd.functional.jacobian`: a loop over rows, vectorised reverse, vectorised forward.

Per-sample Jacobians of a batch come from one call each: reverse mode differentiates `f(x).sum(0)`, whose gradient with
respect to sample n is that sample's own; forward mode differentiates `e -> f(x + e)` at `e = 0`, one shared direction
per input coordinate. Neither computes the zeros of the cross-batch Jacobian.
"""

from __future__ import annotations

from torch import Tensor
from torch.autograd.functional import jacobian

from jacobians.network.mlp import MLP
from jacobians.peers.evaluation import FORWARD_AD, one_sample
from jacobians.planning.registry import Computation, Prepare, Request, register
from jacobians.problem import Problem


def _reverse(vectorize: bool) -> Prepare:
    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        f = one_sample(mlp)

        def run(x: Tensor) -> tuple[Tensor | None, Tensor]:
            if problem.batch is None:
                J = jacobian(f, x, create_graph=request.create_graph, vectorize=vectorize)
            else:
                summed = jacobian(lambda x: mlp(x).sum(0), x, create_graph=request.create_graph, vectorize=vectorize)  # (P, N, D)
                J = summed.movedim(0, 1)  # pyright: ignore[reportAttributeAccessIssue]
            return (mlp(x) if request.value else None), J  # pyright: ignore[reportReturnType]

        return Computation(run)

    return prepare


def _forward(mlp: MLP, problem: Problem, request: Request) -> Computation:
    def run(x: Tensor) -> tuple[Tensor | None, Tensor]:
        origin = x if problem.batch is None else x.new_zeros(problem.D)
        f = one_sample(mlp) if problem.batch is None else lambda e: mlp(x + e)
        with FORWARD_AD:
            J = jacobian(f, origin, vectorize=True, strategy="forward-mode")
        return (mlp(x) if request.value else None), J  # pyright: ignore[reportReturnType]

    return Computation(run)


register("reverse:autograd-loop", differentiable=True, summary="autograd.functional.jacobian, one backward pass per output")(
    _reverse(vectorize=False)
)
register("reverse:autograd-vectorized", differentiable=True, summary="autograd.functional.jacobian(vectorize=True)")(
    _reverse(vectorize=True)
)
register("forward:autograd-vectorized", summary="autograd.functional.jacobian(strategy='forward-mode', vectorize=True)")(_forward)

"""The naive baseline: explicit diagonal matrices, as course notebooks multiply them.

A slope matrix of K×K is formed and multiplied at every layer, K² storage and K³ work where K numbers and K² would do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Request, register
from jacobians.problem import Problem


def _diagonals(mlp: MLP, x: Tensor) -> tuple[Tensor | None, list[tuple[Tensor, Tensor | None]]]:
    chain: list[tuple[Tensor, Tensor | None]] = []
    y: Tensor | None = None
    for W, y, s in mlp.layers(x, value=True):  # noqa: B007 - the last value is y
        # the first slope of a linear layer is one shared number: a diagonal needs all of them
        chain.append((W, None if s is None else torch.diag_embed(s.expand(*s.shape[:-1], W.shape[0]))))
    return y, chain


def _supports(problem: Problem) -> str | None:
    psi = problem.activations[-1]
    return f"the slope of {psi.name} is no diagonal matrix" if psi.coupled else None


@register("forward:dense", supports=_supports, differentiable=True, summary="explicit diagonal matrices, multiplied from the input side")
def _forward(mlp: MLP, problem: Problem, request: Request) -> Computation:
    def run(x: Tensor) -> tuple[Tensor | None, Tensor]:
        y, chain = _diagonals(mlp, x)
        J = torch.eye(problem.D, dtype=x.dtype, device=x.device)
        for W, S in chain:
            J = W @ J
            J = J if S is None else S @ J
        return (y if request.value else None), J

    return Computation(run)


@register("reverse:dense", supports=_supports, differentiable=True, summary="explicit diagonal matrices, multiplied from the output side")
def _reverse(mlp: MLP, problem: Problem, request: Request) -> Computation:
    def run(x: Tensor) -> tuple[Tensor | None, Tensor]:
        y, chain = _diagonals(mlp, x)
        J = torch.eye(problem.P, dtype=x.dtype, device=x.device)
        for W, S in reversed(chain):
            J = J if S is None else J @ S
            J = J @ W
        return (y if request.value else None), J

    return Computation(run)

"""The sum-of-outputs trick: for one output the Jacobian is a gradient, and a batch of them is the gradient of the sum.

What PINN codes do with `torch.autograd.grad`: one backward pass gives every sample's own derivative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.peers.evaluation import one_sample
from jacobians.planning.registry import Computation, Request, register
from jacobians.problem import Problem


def _supports(problem: Problem) -> str | None:
    return None if problem.P == 1 else f"the trick needs one output, this network has P={problem.P}"


@register("reverse:sum-trick", differentiable=True, summary="autograd.grad of the summed output, for P = 1", supports=_supports)
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    f = one_sample(mlp) if problem.batch is None else mlp

    def run(x: Tensor) -> tuple[Tensor | None, Tensor]:
        with torch.enable_grad():
            # A graph that is wanted must reach the caller's x; else a leaf of our own will do.
            leaf = x if request.create_graph and x.requires_grad else x.detach().requires_grad_()
            y = f(leaf)
            (gradient,) = torch.autograd.grad(y.sum(), leaf, create_graph=request.create_graph)
        value = (y if request.create_graph else y.detach()) if request.value else None
        return value, gradient.unsqueeze(-2)  # (..., D) -> (..., 1, D)

    return Computation(run)

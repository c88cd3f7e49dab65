"""Opacus: norms of per-sample gradients by its ghost clipping, `GradSampleModuleFastGradientClipping`."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Request, register
from jacobians.problem import Problem
from jacobians.quantities.parameters import loss_in, sharing, torch_loss
from jacobians.quantities.per_sample import sum_of_own_losses


def _supports(problem: Problem) -> str | None:
    if importlib.util.find_spec("opacus") is None:
        return "Opacus is not installed; install it with: pip install 'jacobians[peers]'"
    return None


@register("gradient_norms/reverse:opacus", summary="Opacus's ghost clipping", supports=_supports)
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    loss = sum_of_own_losses(loss_in(problem), problem.P)
    module = GradSampleModuleFastGradientClipping(sharing(mlp), max_grad_norm=1, use_ghost_clipping=True, loss_reduction="sum")

    def run(inputs: tuple[Tensor, Tensor]) -> tuple[None, tuple[Tensor]]:
        x, target = inputs
        with torch.enable_grad():
            torch_loss(loss, module(x), target).backward()
        norms = module.get_norm_sample()
        module.zero_grad()
        return None, (norms.detach(),)

    return Computation(run, records=False)

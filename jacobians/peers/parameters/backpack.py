"""BackPACK: squared norms of per-sample gradients by its extension `BatchL2Grad`."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Request, register
from jacobians.problem import Problem
from jacobians.quantities.parameters import loss_in, sharing

_LOSSES = {"mse": torch.nn.MSELoss, "cross_entropy": torch.nn.CrossEntropyLoss}
_LAYERS = ("tanh", "sigmoid", "relu", "identity")


def _supports(problem: Problem) -> str | None:
    if importlib.util.find_spec("backpack") is None:
        return "BackPACK is not installed; install it with: pip install 'jacobians[peers]'"
    if problem.loss not in _LOSSES:
        return f"BackPACK differentiates {', '.join(_LOSSES)}, not {problem.loss}"
    other = [str(rule) for rule in problem.activations if str(rule) not in _LAYERS]
    return f"BackPACK has no rule for {other[0]}" if other else None


@register("gradient_norms/reverse:backpack", summary="BackPACK's BatchL2Grad", supports=_supports)
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    loss = loss_in(problem)
    module = extend(sharing(mlp))
    criterion: Any = extend(_LOSSES[loss.name](reduction=loss.reduction))
    # It returns the parts of the batch's own gradient: each sample's own loss is N times its share of a mean.
    factor = problem.N if loss.reduction == "mean" else 1

    def run(inputs: tuple[Tensor, Tensor]) -> tuple[None, tuple[Tensor]]:
        with torch.enable_grad(), backpack(BatchL2Grad()):
            value = criterion(module(inputs[0]), inputs[1])
            value.backward()
        squares: Any = sum(p.batch_l2 for p in module.parameters())  # pyright: ignore[reportAttributeAccessIssue]
        for p in module.parameters():
            p.grad = None
        return None, (factor * squares.sqrt(),)

    return Computation(run, records=False)

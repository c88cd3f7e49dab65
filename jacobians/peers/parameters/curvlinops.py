"""curvlinops: the Gauss-Newton matrix of a loss as a linear operator, multiplied with a vector.

The operator is made for the batch that it is given, so making it is part of a product at another batch, and is timed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Request, register
from jacobians.problem import Problem
from jacobians.quantities.parameters import loss_in, sharing
from jacobians.quantities.pullback import split_parameters

_LOSSES: dict[str, Callable[..., torch.nn.Module]] = {
    "mse": torch.nn.MSELoss,
    "cross_entropy": torch.nn.CrossEntropyLoss,
    "bce_with_logits": torch.nn.BCEWithLogitsLoss,
}


def _supports(problem: Problem) -> str | None:
    if importlib.util.find_spec("curvlinops") is None:
        return "curvlinops is not installed; install it with: pip install 'jacobians[peers]'"
    if problem.loss not in _LOSSES:
        return f"curvlinops takes {', '.join(_LOSSES)}, not {problem.loss}"
    return "curvlinops takes a batch" if problem.batch is None else None


@register("ggn/products:curvlinops", summary="curvlinops.GGNLinearOperator @ v", supports=_supports)
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    from curvlinops import GGNLinearOperator

    loss, module = loss_in(problem), sharing(mlp)
    parameters = list(module.parameters())
    criterion = _LOSSES[loss.name](reduction=loss.reduction)

    def run(inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[None, tuple[Tensor, ...]]:
        x, target, v = inputs
        with torch.enable_grad():
            operator = GGNLinearOperator(module, criterion, parameters, [(x, target)], check_deterministic=False)
            tangents = [t for pair in split_parameters(mlp, v) for t in pair if t is not None]
            return None, tuple(part.detach() for part in operator @ tangents)  # pyright: ignore[reportGeneralTypeIssues]

    return Computation(run, records=False)

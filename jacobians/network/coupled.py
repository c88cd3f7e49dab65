"""Outputs whose slope is no diagonal matrix, softmax and its logarithm: one aligned table, as that of the elementary functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Coupled(NamedTuple):
    """A row of the table of outputs whose slope is no diagonal matrix: each y depends on every z."""

    value: Callable[..., Tensor]  # `(z, dim) -> y`
    push: Callable[[Tensor, Tensor], Tensor]  # `(y, T) -> S T` with `S = ∂y/∂z`, for T of shape (..., P, m)
    pull: Callable[[Tensor, Tensor], Tensor]  # `(y, C) -> Sᵀ C` for C of shape (..., P)
    module: Callable[..., nn.Module]
    jax: str  # JAX's own function below `jax`, called with z and dim
    slope: None = None
    settings: Mapping[str, float | str] = {"dim": -1}


def _softmax_push(y: Tensor, T: Tensor) -> Tensor:
    p = y[..., :, None]
    return p * T - p * (p * T).sum(-2, keepdim=True)


def _softmax_pull(y: Tensor, C: Tensor) -> Tensor:
    return y * C - y * (y * C).sum(-1, keepdim=True)


def _log_softmax_pull(y: Tensor, C: Tensor) -> Tensor:
    return C - y.exp() * C.sum(-1, keepdim=True)


def _log_softmax_push(y: Tensor, T: Tensor) -> Tensor:
    return T - (y.exp()[..., :, None] * T).sum(-2, keepdim=True)


# fmt: off
OUTPUTS: dict[str, Coupled] = {
    #                      value          push               pull
    "softmax":     Coupled(F.softmax,     _softmax_push,     _softmax_pull,     nn.Softmax,    "nn.softmax"),
    "log_softmax": Coupled(F.log_softmax, _log_softmax_push, _log_softmax_pull, nn.LogSoftmax, "nn.log_softmax"),
}
# fmt: on

"""The product with a diagonal matrix, which is a scaling and never a matrix product; and some columns of a first weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jacobians.planning import transforms

Columns = slice | list[int]
ALL = slice(None)


def index_of(columns: Sequence[int]) -> Columns:
    """Return what indexes columns: a slice, which copies nothing, where they stand side by side; no columns stand for all."""
    first, count = (columns[0], len(columns)) if columns else (0, 0)
    if tuple(columns) == tuple(range(first, first + count)):
        return slice(first, first + count) if count else ALL
    return list(columns)


def scale(M: Tensor, s: Tensor) -> Tensor:
    """Multiply a matrix that the caller owns by broadcast slopes, in place where no graph has to remember it."""
    # In place saves a pass over memory, but a graph needs the old value, a broadcast a larger result, and a
    # trace must not depend on the grad mode.
    if torch.is_grad_enabled() or M.ndim < s.ndim or transforms.tracing():
        return M * s
    return M.mul_(s)

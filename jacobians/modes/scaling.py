"""The product with a diagonal matrix, which is a scaling and never a matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

from jacobians.planning import transforms


def scale(M: Tensor, s: Tensor) -> Tensor:
    """Multiply a matrix that the caller owns by broadcast slopes, in place where no graph has to remember it."""
    # In place saves a pass over memory, but a graph needs the old value, a broadcast a larger result, and a
    # trace must not depend on the grad mode.
    if torch.is_grad_enabled() or M.ndim < s.ndim or transforms.tracing():
        return M * s
    return M.mul_(s)

"""Evaluation of the network by the torch peers."""

from __future__ import annotations

import threading
from collections.abc import Callable

from torch import Tensor

from jacobians.network.mlp import MLP

FORWARD_AD = threading.Lock()  # torch's forward mode counts its nesting levels for all threads together


def one_sample(mlp: MLP) -> Callable[[Tensor], Tensor]:
    """Evaluate a single x of shape (D,) as a batch of one.

    The same numbers, and what the libraries do best: torch differentiates matrix products faster than matrix-vector
    ones (by 10 to 25 % on small networks), and `autograd.functional` in forward mode fails on the latter without bias.
    """
    return lambda x: mlp(x[None]).squeeze(0)

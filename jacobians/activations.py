"""Elementary functions: one aligned table, name -> value and slope.

A slope is `None` where it is identically one, so that nothing is multiplied by ones. Every entry is finite
for every finite `z`, and agrees with the derivative that `torch.autograd` uses (0 for ReLU at 0).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Activation(NamedTuple):
    """An activation: `value(z) -> h` and `slope(z, h) -> φ'(z)`; the slope may use whichever is cheaper."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor] | None


_LEAK = 0.01  # torch's default negative_slope
_SOFTPLUS_LINEAR_FROM = 20.0  # torch's default threshold: softplus is the identity above it, and so its slope is 1
_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)


def _relu_slope(z: Tensor, h: Tensor) -> Tensor:
    return (z > 0).to(z.dtype)


def _leaky_slope(z: Tensor, h: Tensor) -> Tensor:
    return _LEAK + (1 - _LEAK) * (z > 0).to(z.dtype)


def _softplus_slope(z: Tensor, h: Tensor) -> Tensor:
    return torch.where(z > _SOFTPLUS_LINEAR_FROM, 1.0, torch.sigmoid(z))


def _gelu_slope(z: Tensor, h: Tensor) -> Tensor:
    # Φ(z) + z φ(z); erfc keeps its relative accuracy in the left tail, where 1 + erf cancels.
    return 0.5 * torch.erfc(-_SQRT_HALF * z) + z * (_INV_SQRT_2PI * torch.exp(-0.5 * z * z))


# fmt: off
ACTIVATIONS: dict[str, Activation] = {
    #                          value                        slope
    "tanh":       Activation(torch.tanh,    lambda z, h: 1 - h * h),
    "sigmoid":    Activation(torch.sigmoid, lambda z, h: h * (1 - h)),
    "relu":       Activation(torch.relu,    _relu_slope),
    "leaky_relu": Activation(F.leaky_relu,  _leaky_slope),
    "softplus":   Activation(F.softplus,    _softplus_slope),
    "gelu":       Activation(F.gelu,        _gelu_slope),
    "identity":   Activation(lambda z: z,   None),
}
# fmt: on


def activation(name: str) -> Activation:
    """Return the activation called `name`.

    Args:
        name: One of the keys of `ACTIVATIONS`.

    Returns:
        Its value and slope functions.

    Raises:
        TypeError: `name` is not a string.
        ValueError: No activation has that name.

    Example:
        >>> tanh = activation("tanh")
        >>> z = torch.tensor([0.0, 100.0])
        >>> tanh.slope(z, tanh.value(z))
        tensor([1., 0.])
    """
    if not isinstance(name, str):
        raise TypeError(f"activation must be a name, got {type(name).__name__}; choose from {', '.join(ACTIVATIONS)}")
    try:
        return ACTIVATIONS[name]
    except KeyError:
        raise ValueError(f"unknown activation {name!r}; choose from {', '.join(ACTIVATIONS)}") from None

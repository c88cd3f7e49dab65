"""The problem of a network and an input, and the refusal of an input that does not fit."""

from __future__ import annotations

from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.problem import Problem


def problem_of(mlp: MLP, x: Tensor) -> Problem:
    """Describe a network and an input, refusing an input that does not fit."""
    if not isinstance(mlp, MLP):
        raise TypeError(f"mlp must be a jacobians.MLP, got {type(mlp).__name__}; wrap an nn.Sequential with MLP.from_torch")
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}; convert it with torch.as_tensor")
    if not x.dtype.is_floating_point:
        raise TypeError(f"x must be floating-point, got {x.dtype}; convert it with x.to({mlp.dtype})")
    if x.ndim not in (1, 2):
        raise ValueError(f"x must have shape (D,) or (N, D), got shape {tuple(x.shape)}; reshape it to (-1, {mlp.D})")
    if x.shape[-1] != mlp.D:
        raise ValueError(f"x has {x.shape[-1]} features, but the network takes D={mlp.D}; expected ({mlp.D},) or (N, {mlp.D})")
    if x.dtype != mlp.dtype:
        raise TypeError(f"x is {x.dtype} but the network is {mlp.dtype}; convert one of them, e.g. x.to({mlp.dtype})")
    if x.device != mlp.device:
        raise ValueError(f"x is on {x.device} but the network is on {mlp.device}; move one of them, e.g. x.to('{mlp.device}')")
    return Problem(
        widths=mlp.widths,
        batch=x.shape[0] if x.ndim == 2 else None,
        activation=mlp.activation,
        output_activation=mlp.output_activation,
        bias=any(b is not None for b in mlp.biases),
        dtype=str(x.dtype).removeprefix("torch."),
        device=str(x.device),
    )

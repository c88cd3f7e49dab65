"""The walk that parameter derivatives share: evaluate keeping values and slopes, then pull cotangents back layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from jacobians.network.activations import Activation
from jacobians.network.mlp import MLP


class Step(NamedTuple):
    """One layer of the tape: its weight, the value that enters it, the slope behind it (`None` where it is one), and a coupled output."""

    weight: Tensor
    entering: Tensor
    slope: Tensor | None
    coupled: Activation | None = None
    y: Tensor | None = None

    def push(self, tangent: Tensor) -> Tensor:
        """Push tangents (N, out) through the activation."""
        if self.coupled is not None:
            assert self.y is not None
            return self.coupled.push(self.y, tangent[..., None])[..., 0]
        return tangent if self.slope is None else tangent * self.slope

    def pull(self, C: Tensor) -> Tensor:
        """Pull cotangents (N, out) or (N, m, out) through the activation."""
        if self.coupled is not None:
            assert self.y is not None
            return self.coupled.pull(self.y if C.ndim == 2 else self.y[:, None, :], C)
        if self.slope is None:
            return C
        return C * (self.slope if C.ndim == 2 else self.slope[:, None, :])


def tape_of(mlp: MLP, x: Tensor) -> tuple[Tensor, list[Step]]:
    """Evaluate the network, keeping what the pullback needs."""
    steps: list[Step] = []
    h = x
    for W, value, slope in mlp.layers(x, value=True):
        assert value is not None
        steps.append(Step(W, h, slope))
        h = value
    psi = mlp.activations[-1]
    if psi.coupled:
        steps[-1] = steps[-1]._replace(coupled=psi, y=h)
    return h, steps


def pull(steps: list[Step], C: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Pull cotangents of y back: `C_l ← C_l S_l`, and `C_{l-1} = C_l W_l`."""
    for index in range(len(steps) - 1, -1, -1):
        C = steps[index].pull(C)
        entering = C @ steps[index].weight
        yield index, C, entering
        C = entering


def split_parameters(mlp: MLP, v: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """Take a vector of all parameters apart."""
    parts: list[tuple[Tensor, Tensor | None]] = []
    count = sum(p.numel() for p in mlp.parameters())
    if v.shape != (count,):
        raise ValueError(f"v must have shape ({count},), a number for each parameter, got {tuple(v.shape)}")
    at = 0
    for W, b in zip(mlp.weights, mlp.biases, strict=True):
        V = v[at : at + W.numel()].reshape(W.shape)
        at += W.numel()
        parts.append((V, None if b is None else v[at : at + len(b)]))
        at += 0 if b is None else len(b)
    return parts

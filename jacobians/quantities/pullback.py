"""The walk that derivatives share: evaluate keeping values and slopes, then pull cotangents back layer by layer; and products with J."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jacobians.modes import steps as graphs
from jacobians.network.activations import Activation
from jacobians.network.mlp import MLP

# `(vector, tensors)` -> views of the vector of their shapes, in one call of C; transforms take `unflatten`.
views_of: Callable[..., Sequence[Tensor]] = torch._C._nn.unflatten_dense_tensors  # pyright: ignore[reportAttributeAccessIssue]


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


def by_parameters(mlp: MLP, steps: list[Step], C: Tensor) -> tuple[list[Tensor], Tensor]:
    """Pull cotangents of y back, to the derivatives by the parameters, summed over samples, and that by x."""
    found: list[Tensor] = []
    biased, at_x = mlp.biased, C
    for index, C_l, at_x in pull(steps, C):  # noqa: B007 - the last is that by x
        found = [C_l.mT @ steps[index].entering, *([C_l.sum(0)] if biased[index] else []), *found]
    return found, at_x


def pushforward(mlp: MLP, x: Tensor, v: Tensor) -> Tensor:
    """Compute `J v`: `t_0 = v`, `t_l = S_l W_l t_{l-1}`."""
    if mlp.graph is not None:
        return graphs.pushforward(mlp.graph, x, v)
    t, h = v, x
    for W, h, s in mlp.layers(x, value=True):  # noqa: B007 - the last value is y
        t = F.linear(t, W)
        t = t if s is None else t * s
    psi = mlp.activations[-1]
    if psi.coupled:
        assert h is not None
        t = psi.push(h, t[..., None])[..., 0]
    return t


def pullback(mlp: MLP, x: Tensor, u: Tensor) -> Tensor:
    """Compute `Jᵀ u`: `c_{L+1} = S_{L+1} u`, `c_{l-1} = S_{l-1} W_lᵀ c_l`."""
    if mlp.graph is not None:
        return graphs.pullback(mlp.graph, x, u)
    _, tape = tape_of(mlp, x.reshape(-1, mlp.D))
    *_, (_, _, at_x) = pull(tape, u.reshape(-1, mlp.P))
    return at_x.reshape(x.shape)


def split_parameters(mlp: MLP, v: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """Take a vector of all parameters apart."""
    parameters = list(mlp.parameters())
    count = sum(p.numel() for p in parameters)
    if v.shape != (count,):
        raise ValueError(f"v must have shape ({count},), a number for each parameter, got {tuple(v.shape)}")
    return in_pairs(unflatten(v, parameters), mlp.biased)


def unflatten(v: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Take a vector of all parameters apart into tensors of their shapes."""
    return [part.reshape(p.shape) for part, p in zip(v.split([p.numel() for p in like]), like, strict=True)]


def in_pairs(parameters: Iterable[Tensor], biased: Iterable[bool]) -> list[tuple[Tensor, Tensor | None]]:
    """Put tensors in the order of `mlp.parameters()` into pairs, with `None` for the bias of a layer that has none."""
    rest = iter(parameters)
    return [(next(rest), next(rest) if there else None) for there in biased]

"""Inputs as people hold them: several tensors, any leading axes, images, some columns; and results put back into that form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.planning.inputs import dense
from jacobians.problem import is_integer


def ordinary(x: Any) -> TypeGuard[Tensor]:
    """Say whether x is one tensor of shape (D,) or (N, D)."""
    return isinstance(x, Tensor) and x.ndim < 3


@dataclass(frozen=True, slots=True)
class Frame:
    """The form of an input."""

    x: Tensor  # the same as one tensor, (N, D), or (D,) where there are no leading axes
    lead: tuple[int, ...]  # the leading axes
    events: tuple[tuple[int, ...], ...]  # shape of each input behind them
    order: tuple[int, ...]  # the inputs in the order in which they stand in x
    several: bool  # whether it was several tensors

    def flat(self, t: Any) -> Any:
        """Put the samples of another input, as a target, into one axis."""
        fits = isinstance(t, Tensor) and len(self.lead) > 1 and t.shape[: len(self.lead)] == self.lead
        return t.reshape(prod(self.lead), *t.shape[len(self.lead) :]) if fits else t

    def join(self, name: str, given: Any, *kept: int) -> Tensor:
        """Put what has the form of x, as a tangent, or of a result with some axes before those of x, into one tensor."""
        parts = tuple(given) if self.several and isinstance(given, tuple | list) else (given,)
        wanted = [(*self.lead, *kept, *event) for event in self.events]
        shapes = [tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for t in parts]
        if shapes != wanted:
            raise ValueError(f"{name} must have the form of x, {', '.join(map(str, wanted))}, got {', '.join(map(str, shapes))}")
        return torch.cat([parts[i].reshape(*self.x.shape[:-1], *kept, prod(self.events[i])) for i in self.order], -1)

    def last(self, found: Any) -> Any:
        """Put the last of some results back, which is a derivative by x."""
        whole = (*found[:-1], self.rows(found[-1], 1))
        return type(found)(*whole) if hasattr(found, "_fields") else whole

    def rows(self, t: Tensor, axes: int = 0) -> Any:
        """Put a result back, one row a sample, whose last axes are those of x: a block for each input where it has one such axis."""
        tail = t.shape[min(1, len(self.lead)) :]
        kept = tail[: len(tail) - axes]
        if axes == 0 or (axes == 2 and self.several):
            return t.reshape(*self.lead, *tail)
        if not self.several:
            return t.reshape(*self.lead, *kept, *self.events[0] * axes)
        return self.blocks(t, self.order)

    def blocks(self, t: Tensor, inputs: Sequence[int]) -> tuple[Tensor, ...]:
        """Take a result whose last axis goes through some inputs apart, in the order of the inputs as they were given."""
        kept = t.shape[min(1, len(self.lead)) : -1]
        pieces = t.split([prod(self.events[i]) for i in inputs], -1)
        found = {i: piece.reshape(*self.lead, *kept, *self.events[i]) for i, piece in zip(inputs, pieces, strict=True)}
        return tuple(found[i] for i in (sorted(found) if inputs is self.order else inputs))

    def places(self, i: int) -> range:
        """Return the columns of an input in x."""
        start = sum(prod(self.events[j]) for j in self.order[: self.order.index(i)])
        return range(start, start + prod(self.events[i]))


def frame_of(mlp: MLP, x: Any) -> Frame:
    """Describe the form of an input, refusing one that cannot be put into one tensor."""
    if not isinstance(x, tuple | list) or not any(isinstance(t, Tensor) for t in x):
        dense("x", x)  # pyright: ignore[reportArgumentType]  # refuses what is no tensor
        assert isinstance(x, Tensor)
        at = max(0, x.ndim - 1) if x.ndim < 3 or not mlp.flattens else _image(mlp, x)
        event = tuple(x.shape[at:])
        flat = x if x.ndim < 3 else x.reshape(*((prod(x.shape[:at]),) if at else ()), prod(event))
        return Frame(flat, tuple(x.shape[:at]), (event,), (0,), False)
    names = mlp.inputs.names if mlp.inputs else [str(i) for i in range(len(x))]
    if len(x) != len(names) or not x:
        raise ValueError(f"the network takes {len(names)} inputs, {', '.join(names)}, got {len(x)}; pass one tensor for each")
    for name, t in zip(names, x, strict=True):
        dense(f"input {name}", t)
        if t.dtype != mlp.dtype or t.device != mlp.device:
            raise TypeError(f"input {name} is {t.dtype} on {t.device} but the network is {mlp.dtype} on {mlp.device}; convert it with .to")
    stacked = mlp.inputs is not None and mlp.inputs.stacked
    if not stacked and any(t.ndim == 0 for t in x):
        raise ValueError("an input has no axis of features; give it as t[..., None]")
    leads = {tuple(t.shape) if stacked else tuple(t.shape[:-1]) for t in x}
    if len(leads) > 1:
        raise ValueError(
            f"the inputs must have the same leading axes, got shapes {', '.join(str(tuple(t.shape)) for t in x)}; expand them to one"
        )
    (lead,) = leads
    order = mlp.inputs.order if mlp.inputs else tuple(range(len(x)))
    joined = torch.stack([x[i] for i in order], -1) if stacked else torch.cat([x[i] for i in order], -1)
    return Frame(
        joined.reshape(prod(lead), joined.shape[-1]) if len(lead) > 1 else joined,
        lead,
        tuple(() if stacked else tuple(t.shape[-1:]) for t in x),
        order,
        True,
    )


def _image(mlp: MLP, x: Tensor) -> int:
    """Return where the axes of an image begin that a Flatten makes D numbers of: behind the first, as in torch, where that fits."""
    fits = [at for at in (1, *range(x.ndim)) if prod(x.shape[at:]) == mlp.D]
    if not fits:
        raise ValueError(
            f"x of shape {tuple(x.shape)} has no axes that flatten to D={mlp.D}; give it as (N, …) with {mlp.D} numbers a sample"
        )
    return fits[0]


@dataclass(frozen=True, slots=True)
class Selection:
    """The columns of J that were asked for."""

    columns: tuple[int, ...]  # their places in x
    inputs: tuple[int, ...] | None  # the inputs that they are, or `None` for columns of one tensor
    alone: bool  # whether it was one, so that its axis, or the tuple around it, goes

    def of(self, frame: Frame, J: Tensor) -> Any:
        """Give J its form."""
        if self.inputs is not None:
            found = frame.blocks(J, self.inputs)
            return found[0] if self.alone else found
        J = frame.rows(J)
        return J[..., 0] if self.alone else J


def select(mlp: MLP, frame: Frame, wrt: Any) -> Selection:
    """Read which columns are wanted: of one tensor by number, slice or list; of several tensors whole inputs, by number or name."""
    names = mlp.inputs.names if mlp.inputs else ()
    alone = isinstance(wrt, str) or is_integer(wrt)
    if frame.several:
        what, known = "inputs", cast("dict[Any, int]", {name: i for i, name in enumerate(names)} | {i: i for i in range(len(frame.events))})
    else:
        if len(frame.events[0]) != 1:
            raise ValueError("wrt picks columns of x of shape (…, D), and x is an image; flatten it first, or leave out wrt")
        what, known = "columns", cast("dict[Any, int]", {i: i for i in range(frame.x.shape[-1])})
    if isinstance(wrt, slice) and not frame.several:
        picked: list[Any] = list(known)[wrt]
    elif alone or isinstance(wrt, list | tuple | range):
        picked = [wrt] if alone else list(wrt)  # pyright: ignore[reportArgumentType]
    else:
        kinds = "numbers or names of inputs" if frame.several else "a number, a slice or a list of columns"
        raise TypeError(f"wrt must be {kinds}, got {wrt!r}")
    count = len(frame.events) if frame.several else len(known)
    found = [known.get(w if isinstance(w, str) else int(w) + count * (int(w) < 0) if is_integer(w) else None) for w in picked]
    if not found or None in found:
        choices = ", ".join(map(str, known)) if len(known) < 10 else f"0 to {count - 1}"
        raise ValueError(f"wrt={wrt!r} picks no {what} of x; choose from {choices}")
    chosen = tuple(i for i in found if i is not None)
    if not frame.several:
        return Selection(chosen, None, alone)
    return Selection(tuple(c for i in chosen for c in frame.places(i)), chosen, alone)

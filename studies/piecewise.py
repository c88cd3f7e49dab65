"""Any continuous piecewise linear function of one variable as a ReLU network with one hidden layer, exactly and with the fewest units.

A function with kinks `t_1 < … < t_k` has slopes `m_0, …, m_k`. A unit `relu(x - t)` or `relu(t - x)` with factor Δ changes the slope
at t by Δ, whichever way it points; pointing left it also adds -Δ to the slope on the left of it. So k units, one a kink, give every
kink, and the slope at the far left is minus the sum of the changes of those that point left. Where some of the changes sum to `-m_0`
these point left and k units are enough; no network has fewer, since each unit bends at one place. Otherwise one unit more, at a kink
that then has one of each kind, makes up the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch
from torch import Tensor

import jacobians as jac

MOST_SUBSETS = 18  # kinks for which all subsets are tried; beyond, one unit more is taken


@dataclass(frozen=True)
class Piecewise:
    """A continuous piecewise linear function of one variable."""

    kinks: tuple[float, ...]  # where the slope changes, ascending
    slopes: tuple[float, ...]  # the slope before the first kink, between the kinks, and behind the last: one more than kinks
    value: float  # the value at the first kink; at 0 where there is none

    def __post_init__(self) -> None:
        """Refuse what is no function."""
        if len(self.slopes) != len(self.kinks) + 1:
            raise ValueError(f"{len(self.kinks)} kinks need {len(self.kinks) + 1} slopes, got {len(self.slopes)}")
        if any(b <= a for a, b in pairwise(self.kinks)):
            raise ValueError(f"kinks must ascend, got {list(self.kinks)}")

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Piecewise:
        """Join points by straight lines, and go on straight at both ends.

        Example:
            >>> Piecewise.through([(0, 0), (1, 1), (2, 2), (3, 0)])
            Piecewise(kinks=(2,), slopes=(1.0, -2.0), value=2)
        """
        if len(points) < 2:
            raise ValueError(f"a line needs two points, got {len(points)}")
        if any(b[0] <= a[0] for a, b in pairwise(points)):
            raise ValueError(f"x must ascend, got {[x for x, _ in points]}")
        slopes = [(d - b) / (c - a) for (a, b), (c, d) in pairwise(points)]
        kept = [i for i in range(1, len(slopes)) if slopes[i] != slopes[i - 1]]
        if not kept:
            return cls((), (slopes[0],), points[0][1] - slopes[0] * points[0][0])
        return cls(tuple(points[i][0] for i in kept), (slopes[0], *(slopes[i] for i in kept)), points[kept[0]][1])

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate, piece by piece."""
        if not self.kinks:
            return self.value + self.slopes[0] * x
        y = self.value + self.slopes[0] * (x - self.kinks[0]).clamp_max(0.0)
        for t, end, slope in zip(self.kinks, (*self.kinks[1:], float("inf")), self.slopes[1:], strict=True):
            y = y + slope * ((x - t).clamp_min(0.0)).clamp_max(end - t)
        return y

    def slope(self, x: Tensor) -> Tensor:
        """Return the slope of the piece that x is in; at a kink that of the piece on its left."""
        kinks = torch.tensor(self.kinks, dtype=x.dtype)
        return torch.tensor(self.slopes, dtype=x.dtype)[torch.bucketize(x, kinks)]


def to_network(f: Piecewise, output_activation: str = "identity") -> jac.MLP:
    """Build the network with the fewest hidden units, in float64; its output activation comes after it.

    Example:
        >>> tent = Piecewise((-1.0, 0.0, 1.0), (0.0, 1.0, -1.0, 0.0), 0.0)
        >>> net = to_network(tent)
        >>> net.widths, net(torch.tensor([0.25], dtype=torch.float64))
        ((1, 3, 1), tensor([0.7500], dtype=torch.float64))
    """
    units = _units(f)  # (direction, place, factor)
    at = f.kinks[0] if f.kinks else 0.0
    offset = f.value - sum(factor * max(0.0, direction * (at - t)) for direction, t, factor in units)
    double = torch.float64
    first = torch.tensor([[float(direction)] for direction, _, _ in units], dtype=double)
    shift = torch.tensor([-direction * t for direction, t, _ in units], dtype=double)
    last = torch.tensor([[factor for _, _, factor in units]], dtype=double)
    return jac.MLP([first, last], [shift, torch.tensor([offset], dtype=double)], "relu", output_activation)


def _units(f: Piecewise) -> list[tuple[int, float, float]]:
    changes = [b - a for a, b in pairwise(f.slopes)]
    if not f.kinks:
        m = f.slopes[0]
        return [(1, 0.0, m), (-1, 0.0, -m)] if m else [(1, 0.0, 0.0)]  # a network needs a unit
    leftward = _subset(changes, -f.slopes[0])
    if leftward is not None:
        return [(-1 if i in leftward else 1, t, change) for i, (t, change) in enumerate(zip(f.kinks, changes, strict=True))]
    # One of each kind at the first kink: the one to the left has the slope at the far left, the other makes up the kink.
    rest = [(1, t, change) for t, change in zip(f.kinks[1:], changes[1:], strict=True)]
    return [(-1, f.kinks[0], -f.slopes[0]), (1, f.kinks[0], f.slopes[1]), *rest]


def _subset(changes: Sequence[float], wanted: float) -> set[int] | None:
    """Find changes that sum exactly to a number, the fewest; `None` where there are none, or too many to try."""
    for size in range(len(changes) + 1 if len(changes) <= MOST_SUBSETS else 1):
        for chosen in combinations(range(len(changes)), size):
            if sum(changes[i] for i in chosen) == wanted:
                return set(chosen)
    return None

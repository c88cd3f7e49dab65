"""Piecewise linear functions as ReLU networks: values and slopes exact, with the fewest units; an exercise's points and its own weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import jacobians as jac
from studies import published
from studies.piecewise import Piecewise, to_network
from studies.study import Options, Row, Study, Tables, column, register, where

POINTS = 10_000
SHOWN = 241
MARGIN = 1e-9  # beside a kink


@dataclass(frozen=True)
class Shape:
    """A function, and what its network is made of."""

    name: str
    f: Piecewise
    line: Piecewise | None = None  # what the hidden units add up to; ReLU at the output makes the function of it
    points: int | None = None  # the exercise's data set that it joins, if it does

    def network(self) -> jac.MLP:
        return to_network(self.line, "relu") if self.line else to_network(self.f)


def soft_threshold(s: float) -> Piecewise:
    """Return `sign(x) max(|x| - s, 0)`.

    Example:
        >>> soft_threshold(0.5)(torch.tensor([-2.0, 0.25, 2.0]))
        tensor([-1.5000,  0.0000,  1.5000])
    """
    if not s >= 0:
        raise ValueError(f"a threshold must be at least 0, got {s}")
    return Piecewise((-s, s), (1.0, 0.0, 1.0), 0.0) if s else Piecewise((), (1.0,), 0.0)


def data(number: int) -> tuple[Tensor, Tensor]:
    """Read the points of an exercise's data set: x and y of shape (N, 1)."""
    rows = published.table(f"piecewise_data_{number}")
    x, y = (torch.tensor(column(rows, name), dtype=torch.float64)[:, None] for name in ("x", "y"))
    return x, y


def published_network(number: int) -> jac.MLP:
    """Build the network of the weights that the exercise prints for a data set."""
    rows = where(published.table("piecewise_published_weights"), data=str(number))
    hidden, shift, out, last = (
        torch.tensor(column(rows, name), dtype=torch.float64) for name in ("hidden_weight", "hidden_bias", "output_weight", "output_bias")
    )
    return jac.MLP([hidden[:, None], out[None]], [shift, last[:1]], "relu")


def shapes() -> Iterator[Shape]:
    """Make the functions of the exercise."""
    yield Shape("tent", Piecewise((0.0, 0.5, 1.0), (0.0, 2.0, -2.0, 0.0), 0.0), Piecewise((0.5,), (2.0, -2.0), 1.0))
    for s in (0.0, 0.5, 2.0):
        yield Shape(f"soft threshold, s = {s:g}", soft_threshold(s))
    for number in (1, 2):
        x, y = data(number)
        yield Shape(f"data set {number}", Piecewise.through(list(zip(x[:, 0].tolist(), y[:, 0].tolist(), strict=True))), points=number)


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    generator, found = torch.Generator().manual_seed(options.seed), list(shapes())
    for place, shape in enumerate(found):
        options.report(place / len(found))
        f, net = shape.f, shape.network()
        low, high = (min(f.kinks) - 2, max(f.kinks) + 2) if f.kinks else (-2.0, 2.0)
        if shape.points:
            low, high = (float(end) for end in data(shape.points)[0][[0, -1], 0])
        x = low + (high - low) * torch.rand(POINTS, 1, generator=generator, dtype=torch.float64)
        y, J = jac.value_and_jacobian(net, x)
        at = torch.tensor(f.kinks, dtype=torch.float64)[:, None]
        kinks = jac.jacobian(net, at)[:, 0, 0] if f.kinks else torch.zeros(0, dtype=torch.float64)
        sides = torch.stack([f.slope(at - MARGIN), f.slope(at + MARGIN)], -1)[:, 0] if f.kinks else torch.zeros(0, 2, dtype=torch.float64)
        row: Row = {
            "function": shape.name,
            "kinks": len(f.kinks),
            "units": net.widths[1],
            "value_error": float((y - f(x)).abs().max()),
            "slope_error": float((J[:, 0] - f.slope(x)).abs().max()),
            # At a kink ReLU has slope 0 there: the network's slope is a sum over the other units.
            "kinks_with_a_slope_of_a_side": int((kinks[:, None] == sides).any(1).sum()),
            "points": 0,
        }
        if shape.points:
            at, wanted = data(shape.points)
            theirs = published_network(shape.points)(at)
            error = {"points": len(at), "point_error": float((net(at) - wanted).abs().max())}
            row |= {**error, "published_point_error": float((theirs - wanted).abs().max()), "published_met": int((theirs == wanted).sum())}
            for a, b, c in zip(at[:, 0].tolist(), wanted[:, 0].tolist(), theirs[:, 0].tolist(), strict=True):
                yield "representation-points", {"function": shape.name, "x": a, "y": b, "published_network": c}
        yield "representation", row
        grid = torch.linspace(low, high, SHOWN, dtype=torch.float64)[:, None]
        y, J = jac.value_and_jacobian(net, grid)
        for a, b, c in zip(grid[:, 0].tolist(), y[:, 0].tolist(), J[:, 0, 0].tolist(), strict=True):
            yield "representation-curves", {"function": shape.name, "x": a, "y": b, "slope": c}


def _conclude(tables: Tables) -> str:
    rows = tables["representation"]
    worst, slope = max(column(rows, "value_error")), max(column(rows, "slope_error"))

    def within(error: float) -> str:
        return f" within {error:.1e}" if error else ""

    units = ", ".join(f"{row['function']} {float(row['units']):g} for {float(row['kinks']):g} kinks" for row in rows)
    fitted = [row for row in rows if float(row["points"])]
    points = "; ".join(
        f"the {float(row['points']):g} points of {row['function']} within {float(row['point_error']):g} (the published weights meet "
        f"{float(row['published_met']):g})"
        for row in fitted
    )
    return (
        f"At {POINTS} places the values are exact{within(worst)} and J is the slope{within(slope)}. Hidden units: {units}. The "
        f"networks meet {points}."
    )


register(
    Study(
        "representation",
        "Piecewise linear functions as ReLU networks",
        "How many units does a ReLU network need for a continuous piecewise linear function, and is its Jacobian the slope?",
        {
            "representation": (
                *("function", "kinks", "units", "value_error", "slope_error", "kinks_with_a_slope_of_a_side"),
                *("points", "point_error", "published_point_error", "published_met"),
            ),
            "representation-points": ("function", "x", "y", "published_network"),
            "representation-curves": ("function", "x", "y", "slope"),
        },
        _rows,
        _conclude,
    )
)

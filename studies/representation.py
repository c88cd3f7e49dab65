"""Piecewise linear functions as ReLU networks: values and slopes exact, with the fewest units."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import jacobians as jac
from studies.piecewise import Piecewise, to_network
from studies.study import Options, Row, Study, register

POINTS = 10_000
SHOWN = 241
FUNCTIONS = {
    "tent": Piecewise((-1.0, 0.0, 1.0), (0.0, 1.0, -1.0, 0.0), 0.0),
    "soft threshold": Piecewise((-1.0, 1.0), (1.0, 0.0, 1.0), 0.0),  # sign(x) max(|x| - 1, 0)
    "level": Piecewise.through([(x, 8.0) for x in range(13)]),
    "stairs": Piecewise.through([(0, 0), (2, 1), (4, 1), (6, 2.5), (8, 2), (10, 3.5)]),
}


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    generator = torch.Generator().manual_seed(options.seed)
    for number, (name, f) in enumerate(FUNCTIONS.items()):
        options.report(number / len(FUNCTIONS))
        net = to_network(f)
        low, high = (min(f.kinks) - 2, max(f.kinks) + 2) if f.kinks else (-2.0, 14.0)
        x = low + (high - low) * torch.rand(POINTS, 1, generator=generator, dtype=torch.float64)
        y, J = jac.value_and_jacobian(net, x)
        at = torch.tensor(f.kinks, dtype=torch.float64)[:, None]
        kinks = jac.jacobian(net, at)[:, 0, 0] if f.kinks else torch.zeros(0, dtype=torch.float64)
        sides = torch.stack([f.slope(at - 1e-9), f.slope(at + 1e-9)], -1)[:, 0] if f.kinks else torch.zeros(0, 2, dtype=torch.float64)
        yield (
            "representation",
            {
                "function": name,
                "kinks": len(f.kinks),
                "units": net.widths[1],
                "value_error": float((y - f(x)).abs().max()),
                "slope_error": float((J[:, 0] - f.slope(x)).abs().max()),
                # At a kink ReLU has slope 0 there: the network's slope is a sum over the other units.
                "kinks_with_a_slope_of_a_side": int((kinks[:, None] == sides).any(1).sum()),
            },
        )
        grid = torch.linspace(low, high, SHOWN, dtype=torch.float64)[:, None]
        y, J = jac.value_and_jacobian(net, grid)
        for a, b, c in zip(grid[:, 0].tolist(), y[:, 0].tolist(), J[:, 0, 0].tolist(), strict=True):
            yield "representation-curves", {"function": name, "x": a, "y": b, "slope": c}


def _conclude(tables: dict[str, list[Row]]) -> str:
    rows = tables["representation"]
    worst = max(float(row["value_error"]) for row in rows)
    units = ", ".join(f"{row['function']} {float(row['units']):g} units for {float(row['kinks']):g} kinks" for row in rows)
    slope = max(float(row["slope_error"]) for row in rows)
    return f"At {POINTS} points the values are exact within {worst:.1e} and J is the slope within {slope:.1e}. Of each function: {units}."


register(
    Study(
        "representation",
        "Piecewise linear functions as ReLU networks",
        "How many units does a ReLU network need for a continuous piecewise linear function, and is its Jacobian the slope?",
        {
            "representation": ("function", "kinks", "units", "value_error", "slope_error", "kinks_with_a_slope_of_a_side"),
            "representation-curves": ("function", "x", "y", "slope"),
        },
        _rows,
        _conclude,
    )
)

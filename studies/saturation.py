"""Effect of the scale of the weights on slopes and Jacobians with depth: the reason for scaled weights in the sweeps."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import jacobians as jac
from studies.study import Options, Row, Study, Tables, register, where

INITS = ("normal", "xavier", "orthogonal")
DEPTH, WIDTH = 20, 256


def follow(depth: int = DEPTH, width: int = WIDTH, seed: int = 0) -> Iterator[Row]:
    """Follow `∂h_l/∂x` through tanh networks of equal widths, in float64, at a standard normal x.

    Example:
        >>> [round(row["mean_slope"], 2) for row in follow(depth=2, width=64) if row["init"] == "normal"]
        [0.1, 0.09]
    """
    x = torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for init in INITS:
        mlp = jac.MLP.random(L=depth, D=width, K=width, P=width, init=init, seed=seed, dtype=torch.float64)
        J = torch.eye(width, dtype=torch.float64)
        for number, layer in enumerate(list(mlp.layers(x))[:-1], start=1):
            assert layer.slope is not None
            J = layer.slope[:, None] * (layer.weight @ J)
            singular = torch.linalg.svdvals(J)
            yield {
                "init": init,
                "layer": number,
                "width": width,
                "mean_slope": layer.slope.mean().item(),
                "largest_singular_value": singular[0].item(),
                "median_singular_value": singular.median().item(),
            }


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    depth = options.epochs or DEPTH
    for number, row in enumerate(follow(depth, WIDTH, options.seed), 1):
        options.report(number / (depth * len(INITS)))
        yield "saturation", row


def _conclude(tables: Tables) -> str:
    rows = tables["saturation"]
    last = [where(rows, init=init)[-1] for init in INITS]
    slopes = ", ".join(f"{row['init']} {float(row['mean_slope']):.2g}" for row in last)
    values = ", ".join(f"{row['init']} {float(row['largest_singular_value']):.2g}" for row in last)
    return f"After layer {float(last[0]['layer']):g}: mean slope {slopes}; largest singular value {values}."


register(
    Study(
        "saturation",
        "Why the weights are scaled",
        "What does the scale of the weights do to slopes and Jacobians with depth?",
        {"saturation": ("init", "layer", "width", "mean_slope", "largest_singular_value", "median_singular_value")},
        _rows,
        _conclude,
    )
)

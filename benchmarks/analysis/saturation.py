"""What the scale of the weights does to slopes and Jacobians with depth: `python -m benchmarks.analysis.saturation` writes the table.

Not a measurement of time, and the same on every machine up to rounding: it shows why the sweeps scale their weights.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch

import jacobians as jac
from benchmarks.errors import BadInput
from benchmarks.records.csv_file import RESULTS, write_atomically

PATH = RESULTS / "saturation.csv"
COLUMNS: tuple[str, ...] = ("init", "layer", "width", "mean_slope", "largest_singular_value", "median_singular_value")
INITS = ("normal", "xavier", "orthogonal")
DEPTH, WIDTH = 20, 256


def study(depth: int = DEPTH, width: int = WIDTH, seed: int = 0) -> list[dict[str, str | int | float]]:
    """Follow `∂h_l/∂x` through tanh networks of equal widths, in float64, at a standard normal x.

    Args:
        depth: Hidden layers.
        width: Width of the input and of every layer.
        seed: Seed of weights and input.

    Returns:
        One record per init and layer: the mean slope φ'(z_l), and the largest and median singular value of `∂h_l/∂x`.

    Example:
        >>> [round(record["mean_slope"], 2) for record in study(depth=2, width=64) if record["init"] == "normal"]
        [0.1, 0.09]
    """
    records: list[dict[str, str | int | float]] = []
    x = torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for init in INITS:
        mlp = jac.MLP.random(L=depth, D=width, K=width, P=width, init=init, seed=seed, dtype=torch.float64)
        J = torch.eye(width, dtype=torch.float64)
        for number, layer in enumerate(list(mlp.layers(x))[:-1], start=1):
            assert layer.slope is not None
            J = layer.slope[:, None] * (layer.weight @ J)
            singular = torch.linalg.svdvals(J)
            values = (layer.slope.mean().item(), singular[0].item(), singular.median().item())
            records.append(dict(zip(COLUMNS, (init, number, width, *values), strict=True)))
    return records


def read(path: Path = PATH) -> list[dict[str, str | float]]:
    """Read the committed table.

    Args:
        path: The CSV.

    Returns:
        Its records.

    Raises:
        BadInput: It is missing or is no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{name: text if name == "init" else float(text) for name, text in record.items()} for record in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: not the table of saturation ({error}); write it with python -m benchmarks.analysis.saturation") from None


def main() -> None:
    """Write the table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    for record in study():
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in record.items()})
    write_atomically(PATH, text.getvalue())


if __name__ == "__main__":
    main()

"""Gradient descent on least squares: its iterates in closed form, and the step sizes for which it converges.

For `L(w) = ‖X w - y‖² / 2` the iterates `w_{k+1} = w_k - α Xᵀ(X w_k - y)` are

    w_k = (I - α XᵀX)^k w_0 + α Σ_{i<k} (I - α XᵀX)^i Xᵀy,

and converge exactly for `0 < α < 2 / λ_max(XᵀX)`. With absolute values instead of squares there is no such form; subgradients stand
beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import jacobians as jac
from studies.study import Options, Row, Study, column, register

SAMPLES, FEATURES, STEPS = 60, 8, 400
SHARES = (0.1, 0.5, 0.999, 1.001, 1.05)  # of the border 2 / λ_max


def closed_form(X: Tensor, y: Tensor, start: Tensor, alpha: float, k: int) -> Tensor:
    """Return the k-th iterate without iterating, by the eigenvectors of XᵀX."""
    values, Q = torch.linalg.eigh(X.mT @ X)
    factor = 1 - alpha * values
    power = factor**k
    total = torch.where((1 - factor).abs() < 1e-14, float(k), (1 - power) / (1 - factor))  # Σ factor^i
    return Q @ (power * (Q.mT @ start) + alpha * total * (Q.mT @ (X.mT @ y)))


def data(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a problem."""
    generator = torch.Generator().manual_seed(seed)
    X, w, noise, start = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((SAMPLES, FEATURES), (FEATURES,), (SAMPLES,), (FEATURES,))
    )
    return X, X @ w + 0.1 * noise, start


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    X, y, start = data(options.seed)
    border = 2 / float(torch.linalg.eigvalsh(X.mT @ X)[-1])
    best = torch.linalg.lstsq(X, y[:, None]).solution[:, 0]
    steps = options.epochs or STEPS
    for number, share in enumerate(SHARES):
        options.report(number / (len(SHARES) + 1))
        alpha, worst, w, middle = share * border, 0.0, start, 0.0
        mlp = jac.MLP([start[None].clone()])  # y = w · x: a network without a hidden layer
        for k in range(1, steps + 1):
            g = jac.gradient(mlp, X, y[:, None], jac.Loss("mse", "sum", 0.5))
            mlp.weights[0].sub_(alpha * g.weights[0])
            w = mlp.weights[0][0]
            exact = closed_form(X, y, start, alpha, k)
            worst = max(worst, float((w - exact).norm() / exact.norm()))
            middle = float((w - best).norm()) if k == max(1, steps // 2) else middle
            yield "least-squares-curves", {"loss": "squares", "share": share, "step": k, "distance": float((w - best).norm())}
        row: Row = {"share": share, "alpha": alpha, "steps": steps, "worst_difference": worst, "distance": float((w - best).norm())}
        # Both distances may be at rounding level, where the larger one is chance: then it has arrived.
        rounding = 1e-12 * float(best.norm())
        yield "least-squares", {**row, "converges": int(float((w - best).norm()) <= max(middle, rounding))}
    mlp = jac.MLP([start[None].clone()])
    for k in range(1, steps + 1):  # a constant step would only circle
        g = jac.gradient(mlp, X, y[:, None], jac.Loss("l1", "sum"))
        mlp.weights[0].sub_(0.02 / k**0.5 * g.weights[0])
        distance = float((mlp.weights[0][0] - best).norm())
        yield "least-squares-curves", {"loss": "absolute values", "share": 0.0, "step": k, "distance": distance}


def _conclude(tables: dict[str, list[Row]]) -> str:
    rows = tables["least-squares"]
    below = [float(row["share"]) for row in rows if float(row["converges"])]
    above = [float(row["share"]) for row in rows if not float(row["converges"])]
    return (
        f"The iterates are those of the closed form within {max(column(rows, 'worst_difference')):.1e}. Of the step sizes tried, in shares "
        f"of 2/λ_max, those up to {max(below):g} come nearer in the second half of the steps and those from {min(above):g} on go away."
    )


register(
    Study(
        "least-squares",
        "Gradient descent on least squares",
        "Are the iterates of gradient descent what the closed form says, and where is the border of convergence?",
        {
            "least-squares": ("share", "alpha", "steps", "worst_difference", "distance", "converges"),
            "least-squares-curves": ("loss", "share", "step", "distance"),
        },
        _rows,
        _conclude,
    )
)

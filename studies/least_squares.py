"""Gradient descent on least squares: its iterates in closed form, and the step sizes for which it converges.

For `L(w) = ‖X w - y‖² / 2` the iterates `w_{k+1} = w_k - α Xᵀ(X w_k - y)` are

    w_k = (I - α XᵀX)^k w_0 + α Σ_{i<k} (I - α XᵀX)^i Xᵀy,

and converge exactly for `0 < α < 2 / λ_max(XᵀX)`. With absolute values instead of squares (least absolute deviations) there is no such
form, but the minimum is that of a linear program: subgradient descent with falling steps is followed to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

import jacobians as jac
from studies.study import Options, Row, Study, Tables, column, register

SAMPLES, FEATURES, STEPS = 60, 8, 400
SHARES = (0.1, 0.5, 0.999, 1.001, 1.05)  # of the border 2 / λ_max
# Steps of the subgradients; a constant one would only circle. ‖X w - y‖₁ is a polyhedron, for which a geometric rule converges linearly.
FALLING: dict[str, Callable[[int], float]] = {"0.02 / √k": lambda k: 0.02 / k**0.5, "0.02 · 0.96^k": lambda k: 0.02 * 0.96**k}


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


def least_absolute(X: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """Minimise `‖X w - y‖₁` as a linear program: the least `Σ t` with `-t ≤ X w - y ≤ t`.

    Example:
        >>> w, least = least_absolute(torch.ones(3, 1, dtype=torch.float64), torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64))
        >>> w.tolist(), least  # the median
        ([2.0], 8.0)
    """
    from scipy.optimize import linprog  # here: other studies need no scipy

    count, features = X.shape
    A, b, one = X.numpy(), y.numpy(), np.eye(count)
    found = linprog(
        np.r_[np.zeros(features), np.ones(count)],
        A_ub=np.block([[A, -one], [-A, -one]]),
        b_ub=np.r_[b, -b],
        bounds=[(None, None)] * features + [(0, None)] * count,
    )
    if found.status:
        raise ArithmeticError(f"the linear program was not solved: {found.message}")
    return torch.as_tensor(found.x[:features]), float(found.fun)


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
    solution, optimum = least_absolute(X, y)
    for rule, step in FALLING.items():
        mlp, least, distance = jac.MLP([start[None].clone()]), float((X @ start - y).abs().sum()), 0.0
        for k in range(1, steps + 1):
            g = jac.gradient(mlp, X, y[:, None], jac.Loss("l1", "sum"))
            mlp.weights[0].sub_(step(k) * g.weights[0])
            w = mlp.weights[0][0]
            least, distance = min(least, float((X @ w - y).abs().sum())), float((w - solution).norm())
            yield "least-squares-curves", {"loss": f"absolute values, {rule}", "share": 0.0, "step": k, "distance": distance}
        row = {"rule": rule, "steps": steps, "least": least, "optimum": optimum, "above": least / optimum - 1, "distance": distance}
        yield "least-squares-absolute", row


def _conclude(tables: Tables) -> str:
    rows = tables["least-squares"]
    absolute = " and ".join(
        f"within {max(0.0, float(row['above'])):.0e} with steps of {row['rule']}" for row in tables["least-squares-absolute"]
    )
    below = [float(row["share"]) for row in rows if float(row["converges"])]
    above = [float(row["share"]) for row in rows if not float(row["converges"])]
    nearer = [f"those up to {max(below):g} come nearer in the second half of the steps"] if below else []
    away = [f"those from {min(above):g} on go away"] if above else []
    return (
        f"The iterates are those of the closed form within {max(column(rows, 'worst_difference')):.1e}. Of the step sizes tried, in shares "
        f"of 2/λ_max, {' and '.join(nearer + away)}. "
        f"{float(tables['least-squares-absolute'][0]['steps']):g} subgradients of least absolute deviations come near the optimum of the "
        f"linear program, {absolute}."
    )


register(
    Study(
        "least-squares",
        "Gradient descent on least squares",
        "Are the iterates of gradient descent what the closed form says, where is its border, and what do subgradients reach?",
        {
            "least-squares": ("share", "alpha", "steps", "worst_difference", "distance", "converges"),
            "least-squares-curves": ("loss", "share", "step", "distance"),
            "least-squares-absolute": ("rule", "steps", "least", "optimum", "above", "distance"),
        },
        _rows,
        _conclude,
    )
)

"""Singular values of the Jacobian of deep tanh networks, beside what mean field theory predicts for infinite width.

A network `h_l = tanh(W_l h_{l-1} + b_l)` of d layers, all of width K, has the Jacobian `J = Π_l diag(φ'(z_l)) W_l`. With weights of
variance `σ_w² / K` and biases of variance `σ_b²` the preactivations keep a variance q with `q = σ_w² E[φ(√q ζ)²] + σ_b²`, ζ ~ N(0, 1), and
with `μ_k = E[φ'(√q ζ)^{2k}]` and `χ = σ_w² μ_1` the squared singular values of J have

    mean χ^d,    variance / mean² = d (μ_2 / μ_1² - 1 - s),

where s is -1 for Gaussian weights and 0 for orthogonal ones (Pennington, Schoenholz & Ganguli 2017, arXiv 1711.04735). `χ = 1` is the
border between gradients that vanish and gradients that explode.

In a network of finite width q drifts from layer to layer, and the logarithm of what it multiplies up to varies by an amount of order d / K
(Hanin & Nica 2019, arXiv 1812.05994). The same mean with the slopes that the layers of a network have, `Π_l σ_w² mean(φ'(z_l)²)`, stands
beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import jacobians as jac
from studies.study import Options, Row, Study, Tables, column, register, where

WIDTH, DEPTHS, NETWORKS = 1000, (1, 2, 5, 10, 20, 50, 100), 4
VARIANCE = 0.5  # q
GAINS = (0.95, 1.0, 1.05)  # χ
WEIGHTS = ("Gaussian", "orthogonal")
SHOWN = (2, 10, 100)  # depths whose single values are written
QUANTILES = 100


@dataclass(frozen=True, slots=True)
class MeanField:
    """Statistics of an infinitely wide tanh network."""

    gain: float  # χ
    variance: float  # q
    weight_variance: float  # σ_w²
    bias_variance: float  # σ_b²
    spread: float  # `μ_2 / μ_1² - 1`, what each layer adds to `variance / mean²` for orthogonal weights

    def mean(self, depth: int) -> float:
        """Return the mean squared singular value."""
        return self.gain**depth

    def relative_variance(self, depth: int, weights: str) -> float:
        """Return the variance of the squared singular values, divided by their squared mean."""
        return depth * (self.spread + (weights == "Gaussian"))


def mean_field(gain: float, variance: float) -> MeanField:
    """Return the network that keeps a variance of its preactivations and has a gain.

    Example:
        >>> round(mean_field(1.0, 0.5).weight_variance, 3)
        1.688
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    weights = weights / weights.sum()
    value = np.tanh(np.sqrt(variance) * nodes)
    slope = 1 - value**2
    first, second = float(weights @ slope**2), float(weights @ slope**4)
    weight_variance = gain / first
    bias_variance = variance - weight_variance * float(weights @ value**2)
    if bias_variance < 0:
        raise ValueError(f"a gain of {gain:g} at q = {variance:g} needs biases of variance {bias_variance:.3g}; take a smaller gain")
    return MeanField(gain, variance, weight_variance, bias_variance, second / first**2 - 1)


@dataclass(frozen=True, slots=True)
class Draw:
    """Unscaled numbers of a network."""

    weights: list[Tensor]  # (K, K) each, their squares 1 / K in the mean
    biases: list[Tensor]  # (K,) each, of variance 1
    x: Tensor  # (K,), of variance 1

    def network(self, theory: MeanField, depth: int) -> jac.MLP:
        """Scale the first layers."""
        weights = [W * theory.weight_variance**0.5 for W in self.weights[:depth]]
        biases = [b * theory.bias_variance**0.5 for b in self.biases[:depth]]
        return jac.MLP(weights, biases, activation="tanh", output_activation="tanh")

    def input(self, theory: MeanField) -> Tensor:
        """Return an input whose preactivations begin with the variance that they keep."""
        return self.x * ((theory.variance - theory.bias_variance) / theory.weight_variance) ** 0.5


def draw(depth: int, width: int, weights: str, generator: torch.Generator) -> Draw:
    """Draw the numbers of a network."""

    def matrix() -> Tensor:
        W = torch.randn(width, width, generator=generator)
        if weights == "Gaussian":
            return W / width**0.5
        Q, R = torch.linalg.qr(W)
        return Q * R.diagonal().sign()  # without the signs some rotations would be more likely than others

    x = torch.randn(width, generator=generator)
    biases = [torch.randn(width, generator=generator) for _ in range(depth)]
    return Draw([matrix() for _ in range(depth)], biases, x * (width**0.5 / x.norm()))


def moments(J: Tensor) -> tuple[float, float]:
    """Return the mean of the squared singular values, and that of their squares."""
    exact = J.double()
    return float(exact.square().sum()) / len(J), float((exact.mT @ exact).square().sum()) / len(J)


def means_by_slopes(theory: MeanField, mlp: jac.MLP, x: Tensor) -> list[float]:
    """Return the mean squared singular value to expect of the first d layers, from the slopes that they have at x."""
    found, product, h = [], 1.0, x
    for W, b in zip(mlp.weights, mlp.biases, strict=True):
        assert b is not None
        h = torch.tanh(W @ h + b)
        product *= theory.weight_variance * float((1 - h**2).square().double().mean())
        found.append(product)
    return found


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    networks, done = options.epochs or NETWORKS, 0
    theories = [mean_field(gain, VARIANCE) for gain in GAINS]
    for weights in WEIGHTS:
        found: dict[tuple[float, int], list[tuple[float, float, float]]] = {(gain, depth): [] for gain in GAINS for depth in DEPTHS}
        for number in range(networks):
            drawn = draw(max(DEPTHS), WIDTH, weights, torch.Generator().manual_seed(1000 * options.seed + number))
            for theory in theories:
                options.report(done / (len(WEIGHTS) * networks * len(GAINS)))
                done += 1
                whole, x = drawn.network(theory, max(DEPTHS)), drawn.input(theory)
                by_slopes = means_by_slopes(theory, whole, x)
                for depth in DEPTHS:
                    J = jac.jacobian(jac.MLP(whole.weights[:depth], whole.biases[:depth], output_activation="tanh"), x)
                    if not J.isfinite().all():
                        raise ArithmeticError(f"the Jacobian of {depth} layers with gain {theory.gain:g} is not finite")
                    found[theory.gain, depth].append((*moments(J), by_slopes[depth - 1]))
                    if number == 0 and theory.gain == 1 and depth in SHOWN:
                        yield from _spectrum(weights, depth, J)
        for theory in theories:
            for depth in DEPTHS:
                pairs = found[theory.gain, depth]
                row: Row = {"weights": weights, "gain": theory.gain, "weight_variance": theory.weight_variance}
                row |= {"bias_variance": theory.bias_variance, "depth": depth, "networks": networks}
                row |= {"mean": sum(first for first, _, _ in pairs) / networks, "mean_predicted": theory.mean(depth)}
                row["mean_by_slopes"] = sum(slopes for _, _, slopes in pairs) / networks
                row["relative_variance"] = sum(second / first**2 - 1 for first, second, _ in pairs) / networks
                yield "isometry", {**row, "relative_variance_predicted": theory.relative_variance(depth, weights)}


def _spectrum(weights: str, depth: int, J: Tensor) -> Iterator[tuple[str, Row]]:
    values = torch.linalg.svdvals(J)
    for i in range(0, len(values), max(1, len(values) // QUANTILES)):
        yield "isometry-spectra", {"weights": weights, "depth": depth, "share": i / len(values), "singular_value": float(values[i])}


def _conclude(tables: Tables) -> str:
    rows = tables["isometry"]

    def off(weights: str, predicted: str, up_to: float) -> float:
        own = [row for row in rows if row["weights"] == weights and float(row["depth"]) <= up_to]
        return max(abs(float(row["mean"]) / float(row[predicted]) - 1) for row in own)

    deepest = max(column(rows, "depth"))
    middle = min(10.0, deepest)
    at = {str(r["weights"]): float(r["relative_variance"]) for r in where(rows, gain=1, depth=deepest)}
    kinds = [
        f"{off(kind, 'mean_predicted', middle):.1%} up to {middle:.0f} layers and {off(kind, 'mean_predicted', deepest):.0%} up to "
        f"{deepest:.0f} with {kind} weights ({off(kind, 'mean_by_slopes', deepest):.0%} with the slopes of each network's own layers)"
        for kind in at
    ]
    spreads = " and ".join(f"{value:.3g} times their squared mean with {kind} weights" for kind, value in at.items())
    return (
        f"The mean squared singular value is χ^d within {', '.join(kinds)}. "
        f"At χ = 1 and {deepest:.0f} layers the squared singular values have a variance of {spreads}."
    )


register(
    Study(
        "isometry",
        "Singular values of the Jacobian against depth",
        "Do gradients vanish or explode with depth, and is that what mean field theory says?",
        {
            "isometry": (
                *("weights", "gain", "weight_variance", "bias_variance", "depth", "networks"),
                *("mean", "mean_predicted", "mean_by_slopes", "relative_variance", "relative_variance_predicted"),
            ),
            "isometry-spectra": ("weights", "depth", "share", "singular_value"),
        },
        _rows,
        _conclude,
    )
)

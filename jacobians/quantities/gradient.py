"""Gradients of a loss with respect to parameters and inputs: one evaluation, one pullback."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jacobians.losses import Loss, loss_of
from jacobians.mlp import MLP
from jacobians.quantities.pullback import described, pull, tape_of


@dataclass(frozen=True, eq=False)
class Gradient:
    """A loss and its derivatives, of the shapes of the parameters.

    Attributes:
        loss: The loss, a scalar; with reduction `none` all its values, whose sum is differentiated.
        weights: `∂L/∂W_l`, each (out, in).
        biases: `∂L/∂b_l`, each (out,), or `None` where there is no bias.
        x: `∂L/∂x`, of the shape of x, where it was asked for.
    """

    loss: Tensor
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    x: Tensor | None = None


@dataclass(frozen=True, eq=False)
class PerSampleGradients:
    """The gradients of every sample's own loss.

    Attributes:
        weights: Per layer (N, out, in).
        biases: Per layer (N, out), or `None`.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]


def gradient(mlp: MLP, x: Tensor, target: Tensor, loss: str | Loss = "mse", *, inputs: bool = False) -> Gradient:
    """Compute the gradient of a loss by hand: `∂L/∂W_l = Σ_n C_l[n] ⊗ h_{l-1}[n]`, `∂L/∂b_l = Σ_n C_l[n]`.

    Args:
        mlp: The network.
        x: Input of shape (D,) or (N, D).
        target: Of the shape of y; class indices, () or (N,), for `cross_entropy`.
        loss: A name with torch's defaults, or a `Loss` with its reduction and scale.
        inputs: Whether to return `∂L/∂x` too.

    Returns:
        The loss and its derivatives.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input or the target does not fit, or the loss is unknown.

    Example:
        >>> mlp = MLP([torch.tensor([[2.0]])])
        >>> g = gradient(mlp, torch.tensor([[3.0]]), torch.tensor([[5.0]]))  # L = (2·3 - 5)², ∂L/∂W = 2 (6 - 5) 3
        >>> g.loss, g.weights[0]
        (tensor(1.), tensor([[6.]]))

    Source:
        Rumelhart, Hinton & Williams, Learning representations by back-propagating errors, Nature 323 (1986).
    """
    rule = loss_of(loss)
    described(mlp, x)
    with torch.no_grad():
        batch = x[None] if x.ndim == 1 else x
        y, steps = tape_of(mlp, batch)
        own = y[0] if x.ndim == 1 else y
        value = rule.value(own, target)
        C = rule.cotangent(own, target).reshape(y.shape)
        weights: list[Tensor] = [C] * len(steps)
        biases: list[Tensor | None] = [None] * len(steps)
        for index, C_l, entering in pull(steps, C):
            weights[index] = C_l.mT @ steps[index].entering
            biases[index] = None if mlp.biases[index] is None else C_l.sum(0)
            C = entering
        return Gradient(value, tuple(weights), tuple(biases), C.reshape(x.shape) if inputs else None)


def per_sample_gradients(mlp: MLP, x: Tensor, target: Tensor, loss: str | Loss = "mse") -> PerSampleGradients:
    """Compute the gradient of every sample's own loss, as if it were a batch of one: `C_l[n] ⊗ h_{l-1}[n]`.

    Args:
        mlp: The network.
        x: Input of shape (N, D).
        target: Of the shape of y, or class indices (N,).
        loss: A name, or a `Loss`.

    Returns:
        The gradients; N times the size of the parameters.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input or the target does not fit, x is a single sample, or the loss is unknown.

    Example:
        >>> mlp = MLP.random(L=1, D=2, K=3, P=1)
        >>> s = per_sample_gradients(mlp, torch.zeros(5, 2), torch.ones(5, 1))
        >>> [tuple(W.shape) for W in s.weights]
        [(5, 3, 2), (5, 1, 3)]
    """
    rule = loss_of(loss)
    if described(mlp, x).batch is None:
        raise ValueError(f"per-sample gradients need a batch, got x of shape {tuple(x.shape)}; pass x[None] and target[None]")
    with torch.no_grad():
        y, steps = tape_of(mlp, x)
        weights: list[Tensor] = [y] * len(steps)
        biases: list[Tensor | None] = [None] * len(steps)
        for index, C_l, _ in pull(steps, rule.cotangent_of_each(y, target)):
            weights[index] = C_l[:, :, None] * steps[index].entering[:, None, :]
            biases[index] = None if mlp.biases[index] is None else C_l
        return PerSampleGradients(tuple(weights), tuple(biases))

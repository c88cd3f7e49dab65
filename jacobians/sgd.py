"""Stochastic gradient descent on the parameters of a network, in place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jacobians.mlp import MLP
from jacobians.quantities.gradient import Gradient


class SGD:
    """`v ← μ v + (g + λ θ)`, `θ ← θ - η v`: the update of `torch.optim.SGD`, from a `Gradient`.

    Args:
        mlp: The network; its tensors are updated in place, and so a torch module's where it was made from one.
        lr: Learning rate η.
        momentum: μ.
        weight_decay: λ.

    Raises:
        TypeError: A rate is not a number.
        ValueError: A rate is negative or not finite.

    Example:
        >>> from jacobians.quantities import gradient
        >>> mlp = MLP([torch.tensor([[2.0]])])
        >>> x, target = torch.tensor([[1.0]]), torch.tensor([[0.0]])
        >>> SGD(mlp, lr=0.25).step(gradient(mlp, x, target))  # L = W², so W ← 2 - 0.25 · 4
        >>> mlp.weights[0]
        tensor([[1.]])

    Source:
        Sutskever, Martens, Dahl & Hinton, On the importance of initialization and momentum in deep learning (2013), in torch's form.
    """

    def __init__(self, mlp: MLP, lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        self.mlp, self.lr, self.momentum, self.weight_decay = mlp, lr, momentum, weight_decay
        self._velocity: dict[int, Tensor] = {}  # by position of the parameter

    def step(self, gradient: Gradient) -> None:
        """Update the parameters in place.

        Args:
            gradient: Of the same network, at its current parameters.

        Raises:
            ValueError: The gradient is of another network.
        """
        weights, biases = self.mlp.parameter_tuples()
        pairs = [*zip(weights, gradient.weights, strict=False), *zip(biases, gradient.biases, strict=False)]
        given = [(p, g) for p, g in pairs if p is not None and g is not None]
        fits = len(gradient.weights) == len(weights) and all((p is None) == (g is None) for p, g in pairs)
        if not fits or any(p.shape != g.shape for p, g in given):
            raise ValueError("the gradient is of another network: it must have the shapes of mlp.weights and mlp.biases")
        # A tensor that several layers share gets the sum of its gradients once, as autograd accumulates it.
        shared: dict[int, tuple[Tensor, Tensor]] = {}
        for p, g in given:
            shared[id(p)] = (p, shared[id(p)][1] + g) if id(p) in shared else (p, g)
        with torch.no_grad():
            for position, (p, g) in enumerate(shared.values()):
                if self.weight_decay:
                    g = g.add(p, alpha=self.weight_decay)
                if self.momentum:
                    before = self._velocity.get(position)
                    g = g.clone() if before is None else before.mul_(self.momentum).add_(g)
                    self._velocity[position] = g
                p.add_(g, alpha=-self.lr)

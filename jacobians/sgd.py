"""Stochastic gradient descent on the parameters of a network, in place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from jacobians.kernels.native.gradient import GRADIENT, Derivative, why_not
from jacobians.network.losses import Loss, loss_of
from jacobians.network.mlp import MLP
from jacobians.parameter_derivatives import gradient
from jacobians.planning import transforms
from jacobians.planning.arrange import frame_of, ordinary
from jacobians.planning.inputs import problem_of
from jacobians.planning.plan import MOST_PLANS, look
from jacobians.planning.registry import NotPlain, Stale
from jacobians.quantities.gradient import Gradient
from jacobians.quantities.pullback import views_of


class SGD:
    """`v ← μ v + (g + λ θ)`, `θ ← θ - η v`: the update of `torch.optim.SGD`, from a `Gradient`.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes; its tensors are updated in place, a module's own too. What does not
            require grad is frozen and stays, unless none of a network of plain tensors does.
        lr: Learning rate η.
        momentum: μ.
        weight_decay: λ.

    Raises:
        TypeError: A rate is not a number.
        ValueError: A rate is negative or not finite.

    Example:
        >>> from jacobians import gradient
        >>> mlp = MLP([torch.tensor([[2.0]])])
        >>> x, target = torch.tensor([[1.0]]), torch.tensor([[0.0]])
        >>> SGD(mlp, lr=0.25).step(gradient(mlp, x, target))  # L = W², so W ← 2 - 0.25 · 4
        >>> mlp.weights[0]
        tensor([[1.]])

    Source:
        Sutskever, Martens, Dahl & Hinton, On the importance of initialization and momentum in deep learning (2013), in torch's form.
    """

    def __init__(self, mlp: MLP | nn.Module, lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        self.mlp = MLP.from_torch(mlp) if isinstance(mlp, nn.Module) else mlp
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._velocity: Tensor | None = None  # of all parameters, one behind the other
        self._kernels: dict[object, Derivative | None] = {}

    def __getstate__(self) -> dict[str, object]:
        """Copy and pickle all but the kernels, which are made again."""
        return {**self.__dict__, "_kernels": {}}

    def _trained(self, parameters: list[Tensor]) -> list[bool]:
        """Say which are trained: those that require grad; all, where none of a network of plain tensors does."""
        wanted = [p.requires_grad for p in parameters]
        return wanted if self.mlp.of_module or any(wanted) else [True] * len(wanted)

    def step(self, gradient: Gradient) -> None:
        """Update the parameters in place.

        Args:
            gradient: Of the same network, at its current parameters.

        Raises:
            ValueError: The gradient is of another network.
        """
        parameters, derivatives = list(self.mlp.parameters()), list(gradient.parameters())
        if [p.shape for p in parameters] != [g.shape for g in derivatives]:
            raise ValueError("the gradient is of another network: it must have the shapes of mlp.weights and mlp.biases")
        # A tensor that several layers share gets the sum of its gradients once, as autograd accumulates it.
        shared: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        trained = self._trained(parameters)
        for p, g, v, wanted in zip(parameters, derivatives, self._velocities(parameters), trained, strict=True):
            if not wanted:
                continue
            shared[id(p)] = (p, shared[id(p)][1] + g, shared[id(p)][2]) if id(p) in shared else (p, g, v)
        with torch.no_grad():
            for p, g, v in shared.values():
                if self.weight_decay:
                    g = g.add(p, alpha=self.weight_decay)
                p.add_(v.mul_(self.momentum).add_(g) if self.momentum else g, alpha=-self.lr)

    def minimize(self, x: Tensor | Sequence[Tensor], target: Tensor, loss: str | Loss = "mse") -> Tensor:
        """Take one step on a batch: the gradient, and the update with it, in one call of the kernel where there is one.

        Args:
            x: Input of shape (D,) or (N, D).
            target: Of the shape of y; class indices, () or (N,), for `cross_entropy`.
            loss: A name with torch's defaults, or a `Loss`.

        Returns:
            The loss before the step.

        Raises:
            TypeError: An argument has the wrong type or dtype.
            ValueError: The input or the target does not fit, or the loss is unknown.

        Example:
            >>> mlp = MLP([torch.tensor([[2.0]])])
            >>> SGD(mlp, lr=0.25).minimize(torch.tensor([[1.0]]), torch.tensor([[0.0]]))
            tensor(4.)
            >>> mlp.weights[0]
            tensor([[1.]])
        """
        if not ordinary(x):
            frame = frame_of(self.mlp, x)
            x, target = frame.x, frame.flat(target)
        key = (loss if isinstance(loss, str) else loss_of(loss), look(x), look(target))
        if key not in self._kernels:
            while len(self._kernels) >= MOST_PLANS:
                self._kernels.pop(next(iter(self._kernels)))
            self._kernels[key] = self._kernel(x, target, loss_of(loss))
        kernel, parameters = self._kernels[key], list(self.mlp.parameters())
        plain = kernel is not None and self.lr > 0 and not transforms.active() and all([p.is_contiguous() for p in parameters])
        plain = plain and all(self._trained(parameters))  # the kernel updates all of them
        if plain and len({id(p) for p in parameters}) == len(parameters):  # a shared tensor is updated once
            assert kernel is not None
            if self.momentum:
                self._velocities(parameters)
            try:
                value = kernel.update(x, target, self.lr, self.momentum, self.weight_decay, self._velocity)
            except NotPlain:
                pass
            except Stale:  # made again by the next call
                del self._kernels[key]
            else:
                increment_version(parameters)  # so that autograd notices, as of any other change in place
                return value
        found = gradient(self.mlp, x, target, loss)
        self.step(found)
        return found.loss

    def _kernel(self, x: Tensor, target: Tensor, loss: Loss) -> Derivative | None:
        problem = problem_of(self.mlp, x).with_(quantity="sgd_step", loss=str(loss))
        gradient(self.mlp, x, target, loss)  # says what does not fit
        classes = loss.classes and not target.is_floating_point()
        return None if why_not(problem) else Derivative(self.mlp, problem, GRADIENT, loss, classes)

    def _velocities(self, parameters: list[Tensor]) -> list[Tensor]:
        """Return the velocity of each parameter; nothing to speak of without momentum."""
        if not self.momentum:
            return parameters
        if self._velocity is None:
            self._velocity = torch.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device)
        return list(views_of(self._velocity, parameters))

"""A Jacobian as two factors through the narrowest layer: J = A B, never multiplied out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from jacobians.modes.bracketing import optimal_bracketing
from jacobians.modes.mixed import multiply
from jacobians.network.mlp import MLP, Layer
from jacobians.planning import transforms


@dataclass(frozen=True, eq=False)
class FactoredJacobian:
    """`J = A @ B` with A of shape (..., P, r) and B of shape (..., r, D), r the width of the narrowest hidden layer.

    Products cost `r (P + D)` operations instead of `P D`, and that is also what it takes to store.

    Attributes:
        A: Left factor, the derivative of y with respect to the narrowest layer's values.
        B: Right factor, their derivative with respect to x.
    """

    A: Tensor
    B: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of J: (P, D) or (N, P, D)."""
        return (*self.A.shape[:-1], self.B.shape[-1])

    def __matmul__(self, v: Tensor) -> Tensor:
        """Push a tangent forward: `J v = A (B v)`."""
        if not isinstance(v, Tensor):
            return NotImplemented
        if v.ndim == self.B.ndim:
            return self.A @ (self.B @ v)
        return (self.A @ (self.B @ v[..., None])).squeeze(-1)

    def __rmatmul__(self, u: Tensor) -> Tensor:
        """Pull a cotangent back: `u J = (u A) B`."""
        if not isinstance(u, Tensor):
            return NotImplemented
        if u.ndim == self.A.ndim:
            return (u @ self.A) @ self.B
        return ((u[..., None, :] @ self.A) @ self.B).squeeze(-2)

    # Tensor's own operator would otherwise be tried first in `u @ J`, and fail.
    __torch_function__ = classmethod(lambda cls, function, types, args=(), kwargs=None: NotImplemented)

    def dense(self) -> Tensor:
        """Multiply the factors.

        Returns:
            J of shape (P, D) or (N, P, D).
        """
        return self.A @ self.B


def factored(mlp: MLP, x: Tensor) -> FactoredJacobian:
    """Compute the Jacobian as two factors through the narrowest hidden layer.

    Example:
        >>> import torch
        >>> mlp = MLP.random(widths=[6, 9, 2, 9, 5])
        >>> J = factored(mlp, torch.ones(6))
        >>> tuple(J.A.shape), tuple(J.B.shape), tuple((J @ torch.ones(6)).shape)
        ((5, 2), (2, 6), (5,))
    """
    if mlp.L == 0:
        raise ValueError("a network without hidden layers has nothing to factor through; ask for the Jacobian itself")
    tape = list(mlp.layers(x))
    widths = mlp.widths
    r = min(range(1, mlp.L + 1), key=lambda layer: widths[layer])
    s = tape[r - 1].slope
    B = _segment(1, r, mlp, tape, x.ndim == 2)
    A = _segment(r + 1, mlp.L + 1, mlp, tape, x.ndim == 2)
    if s is not None:  # scales whichever factor is smaller
        A, B = (A * s[..., None, :], B) if A.shape[-2] <= B.shape[-1] else (A, B * s[..., :, None])
    if tape[-1].slope is not None:
        A = A * tape[-1].slope[..., :, None]
    y = tape[-1].value
    if mlp.activations[-1].coupled:
        assert y is not None
        A = mlp.activations[-1].push(y, A.expand(*y.shape[:-1], *A.shape[-2:]))
    # A factor without a slope inside is a bare weight: it must be neither shared with the caller nor without its batch.
    A, B = (M.expand(*x.shape[:-1], *M.shape[-2:]) for M in (A, B))
    if transforms.active():  # where storages cannot be compared
        return FactoredJacobian(A.clone(), B.clone())
    shared = {W.untyped_storage().data_ptr() for W in mlp.weights}
    return FactoredJacobian(*(M.clone() if M.untyped_storage().data_ptr() in shared else M for M in (A, B)))


def _segment(first: int, last: int, mlp: MLP, tape: list[Layer], batched: bool) -> Tensor:
    """Multiply layers `first … last`, by a tree that counts from the first of them."""
    widths, part = mlp.widths[first - 1 : last + 1], tape[first - 1 : last]
    tree = optimal_bracketing(widths, batched=batched, scaled=not all(rule.linear for rule in mlp.activations[:-1])).tree
    return part[0].weight if tree is None else multiply(tree, part)

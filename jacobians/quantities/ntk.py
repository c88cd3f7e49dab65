"""The tangent kernel from the factors of the parameter Jacobian: nothing of the size of the parameters is formed."""

from __future__ import annotations

import torch
from torch import Tensor

from jacobians.mlp import MLP
from jacobians.quantities.parameter_jacobian import parameter_jacobian


def ntk(mlp: MLP, x1: Tensor, x2: Tensor | None = None, *, trace: bool = False) -> Tensor:
    """Compute the neural tangent kernel `Θ(x, x') = Σ_l (C_l C_l'ᵀ) (h_{l-1} · h'_{l-1} + 1)`, the 1 where a layer has a bias.

    Args:
        mlp: The network.
        x1: Inputs (N1, D).
        x2: Inputs (N2, D); x1 by default, and the kernel is then symmetric.
        trace: Whether to sum over equal outputs; the mean over outputs is left to you.

    Returns:
        (N1, N2, P, P): the inner products of the rows of the parameter Jacobians; (N1, N2) with `trace`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An input does not fit.

    Example:
        >>> mlp = MLP([torch.tensor([[1.0, 2.0]])])
        >>> ntk(mlp, torch.tensor([[3.0, 4.0]]))  # y = W x, so the kernel is x · x
        tensor([[[[25.]]]])

    Source:
        Jacot, Gabriel & Hongler (2018); by structure: Novak, Sohl-Dickstein & Schoenholz, Fast Finite Width NTK (2022).
    """
    F1 = parameter_jacobian(mlp, x1)
    F2 = F1 if x2 is None else parameter_jacobian(mlp, x2)
    total: Tensor | None = None
    with torch.no_grad():
        for index, biased in enumerate(F1.biased):
            (C1, h1), (C2, h2) = F1.layer(index), F2.layer(index)
            inner = h1 @ h2.mT + (1.0 if biased else 0.0)  # (N1, N2)
            if trace:
                part = inner * (C1.flatten(1) @ C2.flatten(1).mT)
            else:
                N1, P, out = C1.shape
                part = (C1.reshape(-1, out) @ C2.reshape(-1, out).mT).unflatten(0, (N1, P)).unflatten(2, (-1, P))  # (N1, P, N2, P)
                part = part.transpose(1, 2) * inner[:, :, None, None]
            total = part if total is None else total + part
    assert total is not None
    return total

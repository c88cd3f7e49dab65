"""Forward mode: push a tangent matrix through the chain beside the value. One pass, no tape."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from jacobians.modes import steps
from jacobians.modes.scaling import ALL, Columns, index_of, scale
from jacobians.network.from_torch import network_of
from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Request, readable
from jacobians.problem import Problem


def forward(mlp: MLP | nn.Module, x: Tensor, *, value: bool = False, columns: Columns = ALL) -> tuple[Tensor | None, Tensor]:
    """Compute `J = W_{L+1} S_L W_L … S_1 W_1` from the right: `T_1 = S_1 W_1`, `T_l = S_l (W_l T_{l-1})`.

    The tangents are kept transposed, one row per input coordinate: a batch of them is then a plain matrix of N·D rows,
    and a layer is one large matrix product with the shared weight. Costs about `2 N D Σ_{l>1} in_l out_l` operations.

    Args:
        mlp: The network.
        x: Input of shape (D,) or (N, D).
        value: Whether to return `y` as well.
        columns: Which columns of J to compute; all by default.

    Returns:
        `(y, J)`: y of shape (P,) or (N, P), or `None`; J of shape (P, D) or (N, P, D), `J[..., p, d] = ∂y_p/∂x_d`, a
        transposed view.

    Example:
        >>> import torch
        >>> mlp = MLP([torch.tensor([[2.0, 0.0], [0.0, 3.0]])])
        >>> forward(mlp, torch.zeros(2))[1]
        tensor([[2., 0.],
                [0., 3.]])

    Source:
        Griewank & Walther, Evaluating Derivatives (2nd ed., 2008), section 3.1.
    """
    _kept, mlp = mlp, network_of(mlp)
    if mlp.graph is not None:
        return steps.forward(mlp.graph, x, value, columns)
    T: Tensor | None = None
    y: Tensor | None = None
    for W, y, s in mlp.layers(x, value=value):  # noqa: B007 - the last value is y
        if T is None:
            # Starts from W_1, no identity seed: (D, K) * (..., 1, K) -> (..., D, K). For a batch the small factor is laid
            # out first, else the product inherits its transposed strides and every later layer copies.
            seeds = W.T[columns]
            T = (seeds if x.ndim == 1 else seeds.contiguous()) * s[..., None, :]  # pyright: ignore[reportOptionalSubscript]
            continue
        T = F.linear(T, W)  # (..., D, in) x (out, in) -> (..., D, out)
        if s is not None:
            T = scale(T, s[..., None, :])
    assert T is not None
    psi = mlp.activations[-1]
    if psi.coupled:
        assert y is not None
        return (y if value else None), psi.push(y, T.mT)
    return (y if value else None), T.mT


@readable("forward:eager", options=("wrt", "steps"), summary="tangents pushed layer by layer, in torch")
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    columns = index_of(request.wrt)
    return Computation(run=lambda x: forward(mlp, x, value=request.value, columns=columns))

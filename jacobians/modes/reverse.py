"""Reverse mode: evaluate keeping a tape of slopes, then pull a cotangent matrix back."""

from __future__ import annotations

from torch import Tensor, nn

from jacobians.modes import steps
from jacobians.modes.scaling import ALL, Columns, index_of, scale
from jacobians.network.from_torch import network_of
from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Request, readable
from jacobians.problem import Problem


def reverse(mlp: MLP | nn.Module, x: Tensor, *, value: bool = False, columns: Columns = ALL) -> tuple[Tensor | None, Tensor]:
    """Compute `J = W_{L+1} S_L W_L … S_1 W_1` from the left: `C_L = W_{L+1}`, `C_{l-1} = (C_l S_l) W_l`.

    A batch of cotangents is a matrix of N·P rows: a layer is one large matrix product with the shared weight. Costs
    about `2 N P Σ_{l≤L} in_l out_l` operations and keeps N·Σ K_l slopes.

    Args:
        mlp: The network.
        x: Input of shape (D,) or (N, D).
        value: Whether to return `y` as well.
        columns: Which columns of J to compute; all by default.

    Returns:
        `(y, J)`: y of shape (P,) or (N, P), or `None`; J of shape (P, D) or (N, P, D), `J[..., p, d] = ∂y_p/∂x_d`.

    Example:
        >>> import torch
        >>> mlp = MLP([torch.tensor([[2.0, 0.0], [0.0, 3.0]])])
        >>> reverse(mlp, torch.zeros(2))[1]
        tensor([[2., 0.],
                [0., 3.]])

    Source:
        Griewank & Walther, Evaluating Derivatives (2nd ed., 2008), section 3.2.
    """
    _kept, mlp = mlp, network_of(mlp)
    if mlp.graph is not None:
        return steps.reverse(mlp.graph, x, value, columns)
    tape = list(mlp.layers(x, value=value))
    if columns is not ALL:
        tape[0] = tape[0]._replace(weight=tape[0].weight[:, columns])
    C, y, s = tape[-1]
    if s is not None:
        C = C * s[..., :, None]  # ψ' scales the rows: (..., P, K)
    for W, _, s in reversed(tape[:-1]):
        if s is not None:
            # The first scaling must not write into W_{L+1}, later ones own their cotangent.
            C = C * s[..., None, :] if C is tape[-1].weight else scale(C, s[..., None, :])
        # (N, P, out) x (out, in): one product of N·P rows with the shared weight
        C = C @ W if C.ndim == 2 else (C.flatten(0, 1) @ W).unflatten(0, C.shape[:2])
    psi = mlp.activations[-1]
    if psi.coupled:  # here and not at the seed, which is W_{L+1} and shared by the batch
        assert y is not None
        C = psi.push(y, C if C.ndim == y.ndim + 1 else C.expand(*y.shape[:-1], *C.shape))
    return (y if value else None), C


@readable("reverse:eager", options=("wrt", "steps"), summary="cotangents pulled back over a tape of slopes, in torch")
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    columns = index_of(request.wrt)
    return Computation(run=lambda x: reverse(mlp, x, value=request.value, columns=columns))

"""Products with the Jacobian that never form it: one tangent pushed forward, one cotangent pulled back."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from jacobians.modes import steps
from jacobians.network.mlp import MLP
from jacobians.quantities.pullback import pull, tape_of


def pushforward(mlp: MLP, x: Tensor, v: Tensor) -> Tensor:
    """Compute `J v`: `t_0 = v`, `t_l = S_l W_l t_{l-1}`."""
    if mlp.graph is not None:
        return steps.pushforward(mlp.graph, x, v)
    t, h = v, x
    for W, h, s in mlp.layers(x, value=True):  # noqa: B007 - the last value is y
        t = F.linear(t, W)
        t = t if s is None else t * s
    psi = mlp.activations[-1]
    if psi.coupled:
        assert h is not None
        t = psi.push(h, t[..., None])[..., 0]
    return t


def pullback(mlp: MLP, x: Tensor, u: Tensor) -> Tensor:
    """Compute `Jᵀ u`: `c_{L+1} = S_{L+1} u`, `c_{l-1} = S_{l-1} W_lᵀ c_l`."""
    if mlp.graph is not None:
        return steps.pullback(mlp.graph, x, u)
    _, tape = tape_of(mlp, x.reshape(-1, mlp.D))
    *_, (_, _, at_x) = pull(tape, u.reshape(-1, mlp.P))
    return at_x.reshape(x.shape)

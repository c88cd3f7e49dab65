"""Mixed mode: multiply the Jacobian chain in the cheapest order, which need be neither forward nor reverse."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from jacobians.modes import steps
from jacobians.modes.bracketing import Split, known_bracketing
from jacobians.modes.forward import forward
from jacobians.modes.reverse import reverse
from jacobians.modes.scaling import ALL, Columns, index_of, scale
from jacobians.network.from_torch import network_of
from jacobians.network.mlp import MLP, Layer
from jacobians.planning.registry import Computation, Request, readable
from jacobians.problem import Problem


def mixed(mlp: MLP | nn.Module, x: Tensor, *, value: bool = False, columns: Columns = ALL) -> tuple[Tensor | None, Tensor]:
    """Compute `J = W_{L+1} S_L W_L … S_1 W_1` in the order with the fewest operations.

    With a layer narrower than both D and P the products meet there: the part above it is computed as in reverse mode, the
    part below as in forward mode. Where one of the two modes is itself optimal, this is that mode.

    Args:
        mlp: The network.
        x: Input of shape (D,) or (N, D).
        value: Whether to return `y` as well.
        columns: Which columns of J to compute; all by default.

    Returns:
        `(y, J)`: y of shape (P,) or (N, P), or `None`; J of shape (P, D) or (N, P, D), `J[..., p, d] = ∂y_p/∂x_d`, possibly
        a transposed view.

    Example:
        >>> import torch
        >>> mlp = MLP.random(widths=[256, 512, 8, 512, 256])
        >>> tuple(mixed(mlp, torch.ones(256))[1].shape)
        (256, 256)

    Source:
        Naumann, Optimal Jacobian accumulation and Jacobian chaining, arXiv 2406.11862.
    """
    _kept, mlp = mlp, network_of(mlp)
    if mlp.graph is not None:
        return steps.cheapest(mlp.graph, x, value, columns)
    widths = mlp.widths if columns is ALL else (len(range(mlp.D)[columns]) if isinstance(columns, slice) else len(columns), *mlp.widths[1:])
    order = known_bracketing(widths, x.ndim == 2, not all(rule.linear for rule in mlp.activations[:-1]))
    if order.mode == "reverse":
        return reverse(mlp, x, value=value, columns=columns)
    if order.mode == "forward":
        return forward(mlp, x, value=value, columns=columns)
    tape = list(mlp.layers(x, value=value))
    if columns is not ALL:
        tape[0] = tape[0]._replace(weight=tape[0].weight[:, columns])
    assert order.tree is not None
    J = multiply(order.tree, tape)
    last = tape[-1]
    if last.slope is not None:
        J = scale(J, last.slope[..., :, None])  # ψ' scales the rows
    if mlp.activations[-1].coupled:
        assert last.value is not None
        J = mlp.activations[-1].push(last.value, J)
    return (last.value if value else None), J


def multiply(tree: Split, tape: Sequence[Layer]) -> Tensor:
    """Carry out a tree of products."""
    left = tape[tree.last - 1].weight if tree.left is None else multiply(tree.left, tape)
    right = tape[tree.first - 1].weight if tree.right is None else multiply(tree.right, tape)
    s = tape[tree.at - 1].slope
    if s is not None and tree.scales_left:
        left = left * s[..., None, :] if tree.left is None else scale(left, s[..., None, :])
    elif s is not None:
        # Laid out transposed, (..., in, out), as forward mode lays out its tangents.
        turned = (right.T.contiguous() if s.ndim == 2 else right.T) if tree.right is None else right.mT
        right = (turned * s[..., None, :] if tree.right is None else scale(turned, s[..., None, :])).mT
    if left.ndim == 3 and right.ndim == 2:
        # (N, out, k) x (k, in): one product of N·out rows with the shared weight
        return (left.flatten(0, 1) @ right).unflatten(0, left.shape[:2])
    if left.ndim == 2 and right.ndim == 3:
        return F.linear(right.mT, left).mT  # (N, in, k) x (out, k) -> (N, in, out)
    return left @ right


@readable("mixed:eager", options=("wrt", "steps"), summary="the cheapest order of products, in torch")
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    columns = index_of(request.wrt)
    return Computation(run=lambda x: mixed(mlp, x, value=request.value, columns=columns))

"""The Hessian by the input, `H[n, p, d, e] = ∂²y_p/∂x_d∂x_e`: forward over reverse, and the symmetric form with half the work."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from jacobians.modes import steps
from jacobians.modes.taylor import one
from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Cost, Prepare, Quantity, Request, readable, register_quantity
from jacobians.problem import Problem
from jacobians.quantities.derivatives import Asked, by_autograd
from jacobians.quantities.laplacian import bends
from jacobians.quantities.parameters import followed, sizes

_Layer = tuple[Tensor, Tensor, Tensor | None, Tensor | None]


def _tape(mlp: MLP, x: Tensor, tangents: Tensor | None = None) -> list[_Layer]:
    """Evaluate with tangents: per layer its weight, `U = ∂z/∂x` along the tangents (N, R, out), φ' and φ''."""
    tape: list[_Layer] = []
    h, T = x, tangents
    for index, (W, b, rule) in enumerate(zip(*mlp.parameter_tuples(), mlp.activations, strict=True)):
        z = F.linear(h, W, b)
        U = W.mT.expand(z.shape[0], -1, -1) if T is None else F.linear(T, W)
        h = rule.value(z)
        slope, curvature = rule.slope(z, h), rule.curvature(z, h)
        if index == 0:
            slope = (x - x).sum(-1, keepdim=True) + (1 if slope is None else slope)
        T = U if slope is None else slope[:, None, :] * U
        tape.append((W, U, slope, curvature))
    return tape


def symmetric(mlp: MLP, x: Tensor) -> Tensor:
    """Compute `H_p = Σ_l U_lᵀ diag(A_l[p] φ''(z_l)) U_l` with `U_l = ∂z_l/∂x` pushed and `A_l[p] = ∂y_p/∂h_l` pulled."""
    if mlp.graph is not None:
        return steps.along(mlp.graph, x)
    tape = _tape(mlp, x)
    A = torch.eye(mlp.P, dtype=x.dtype, device=x.device).expand(x.shape[0], -1, -1)  # (N, P, out)
    H = x.new_zeros(x.shape[0], mlp.P, mlp.D, mlp.D) + (x - x).sum(-1)[:, None, None, None]
    for W, U, slope, curvature in reversed(tape):
        if curvature is not None:
            by = A * curvature[:, None, :]
            # (N, P, D, out) x (N, 1, out, D)
            H = H + (by[:, :, None, :] * U[:, None]) @ U.mT[:, None]
        A = (A if slope is None else A * slope[:, None, :]) @ W
    return H


def forward_over_reverse(mlp: MLP, x: Tensor, tangents: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
    """Compute the derivatives of J along tangents: each pushed through the pullback of every output.

    Source:
        Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6 (1994).
    """
    if mlp.graph is not None:
        return steps.along(mlp.graph, x, tangents, seeds)
    tape = _tape(mlp, x, tangents)
    A = torch.eye(mlp.P, dtype=x.dtype, device=x.device).expand(x.shape[0], -1, -1) if seeds is None else seeds  # (N, P, out)
    dA: Tensor | None = None  # (N, P, R, out)
    for W, U, slope, curvature in reversed(tape):
        dB = None if dA is None else dA if slope is None else dA * slope[:, None, None, :]
        if curvature is not None:
            bent = (A * curvature[:, None, :])[:, :, None, :] * U[:, None]
            dB = bent if dB is None else dB + bent
        dA = None if dB is None else dB @ W
        A = (A if slope is None else A * slope[:, None, :]) @ W
    R = tape[0][1].shape[1]
    zero = (x - x).sum(-1)[:, None, None, None]
    return zero.expand(x.shape[0], A.shape[1], R, mlp.D) if dA is None else dA + zero


def _cost(problem: Problem, mode: str) -> Cost:
    s = sizes(problem)
    D, P = problem.D, problem.P
    if mode == "symmetric":
        flops = 2 * s.weights + 2 * (D + P) * (s.weights - s.first) + P * s.neurons * (1 + D + D * (D + 1))
    else:
        flops = 2 * s.weights + 2 * (D + P) * (s.weights - s.first) + 2 * P * D * s.weights + 3 * P * D * s.neurons
    return Cost(problem.N * flops, problem.itemsize * (s.parameters + problem.N * (D + P * D * D)))


def _exact(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    P, D = problem.P, problem.D
    entries = [Asked(p, one((d, e))) for p in range(P) for d in range(D) for e in range(D)]
    with torch.enable_grad():
        y, at, _ = followed(mlp, problem, inputs[0])
        found = by_autograd(y, at, entries, create_graph=False)
    return (torch.stack(found, -1).detach().reshape(*problem.jacobian_shape, D),)


register_quantity(
    Quantity(
        "hessian",
        "Hessian",
        {
            "symmetric": "H_p = Σ_l U_lᵀ diag(A_l[p] φ''(z_l)) U_l",
            "forward-over-reverse": "tangents pushed through the pullback of each output",
            "reverse": "each entry of each row of J differentiated again",
        },
        _cost,
        _exact,
        per_sample=True,
        relabelled=True,
        order=lambda problem: 2,
        axes=(2,),
        call='H = jac.hessian(mlp, x, method="{method}")',
    )
)


def _by(compute: Callable[[MLP, Tensor], Tensor]) -> Prepare:
    """Compute a Hessian of a batch, or of a single x as a batch of one."""

    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        return Computation(lambda x: (None, (compute(mlp, x[None])[0] if x.ndim == 1 else compute(mlp, x),)))

    return prepare


_in_torch = partial(readable, supports=bends, options=("steps",))
_in_torch("hessian/symmetric:eager", summary="tangents, cotangents, U'diag U, in torch")(_by(symmetric))
_in_torch("hessian/forward-over-reverse:eager", summary="Pearlmutter's R, in torch")(_by(forward_over_reverse))

"""The tangent kernel from the factors of the parameter Jacobian: nothing of the size of the parameters is formed."""

from __future__ import annotations

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.planning.inputs import check_like
from jacobians.planning.registry import Computation, Cost, Quantity, Request, readable, register_quantity
from jacobians.problem import Problem
from jacobians.quantities.parameter_jacobian import factors_of
from jacobians.quantities.parameters import each_layer, leaves_of, sizes

TILE_BYTES = 2**24  # of the result, that are computed at a time: what is added up stays in the caches


def kernel_of(mlp: MLP, x1: Tensor, x2: Tensor | None = None, trace: bool = False, tile_bytes: int = TILE_BYTES) -> Tensor:
    """Compute `Θ(x, x') = Σ_l (C_l C_l'ᵀ) (h_{l-1} · h'_{l-1} + 1)`, the 1 where a layer has a bias, some rows at a time.

    Source:
        Jacot, Gabriel & Hongler (2018); by structure: Novak, Sohl-Dickstein & Schoenholz, Fast Finite Width NTK (2022).
    """
    F1 = factors_of(mlp, x1)
    F2 = F1 if x2 is None else factors_of(mlp, x2)
    N1, N2, P = x1.shape[0], (x1 if x2 is None else x2).shape[0], mlp.P
    pieces = [slice(None)]
    if type(N1) is int and type(N2) is int:  # and no symbols of a trace, which no number of tiles would fit
        step = max(1, tile_bytes // max(1, N2 * (1 if trace else P * P) * x1.element_size()))
        pieces = [slice(first, first + step) for first in range(0, max(N1, 1), step)]
    tiles: list[Tensor] = []
    for rows in pieces:
        total: Tensor | None = None
        for (C1, h1), (C2, h2), biased in zip(F1.layers(), F2.layers(), F1.biased, strict=True):
            inner = h1[rows] @ h2.mT + (1.0 if biased else 0.0)  # (n, N2)
            if trace:
                part = inner * (C1[rows].flatten(1) @ C2.flatten(1).mT)
            else:
                out = C1.shape[-1]
                part = (C1[rows].reshape(-1, out) @ C2.reshape(-1, out).mT).unflatten(0, (-1, P)).unflatten(2, (-1, P))  # (n, P, N2, P)
                part = part.transpose(1, 2) * inner[:, :, None, None]
            total = part if total is None else total + part
        assert total is not None
        tiles.append(total)
    return tiles[0] if len(tiles) == 1 else torch.cat(tiles)


def _cost(problem: Problem, mode: str) -> Cost:
    """Count: the factors, and the products of one half of the pairs of samples, for the other half is the same."""
    s, P, N = sizes(problem), problem.P, problem.N
    factors = N * (2 * s.weights + P * 2 * (s.weights - s.first))
    pairs = N * (N + 1) // 2
    if mode == "structured":
        each = P * P * 2 * s.neurons + 2 * (s.neurons - P + problem.D) + 2 * P * P * (problem.L + 1)
    else:
        each = P * P * 2 * s.parameters
    return Cost(factors + pairs * each, problem.itemsize * (s.parameters + N * problem.D + (N * P) ** 2))


def _exact(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """By autograd: derivatives by the values before each activation; the dense Jacobian of a large network would not fit in memory."""
    (x,) = inputs
    batch = x.reshape(-1, problem.D)
    with torch.enable_grad():
        network, _ = leaves_of(mlp)
        *layers, (y, _) = each_layer(network, batch)
        rows = [torch.autograd.grad(y[:, p].sum(), [z for _, z in layers], retain_graph=True) for p in range(problem.P)]
    total = batch.new_zeros(len(batch), len(batch), problem.P, problem.P)
    for index, ((h, _), b) in enumerate(zip(layers, mlp.biases, strict=True)):
        C = torch.stack([row[index] for row in rows], dim=1)  # (N, P, out)
        h = h.detach()
        total += torch.einsum("npo,mqo->nmpq", C, C) * (h @ h.mT + (b is not None))[:, :, None, None]
    return (total,)


def _fits(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> None:
    for x2 in inputs[1:]:
        check_like("x2", x2, (*x2.shape[:1], problem.D), inputs[0])


register_quantity(
    Quantity(
        "ntk",
        "Tangent kernel",
        {
            "structured": "Θ = Σ_l (C_l C_l'ᵀ) ∘ (h_{l-1}·h'_{l-1} + 1)",
            "contraction": "Θ = F Fᵀ with the dense parameter Jacobian F",
            "products": "columns of Θ by a VJP and a JVP each",
        },
        _cost,
        _exact,
        takes=("x2",),
        optional=1,
        fits=_fits,
        of_parameters=True,
        relabelled=True,
        batched=True,
        call='kernel = jac.ntk(mlp, x, method="{method}")',
    )
)


@readable("ntk/structured:eager", options=("trace",), summary="products of the factors, some rows at a time, in torch")
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    def run(inputs: Tensor | tuple[Tensor, ...]) -> tuple[None, tuple[Tensor]]:
        return None, (kernel_of(mlp, *(inputs if isinstance(inputs, tuple) else (inputs,)), trace=request.trace),)

    return Computation(run)

"""Derivatives by name of first and second order, by the C functions of Jacobians and Laplacians."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jacobians.kernels.native import second_order
from jacobians.kernels.native.pullback import Pullback, differentiable, keeps_for
from jacobians.kernels.native.runner import in_c, plain, supports
from jacobians.modes.taylor import Stream, order_of, weighted
from jacobians.network.mlp import MLP
from jacobians.network.parameters import Parameters
from jacobians.planning.registry import JACOBIAN, Computation, Prepare, Request, find_method
from jacobians.problem import Problem
from jacobians.quantities.derivatives import asked_of, mixed_of, order, sums_of
from jacobians.quantities.laplacian import bends

Three = tuple[Tensor, Tensor, Tensor]


def _weights(problem: Problem) -> list[list[float]]:
    """Write each second derivative as a weighted sum of second derivatives along the coordinates, and along x_d + x_e where it is mixed.

    `∂²/∂x_d∂x_e = ½ (∂²/∂(x_d + x_e)² - ∂²/∂x_d² - ∂²/∂x_e²)`: the polarisation identity.
    """
    D, mixed = problem.D, mixed_of(problem)
    rows = [[0.0] * (D + len(mixed)) for _ in sums_of(problem)]
    for row, stream in zip(rows, sums_of(problem), strict=True):
        for (d, e), weight in stream:
            if d == e:
                row[d] += weight
                continue
            for place, share in ((D + mixed.index((d, e)), 0.5), (d, -0.5), (e, -0.5)):
                row[place] += weight * share
    return rows


def _along_sums(mlp: MLP, problem: Problem, request: Request) -> Callable[[Tensor, Tensor], Three]:
    """Make the Laplacians of a network with another column `W_1 (e_d + e_e)` for each mixed derivative, whose input is 0."""
    D, mixed, biased = problem.D, mixed_of(problem), mlp.biased
    wider = problem.with_(quantity="laplacian", asked=None, widths=(D + len(mixed), *problem.widths[1:]))
    count = len(sums_of(problem))
    keeps = request.create_graph and keeps_for(wider, biased, count)
    compute, pull = second_order.Laplacians(mlp, wider, count, keeps), Pullback(wider, biased, count, keeps)
    parameters_of, pairs = Parameters(mlp, problem), [list(pair) for pair in mixed]

    def run(x: Tensor, directions: Tensor) -> Three:
        with torch.set_grad_enabled(request.create_graph):
            W, *others = (plain("a parameter", t) for t in parameters_of.now()[1])
            parameters = (torch.cat([W, W[:, pairs].sum(-1)], 1), *others)
            at = torch.cat([plain("x", x), x.new_zeros(*x.shape[:-1], len(mixed))], -1)

        def values(at: Tensor) -> tuple[Three, Tensor | None]:
            return compute(at, directions, pull.addresses(parameters))

        return differentiable(values, pull, at, parameters, directions) if request.create_graph else values(at)[0]

    return run


def _of_laplacians(mlp: MLP, problem: Problem, request: Request) -> Callable[[Tensor], tuple[Tensor, ...]]:
    directions = torch.tensor(_weights(problem), dtype=getattr(torch, problem.dtype))
    if mixed_of(problem):
        laplacians = _along_sums(mlp, problem, request)
        return lambda x: laplacians(x, directions)
    run = second_order.prepare_laplacian(mlp, problem.with_(quantity="laplacian", asked=None), request).run
    return lambda x: run((x, directions))[1]


def _places(problem: Problem) -> list[tuple[int, list[tuple[float, int]]]]:
    """Say where each derivative stands: among y, J or the Laplacians, and at which of their columns, with weights."""
    sums, wide = sums_of(problem), problem.D + len(mixed_of(problem))

    def place(output: int, stream: Stream) -> tuple[int, list[tuple[float, int]]]:
        level = order_of(stream)
        if level == 2:
            return level, [(1.0, output * len(sums) + sums.index(stream))]
        return level, [(weight, output * wide + index[0] if level else output) for index, weight in stream]

    return [place(*one) for one in asked_of(problem)]


def arithmetic(problem: Problem) -> tuple[list[list[float]], list[tuple[int, ...]], list[tuple[int, list[tuple[float, int]]]]]:
    """Return the directions of the Laplacians, the pairs of columns that are mixed, and where each derivative stands."""
    return _weights(problem), mixed_of(problem), _places(problem)


def _in(mode: str) -> Prepare:
    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        if sums_of(problem):
            compute = _of_laplacians(mlp, problem, request)
        else:
            inner, wanted = problem.with_(quantity=JACOBIAN, asked=None), request._replace(value=True)
            compute = find_method(f"{mode}:native").prepare(mlp, inner, wanted).run
        found = _places(problem)

        def run(x: Tensor) -> tuple[None, tuple[Tensor, ...]]:
            parts = [t.flatten(x.ndim - 1).unbind(-1) for t in compute(x)]
            return None, tuple(weighted([(weight, parts[level][at]) for weight, at in where]) for level, where in found)

        return Computation(run, records=False)

    return prepare


def _second(problem: Problem) -> str | None:
    if order(problem) > 2:
        return f"computes first and second derivatives, not those of order {order(problem)}"
    return bends(problem) or supports(problem)


def _first(problem: Problem) -> str | None:
    return "computes first derivatives alone" if order(problem) > 1 else _second(problem)


in_c(
    "derivatives/forward:native",
    differentiable=True,
    supports=_second,
    summary="y, tangents and a Laplacian for each second derivative of a block in C, with a pullback in C",
)(_in("forward"))
in_c("derivatives/reverse:native", differentiable=True, supports=_first, summary="y and cotangents in C, with a pullback in C")(
    _in("reverse")
)

"""The naive baseline, as a course notebook wrote it: explicit diagonal matrices in the published order of products.

A slope matrix of K×K is formed and multiplied at every layer, K² storage and K³ work where K numbers and K² would do. Neither mode
starts from an identity. The notebook let x require gradients, so that autograd recorded every product: `notebook` does that too,
`notebook-no-grad` does not. Its reverse mode evaluated every tanh twice, 2K operations beside K², which is not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Request, register
from jacobians.problem import Problem

Pair = tuple[Tensor | None, Tensor]


def _supports(problem: Problem) -> str | None:
    psi = problem.activations[-1]
    return f"the slope of {psi.name} is no diagonal matrix" if psi.coupled else None


def _diagonals(mlp: MLP, x: Tensor) -> tuple[Tensor | None, list[tuple[Tensor, Tensor | None]]]:
    chain: list[tuple[Tensor, Tensor | None]] = []
    y: Tensor | None = None
    for W, y, s in mlp.layers(x, value=True):  # noqa: B007 - the last value is y
        # the first slope of a linear layer is one shared number: a diagonal needs all of them
        chain.append((W, None if s is None else torch.diag_embed(s.expand(*s.shape[:-1], W.shape[0]))))
    return y, chain


def _forward(mlp: MLP, x: Tensor) -> Pair:
    y, chain = _diagonals(mlp, x)
    (J, S), *rest = chain
    for W, following in rest:
        J = (W if S is None else W @ S) @ J
        S = following
    return y, J.clone() if S is None and not rest else J if S is None else S @ J


def _reverse(mlp: MLP, x: Tensor) -> Pair:
    y, chain = _diagonals(mlp, x)
    *rest, (J, S) = chain
    J = J if S is None else S @ J
    for W, before in reversed(rest):
        J = (J if before is None else J @ before) @ W
    return y, J if rest or S is not None else J.clone()


def _prepare(function: Callable[[MLP, Tensor], Pair], recording: bool) -> Callable[[MLP, Problem, Request], Computation]:
    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        def run(x: Tensor) -> Pair:
            with torch.set_grad_enabled(recording):
                y, J = function(mlp, x.detach().requires_grad_() if recording else x)
            return (y.detach() if request.value and y is not None else None), J.detach()

        return Computation(run)

    return prepare


FORWARD, REVERSE = "diagonal matrices, multiplied from W_1", "diagonal matrices, multiplied from the last W"
register("forward:notebook", supports=_supports, summary=f"{FORWARD}, recorded by autograd")(_prepare(_forward, True))
register("reverse:notebook", supports=_supports, summary=f"{REVERSE}, recorded by autograd")(_prepare(_reverse, True))
register("forward:notebook-no-grad", supports=_supports, summary=FORWARD)(_prepare(_forward, False))
register("reverse:notebook-no-grad", supports=_supports, summary=REVERSE)(_prepare(_reverse, False))

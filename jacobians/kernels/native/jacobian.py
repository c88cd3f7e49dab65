"""The modes of the Jacobian by the C function, and what autograd needs to go back through them."""

from __future__ import annotations

import torch
from torch import Tensor

from jacobians.kernels.native.program import EVALUATION
from jacobians.kernels.native.pullback import Pullback, differentiable
from jacobians.kernels.native.runner import Runner, in_c, plain
from jacobians.network.mlp import MLP
from jacobians.planning.registry import MODES, Computation, Prepare, Request
from jacobians.problem import Problem

Result = tuple[Tensor | None, Tensor]


def _prepare(mode: str) -> Prepare:
    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        psi = problem.activations[-1]
        runner = Runner(mlp, mode, problem, request.value or psi.coupled, wrt=request.wrt)  # of z, the values before a coupled output
        pull = Pullback(problem, mlp.biased, wrt=request.wrt) if request.create_graph else None

        def linear(x: Tensor) -> Result:
            if pull is None:
                return runner(x)
            plain("x", x)  # raises outside the autograd function, where torch can still step in
            return differentiable(lambda x: (runner(x), None), pull, x, tuple(mlp.parameters()))

        def run(x: Tensor) -> Result:
            z, J = linear(x)
            assert z is not None
            with torch.set_grad_enabled(request.create_graph):
                y = psi.value(z)
                return (y if request.value else None), psi.push(y, J)

        return Computation(run=run if psi.coupled else linear if pull is not None else runner, records=False)

    return prepare


for _mode in MODES:
    _summary = f"{_mode} mode in C, compiled for this processor"
    in_c(f"{_mode}:native", differentiable=True, options=("wrt",), summary=_summary)(_prepare(_mode))


@in_c("value/evaluation:native", summary="y = f(x) in C, a sample at a time")
def _evaluate(mlp: MLP, problem: Problem, request: Request) -> Computation:
    runner, psi = Runner(mlp, EVALUATION, problem, True), problem.activations[-1]

    def run(x: Tensor) -> tuple[None, tuple[Tensor | None]]:
        y, _ = runner(x)
        return None, (psi.value(y) if psi.coupled and y is not None else y,)

    return Computation(run, records=False)

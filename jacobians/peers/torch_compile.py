"""`torch.compile` of `jacrev` and `jacfwd`, under `vmap` for batches: what the compiler makes of the library's own transforms."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch.func import jacfwd, jacrev

from jacobians.network.mlp import MLP
from jacobians.peers.evaluation import FORWARD_AD
from jacobians.peers.torch_func import jacobian_function
from jacobians.planning.registry import Computation, Prepare, Request, register
from jacobians.problem import Problem
from jacobians.quantities.value import prepare_with


def why_not(problem: Problem) -> str | None:
    """Say why this library cannot serve a problem."""
    if problem.N == 0:
        return "vmap refuses an empty batch"
    if problem.device == "cpu" and not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        return "torch.compile needs a C++ compiler on the CPU; install g++"
    return None


def _prepare(transform: Callable[..., Callable[..., object]]) -> Prepare:
    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own deprecations
            compiled = torch.compile(jacobian_function(transform, mlp, problem, request), dynamic=False)

        def run(x: torch.Tensor) -> tuple[object, object]:
            with FORWARD_AD if transform is jacfwd else nullcontext():
                result = compiled(x)
            return (result[1], result[0]) if request.value else (None, result)  # pyright: ignore[reportIndexIssue]

        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            run(torch.zeros(problem.input_shape, dtype=mlp.dtype, device=mlp.device))
        return Computation(run)

    return prepare


register("reverse:torch.compile", supports=why_not, summary="torch.compile of torch.func.jacrev, under vmap for batches")(_prepare(jacrev))
register("forward:torch.compile", supports=why_not, summary="torch.compile of torch.func.jacfwd, under vmap for batches")(_prepare(jacfwd))
register("value/evaluation:torch.compile", supports=why_not, summary="torch.compile of the network")(
    prepare_with(lambda mlp: torch.compile(mlp.__call__, dynamic=False))
)

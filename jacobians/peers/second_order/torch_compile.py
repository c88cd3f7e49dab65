"""`torch.compile` of the functional transforms; it has no double backward, so only what is functional throughout can be compiled.

The gradient of a Laplacian cannot: tracing `grad` of `jacfwd(jacrev)` ends with "ZeroTensors are immutable" in torch 2.13. A step of
training in which the hand-written Laplacian stands for it, two custom operators for the compiler, can.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from jacobians.network.mlp import MLP
from jacobians.peers.second_order import torch_func
from jacobians.peers.torch_compile import why_not
from jacobians.planning.registry import Computation, Request, find_method, register
from jacobians.problem import Problem
from jacobians.quantities.jacobian_gradient import gradients
from jacobians.quantities.laplacian_gradient import residual
from jacobians.quantities.parameters import leaves_of


def _compiled(f: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own deprecations
        return torch.compile(f, dynamic=False)


def _supports(problem: Problem) -> str | None:
    return why_not(problem) or torch_func.batches(problem)


register("laplacian/forward-over-reverse:torch.compile", supports=_supports, summary="the trace of vmap(jacfwd(jacrev)), compiled")(
    torch_func.prepare_with(torch_func.build_laplacian, _compiled)
)
register("jacobian_gradient/reverse:torch.compile", supports=_supports, summary="grad of a function of vmap(jacrev), compiled")(
    torch_func.prepare_with(torch_func.build_gradient(torch_func.jacobian_loss), _compiled)
)
register("hessian/forward-over-reverse:torch.compile", supports=_supports, summary="vmap(jacfwd(jacrev)), compiled")(
    torch_func.prepare_with(torch_func.build_hessian, _compiled)
)


def _step(mlp: MLP, problem: Problem, request: Request) -> Computation:
    """Prepare a compiled loss, whose Laplacian is one operator and whose way back is another."""
    from jacobians.planning.plan import compute_cached  # which needs the methods

    network, parameters = leaves_of(mlp)

    def loss(x: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        return residual(compute_cached(network, "laplacian", (x, directions), "forward:native", Request(create_graph=True))[2])

    compiled = torch.compile(loss, dynamic=False, fullgraph=True)

    def run(inputs: tuple[torch.Tensor, torch.Tensor]) -> tuple[None, tuple[torch.Tensor, ...]]:
        with torch.enable_grad():
            return None, gradients(compiled(*inputs), parameters)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run((torch.zeros(problem.input_shape, dtype=mlp.dtype), torch.ones(1, problem.D, dtype=mlp.dtype)))
    return Computation(run, records=False, holds=True)


register(
    "laplacian_gradient/forward:torch.compile",
    hand_written=True,
    device="cpu",
    supports=lambda problem: why_not(problem) or find_method("laplacian_gradient/forward:native").unsupported(problem),
    summary="a step that torch.compile makes of the forward Laplacian's operators",
)(_step)

"""`torch.compile` of the functional transforms; it has no double backward, so only what is functional throughout can be compiled.

The gradient of a Laplacian cannot: tracing `grad` of `jacfwd(jacrev)` ends with "ZeroTensors are immutable" in torch 2.13.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from jacobians.peers.second_order import torch_func
from jacobians.peers.torch_compile import why_not
from jacobians.planning.registry import register
from jacobians.problem import Problem


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

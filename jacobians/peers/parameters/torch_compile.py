"""`torch.compile` of the loss, differentiated by autograd through the compiled graph, as its tutorials train."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.peers.parameters.torch_func import functional
from jacobians.peers.torch_compile import why_not
from jacobians.planning.registry import Computation, Request, register
from jacobians.problem import Problem
from jacobians.quantities.parameters import loss_in, torch_loss


@register("gradient/reverse:torch.compile", supports=why_not, summary="autograd through torch.compile of the loss")
def _gradient(mlp: MLP, problem: Problem, request: Request) -> Computation:
    loss, (f, parameters) = loss_in(problem), functional(mlp)
    leaves = tuple(p.detach().requires_grad_() for p in parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own deprecations
        compiled = torch.compile(lambda parameters, x, target: torch_loss(loss, f(parameters, x), target), dynamic=False)

    def run(inputs: tuple[Tensor, Tensor]) -> tuple[None, tuple[Tensor, ...]]:
        with torch.enable_grad():
            value = compiled(leaves, *inputs)
            return None, (value.detach(), *torch.autograd.grad(value, leaves))

    return Computation(run)

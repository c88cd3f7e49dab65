"""`torch.autograd`: the gradient of a loss as every training loop takes it, and the step of `torch.optim.SGD`."""

from __future__ import annotations

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Request, register
from jacobians.problem import Problem
from jacobians.quantities.parameters import leaves_of, loss_in, torch_loss
from jacobians.quantities.sgd_step import RATE, own_copy, put_back


@register("gradient/reverse:autograd", options=("inputs",), summary="torch.autograd.grad of the loss in all parameters")
def _gradient(mlp: MLP, problem: Problem, request: Request) -> Computation:
    loss = loss_in(problem)
    network, parameters = leaves_of(mlp)

    def run(inputs: tuple[Tensor, Tensor]) -> tuple[None, tuple[Tensor, ...]]:
        x, target = inputs
        with torch.enable_grad():
            leaf = x.detach().requires_grad_() if request.inputs else x
            value = torch_loss(loss, network(leaf), target)
            return None, (value.detach(), *torch.autograd.grad(value, [*parameters, leaf] if request.inputs else parameters))

    return Computation(run, holds=True)


@register("sgd_step/reverse:autograd", summary="backward and torch.optim.SGD.step")
def _step(mlp: MLP, problem: Problem, request: Request) -> Computation:
    loss, network = loss_in(problem), own_copy(mlp)
    parameters = [p.requires_grad_() for p in network.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=RATE)

    def run(inputs: tuple[Tensor, Tensor]) -> tuple[None, tuple[Tensor, ...]]:
        with torch.enable_grad():
            optimizer.zero_grad()
            value = torch_loss(loss, network(inputs[0]), inputs[1])
            value.backward()
        optimizer.step()
        return None, (value.detach(), *(p.detach() for p in parameters))

    return Computation(run, reset=lambda: put_back(network, mlp))

"""Operation counts and evaluations by autograd for the derivatives with respect to parameters."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacobians.network.losses import Loss, loss_of
from jacobians.network.mlp import MLP
from jacobians.problem import Problem

# torch's own losses: the oracle and the torch peers use them, our methods do not.
TORCH = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "bce": F.binary_cross_entropy,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
    "cross_entropy": F.cross_entropy,
}


class Sizes(NamedTuple):
    """Numbers that the costs are made of.

    Attributes:
        weights: Elements of all weights.
        first: Of the first one.
        parameters: Of weights and biases.
        neurons: Hidden and output neurons.
    """

    weights: int
    first: int
    parameters: int
    neurons: int


def sizes(problem: Problem) -> Sizes:
    """Count the parameters and neurons of a problem."""
    widths = problem.widths
    weights = sum(i * o for i, o in pairwise(widths))
    neurons = sum(widths[1:])
    return Sizes(weights, widths[0] * widths[1], weights + (neurons if problem.bias else 0), neurons)


def loss_in(problem: Problem) -> Loss:
    """Return the loss of a problem."""
    return loss_of(problem.loss or "mse")


def torch_loss(loss: Loss, y: Tensor, target: Tensor) -> Tensor:
    """Evaluate a loss by torch's own function, for autograd to differentiate."""
    value = loss.scale * TORCH[loss.name](y, target, reduction="sum" if loss.reduction == "none" else loss.reduction)
    return value


def leaves_of(mlp: MLP) -> tuple[MLP, list[Tensor]]:
    """Return the network on parameters that autograd follows, and these parameters."""
    weights = [W.detach().requires_grad_() for W in mlp.weights]
    biases = [None if b is None else b.detach().requires_grad_() for b in mlp.biases]
    copy = MLP(weights, biases, mlp.activations[:-1], mlp.activations[-1])
    return copy, list(copy.parameters())


def sharing(mlp: MLP) -> nn.Sequential:
    """Return the network as a torch module on the same numbers: a change in place is seen by both."""
    module = mlp.to_torch()
    linears = [layer for layer in module if isinstance(layer, nn.Linear)]
    for linear, W, b in zip(linears, *mlp.parameter_tuples(), strict=True):
        linear.weight = nn.Parameter(W.detach())
        linear.register_parameter("bias", None if b is None else nn.Parameter(b.detach()))
    return module


def draw_target(problem: Problem, generator: torch.Generator) -> Tensor:
    """Draw a target for the loss of a problem."""
    loss = loss_in(problem)
    shape = (problem.P,) if problem.batch is None else (problem.N, problem.P)
    if loss.classes:
        return torch.randint(problem.P, shape[:-1], generator=generator)
    if loss.name.startswith("bce"):
        return torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def target_fits(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> None:
    """Refuse a target whose shape or dtype does not fit; what its numbers are is looked at in each call."""
    x, target, loss = inputs[0], inputs[1], loss_in(problem)
    loss.check_shape(x.new_empty((*x.shape[:-1], problem.P)), target)
    if target.device != x.device:
        raise ValueError(f"target is on {target.device} but x is on {x.device}; move it with target.to(x.device)")


def each_layer(mlp: MLP, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Evaluate with autograd's record, yielding what enters each layer and the values before its activation."""
    h = x
    for W, b, rule in zip(mlp.weights, mlp.biases, mlp.activations, strict=True):
        z = F.linear(h, W, b)
        yield h, z
        h = rule.value(z)
    yield h, h

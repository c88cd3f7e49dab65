"""Operation counts and evaluations by autograd for the derivatives with respect to parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacobians.network.losses import Loss, loss_of
from jacobians.network.mlp import MLP, converted
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
    """Numbers that the costs are made of."""

    weights: int  # elements of all weights
    first: int  # of the first one
    parameters: int  # of weights and biases
    neurons: int  # hidden and output neurons


def sizes(problem: Problem) -> Sizes:
    """Count the parameters and neurons of a problem."""
    weights, neurons = problem.weights, sum(problem.widths[1:])
    return Sizes(weights, problem.widths[0] * problem.widths[1], weights + (neurons if problem.bias else 0), neurons)


def offsets(widths: Sequence[int], biased: Sequence[bool]) -> tuple[list[int], list[int], int]:
    """Return where each weight and each bias (-1 for none) begins in a vector of all parameters, and their number.

    Example:
        >>> offsets((3, 4, 2), [True, False])
        ([0, 16], [12, -1], 24)
    """
    numbers = [size for (i, o), b in zip(pairwise(widths), biased, strict=True) for size in (i * o, o * b)]
    at = [0, *accumulate(numbers)]
    return at[:-1:2], [place if b else -1 for place, b in zip(at[1::2], biased, strict=True)], at[-1]


def loss_in(problem: Problem) -> Loss:
    """Return the loss of a problem."""
    return loss_of(problem.loss or "mse")


def torch_loss(loss: Loss, y: Tensor, target: Tensor) -> Tensor:
    """Evaluate a loss by torch's own function, for autograd to differentiate."""
    return loss.scale * TORCH[loss.name](y, target, reduction="sum" if loss.reduction == "none" else loss.reduction)


def leaves_of(mlp: MLP) -> tuple[MLP, list[Tensor]]:
    """Return the network on parameters that autograd follows, and these parameters."""
    copy = converted(mlp, lambda t: t.detach().requires_grad_())
    return copy, list(copy.parameters())


def followed(mlp: MLP, problem: Problem, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Evaluate on leaves of autograd: y, x (N, D), and the parameters."""
    network, parameters = leaves_of(mlp)
    at = x.detach().reshape(-1, problem.D).requires_grad_()
    return network(at), at, parameters


def sharing(mlp: MLP) -> nn.Sequential:
    """Return the network as a torch module on the same numbers: a change in place is seen by both."""
    module = mlp.to_torch()
    linears = [layer for layer in module if isinstance(layer, nn.Linear)]
    for linear, W, b in zip(linears, *mlp.parameter_tuples(), strict=True):
        linear.weight = nn.Parameter(W.detach())
        linear.register_parameter("bias", None if b is None else nn.Parameter(b.detach()))
    return module


def draw_target(problem: Problem, generator: torch.Generator) -> tuple[Tensor]:
    """Draw a target for the loss of a problem."""
    loss = loss_in(problem)
    shape = (problem.P,) if problem.batch is None else (problem.N, problem.P)
    if loss.classes:
        return (torch.randint(problem.P, shape[:-1], generator=generator),)
    draw = torch.rand if loss.name.startswith("bce") else torch.randn
    return (draw(shape, generator=generator, dtype=torch.float64),)


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

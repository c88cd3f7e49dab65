"""The gradient of every sample's own loss, and its norm without forming it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jacobians.network.losses import Loss
from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Cost, Quantity, Request, readable, register_quantity
from jacobians.problem import Problem
from jacobians.quantities.parameters import draw_target, each_layer, leaves_of, loss_in, sizes, target_fits, torch_loss
from jacobians.quantities.pullback import pull, tape_of


@dataclass(frozen=True, eq=False)
class PerSampleGradients:
    """The gradients of every sample's own loss.

    Attributes:
        weights: Per layer (N, out, in).
        biases: Per layer (N, out), or `None`.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]


def gradients_of_each(mlp: MLP, x: Tensor, target: Tensor, loss: Loss) -> PerSampleGradients:
    """Compute `C_l[n] ⊗ h_{l-1}[n]`, the gradient of every sample's own loss as if it were a batch of one."""
    y, steps = tape_of(mlp, x)
    weights: list[Tensor] = [y] * len(steps)
    biases: list[Tensor | None] = [None] * len(steps)
    for index, C_l, _ in pull(steps, loss.cotangent_of_each(y, target)):
        weights[index] = C_l[:, :, None] * steps[index].entering[:, None, :]
        biases[index] = None if mlp.biases[index] is None else C_l
    return PerSampleGradients(tuple(weights), tuple(biases))


def norms_of_each(mlp: MLP, x: Tensor, target: Tensor, loss: Loss) -> Tensor:
    """Compute the norms of every sample's own gradient: `‖g[n]‖² = Σ_l ‖C_l[n]‖² (‖h_{l-1}[n]‖² + 1)`, the 1 where a layer has a bias.

    Source:
        Goodfellow, Efficient per-example gradient computations, arXiv 1510.01799 (2015).
    """
    y, steps = tape_of(mlp, x)
    total = y.new_zeros(y.shape[0])
    for index, C_l, _ in pull(steps, loss.cotangent_of_each(y, target)):
        h = steps[index].entering
        total = total + C_l.square().sum(-1) * (h.square().sum(-1) + (0.0 if mlp.biases[index] is None else 1.0))
    return total.sqrt()


def sum_of_own_losses(loss: Loss, outputs: int) -> Loss:
    """Return the loss of a batch that is the sum of every sample's own: a mean over elements is one over a sample's outputs."""
    each = outputs if loss.reduction == "mean" and not loss.per_sample else 1
    return Loss(loss.name, "sum", loss.scale / each)


def own_loss(loss: Loss) -> Loss:
    """Return the loss whose sum over samples has every sample's own gradient: a mean over elements is one over a sample's."""
    return Loss(loss.name, "sum" if loss.reduction == "none" else loss.reduction, loss.scale)


def _cost(problem: Problem, mode: str) -> Cost:
    s = sizes(problem)
    flops = problem.N * (2 * s.weights + 2 * (s.weights - s.first) + 2 * (problem.D + 2 * s.neurons) + 3 * s.neurons)
    return Cost(flops, problem.itemsize * (s.parameters + problem.N * (problem.D + problem.P + 1)))


def _exact(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """By autograd: the derivatives by the values before each activation, and their outer products' norms, sample by sample."""
    x, target = inputs
    with torch.enable_grad():
        network, _ = leaves_of(mlp)
        *layers, (y, _) = each_layer(network, x)
        total = torch_loss(sum_of_own_losses(loss_in(problem), problem.P), y, target)
        cotangents = torch.autograd.grad(total, [z for _, z in layers])
    squares = x.new_zeros(len(x))
    for C, (h, _), b in zip(cotangents, layers, mlp.biases, strict=True):
        squares = squares + (C.square().sum(-1) * (h.detach().square().sum(-1) + (b is not None)))
    return (squares.sqrt(),)


register_quantity(
    Quantity(
        "gradient_norms",
        "Norms of per-sample gradients",
        {"reverse": "‖g[n]‖² = Σ_l ‖C_l[n]‖² (‖h_{l-1}[n]‖² + 1)", "dense": "every sample's gradient is formed, then its norm"},
        _cost,
        _exact,
        draw=draw_target,
        per_sample=True,
        relabelled=True,
        axes=(0,),
        takes=("target",),
        fits=target_fits,
        of_parameters=True,
        loss=True,
        batched=True,
        call='norms = jac.per_sample_gradient_norms(mlp, x, target, "{loss}", method="{method}")',
    )
)


@readable("gradient_norms/reverse:eager", summary="from the norms of both factors, in torch")
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    loss = loss_in(problem)
    return Computation(run=lambda inputs: (None, (norms_of_each(mlp, *inputs, loss=loss),)))

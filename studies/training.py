"""Shared parts of training: drawing weights, epochs of SGD, evaluation, and the place where numbers are no longer finite."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import jacobians as jac
from studies.data import DataSet

EVALUATED = 10_000  # samples at once


def draw(widths: Sequence[int], weight: Callable[[int, int, torch.Generator], Tensor], seed: int) -> list[Tensor]:
    """Draw the weights of a network, layer by layer from one generator."""
    generator = torch.Generator().manual_seed(seed)
    return [weight(fan_out, fan_in, generator) for fan_in, fan_out in itertools.pairwise(widths)]


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Shuffle the samples and cut them into batches; the last one may be smaller."""
    yield from torch.randperm(count, generator=generator).split(size)


def epoch(sgd: jac.SGD, part: DataSet, loss: str | jac.Loss, order: Sequence[Tensor], first_step: int = 0) -> Tensor:
    """Take one step of SGD on each batch, in the fused call."""
    kept = [p.clone() for p in sgd.mlp.parameters()]
    losses = torch.stack([sgd.minimize(x, target, loss) for x, target in steps_of(part, order)])
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        for p, before in zip(sgd.mlp.parameters(), kept, strict=True):
            p.copy_(before)
        number = int((~finite).nonzero()[0])
        for at in order[:number]:  # again up to there, so that the layer can be named
            sgd.step(jac.gradient(sgd.mlp, part.x[at], part.target[at], loss))
        where = first_layer_not_finite(sgd.mlp, part.x[order[number]])
        raise ArithmeticError(f"the loss at step {first_step + number} is {losses[number].item()}: {where}; take a smaller rate")
    return losses


def steps_of(part: DataSet, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Go over the batches of an epoch, put in order once: torch's threads, which spin after a parallel copy, stay out of the steps."""
    single = order[0].ndim == 0
    places = torch.stack(list(order)) if single else torch.cat(list(order))
    x, target = part.x[places], part.target[places]
    sizes = [len(at) for at in order] if not single else []
    pieces = (x.unbind(), target.unbind()) if single else (x.split(sizes), target.split(sizes))
    yield from zip(*pieces, strict=True)


def first_layer_not_finite(mlp: jac.MLP, x: Tensor) -> str:
    """Say where evaluating a network leaves the numbers."""
    if not bool(torch.isfinite(x).all()):
        return "its input is not finite"
    for number, (layer, W) in enumerate(zip(mlp.layers(x, value=True), mlp.weights, strict=True), 1):
        if not bool(torch.isfinite(W).all()):
            return f"the weights of layer {number} are not finite"
        if layer.value is not None and not bool(torch.isfinite(layer.value).all()):
            return f"the values of layer {number} are not finite"
    return "every layer is finite, so it is the loss itself"


def evaluate(mlp: Callable[[Tensor], Tensor], part: DataSet) -> tuple[float, float]:
    """Return the mean cross-entropy and the share of samples whose class is right."""
    pieces = list(zip(part.x.split(EVALUATED), part.target.split(EVALUATED), strict=True))
    outputs = [(mlp(x), target) for x, target in pieces]
    total = sum(float(F.cross_entropy(y, target, reduction="sum")) for y, target in outputs)
    right = sum(int((y.argmax(1) == target).sum()) for y, target in outputs)
    count = len(part.x)
    return (total / count, right / count) if count else (float("nan"), float("nan"))


def sizes_of(data: DataSet, hidden: Sequence[int]) -> tuple[int, ...]:
    """Return the widths of a classifier of a data set."""
    return (data.x.shape[1], *hidden, len(data.names))

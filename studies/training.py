"""Shared parts of training: drawing weights, epochs of SGD, evaluation, and the place where numbers are no longer finite."""

from __future__ import annotations

import itertools
import math
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


def uniform(bound: float) -> Callable[[int, int, torch.Generator], Tensor]:
    """Draw from the uniform distribution between -bound and bound."""
    return lambda out, fan_in, generator: bound * (2 * torch.rand(out, fan_in, generator=generator) - 1)


def xavier_uniform(out: int, fan_in: int, generator: torch.Generator) -> Tensor:
    """Draw as Glorot and Bengio do: uniform, with the bound `√(6 / (in + out))`."""
    return uniform(math.sqrt(6 / (fan_in + out)))(out, fan_in, generator)


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Shuffle the samples and cut them into batches; the last one may be smaller."""
    yield from torch.randperm(count, generator=generator).split(size)


def passes(count: int, size: int | None, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Cut the samples into batches, pass after pass without end.

    Args:
        count: Number of samples.
        size: Of a batch; `None` for single samples, as numbers.
        generator: Shuffles them for each pass; without one they stay in their order.

    Example:
        >>> [batch.tolist() for batch in itertools.islice(passes(5, 2), 4)]
        [[0, 1], [2, 3], [4], [0, 1]]
    """
    while True:
        order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        yield from order.unbind() if size is None else order.split(size)


def mean_over_batches(losses: Tensor, size: int) -> float:
    """Average the means of batches, so that a smaller last one weighs as much as any.

    Example:
        >>> mean_over_batches(torch.tensor([0.0, 2.0, 4.0]), 2)
        2.5
    """
    return float(torch.stack([batch.mean() for batch in losses.split(size)]).mean()) if len(losses) else float("nan")


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


def evaluate(mlp: Callable[[Tensor], Tensor], part: DataSet, batch: int | None = None) -> tuple[float, float]:
    """Return the mean cross-entropy, of all samples or of the means of batches, and the share of samples whose class is right."""
    count = len(part.x)
    outputs = [(mlp(x), target) for x, target in zip(part.x.split(EVALUATED), part.target.split(EVALUATED), strict=True)]
    losses = [F.cross_entropy(y, target, reduction="none").double() for y, target in outputs]
    right = sum(int((y.argmax(1) == target).sum()) for y, target in outputs)
    return (mean_over_batches(torch.cat(losses), batch or count), right / count) if count else (float("nan"), float("nan"))


def sizes_of(data: DataSet, hidden: Sequence[int]) -> tuple[int, ...]:
    """Return the widths of a classifier of a data set."""
    return (data.x.shape[1], *hidden, len(data.names))

"""Training without autograd: losses step by step beside torch's, and the time of an epoch.

Two networks: 784-32-32-10 with sigmoids, one sample at a time, and 784-256-128-64-10 with ReLUs in batches of 64. Both ways of a network
start from the same weights and see the same samples in the same order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

import jacobians as jac
from studies import data, probabilities, training
from studies.study import Options, Row, Study, register

SETS = ("fashion-mnist", "mnist", "digits")
WAYS = ("jac", "torch")
COMPARED = 200  # steps in float64, for the comparison of losses


def _gaussian(out: int, fan_in: int, generator: torch.Generator) -> Tensor:
    return torch.randn(out, fan_in, generator=generator) / math.sqrt(max(fan_in, out))


def _as_torch(out: int, fan_in: int, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(out, fan_in, generator=generator) - 1) / math.sqrt(fan_in)


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained.

    Attributes:
        name: Of the network.
        hidden: Hidden widths.
        activation: φ.
        batch: Samples of a step; `None` for single samples.
        rate: Of SGD.
        epochs: Passes over the training samples.
        weight: How a weight is drawn.
        biases: Whether biases are drawn like `nn.Linear`'s, or start at zero.
        beside: Epochs that torch trains beside ours, from the first on.
        published: Epoch to what is published: `("train_loss" or "test_loss" or "test_accuracy", value)`.
    """

    name: str
    hidden: tuple[int, ...]
    activation: str
    batch: int | None
    rate: float
    epochs: int
    weight: Callable[[int, int, torch.Generator], Tensor]
    biases: bool
    beside: int
    published: tuple[tuple[int, str, float], ...]

    def network(self, widths: tuple[int, ...], seed: int) -> jac.MLP:
        """Draw the network."""
        generator = torch.Generator().manual_seed(seed + 1)
        biases = [
            (2 * torch.rand(out, generator=generator) - 1) / math.sqrt(fan_in) if self.biases else torch.zeros(out)
            for fan_in, out in pairwise(widths)
        ]
        return jac.MLP(training.draw(widths, self.weight, seed), biases, activation=self.activation)

    def order(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Shuffle the samples into steps."""
        if self.batch is None:
            return list(torch.randperm(count, generator=generator).unbind())
        return list(training.batches(count, self.batch, generator))


# Epochs are numbered from 1; 0 is before any step. The published epochs 0 and 23 are the first and the 24th.
ONE_SAMPLE = Recipe(
    "one sample", (32, 32), "sigmoid", None, 0.001, 3, _gaussian, False, 1, ((0, "test_accuracy", 0.088), (3, "test_accuracy", 0.70))
)
BATCHED = Recipe(
    "batches of 64",
    (256, 128, 64),
    "relu",
    64,
    0.01,
    25,
    _as_torch,
    True,
    25,
    ((1, "train_loss", 1.841), (24, "train_loss", 0.334), (24, "test_loss", 0.384)),
)
RECIPES = (ONE_SAMPLE, BATCHED)


class Torch:
    """The same training as people write it: autograd and `torch.optim.SGD`.

    Args:
        mlp: Network with the first weights; copied.
        rate: Of SGD.
    """

    def __init__(self, mlp: jac.MLP, rate: float) -> None:
        self.net = mlp.to_torch()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=rate)

    def epoch(self, part: data.DataSet, order: Sequence[Tensor]) -> Tensor:
        """Take one step on each batch."""
        losses = []
        for x, target in training.steps_of(part, order):
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.net(x), target)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)


def agreement(recipe: Recipe, part: data.DataSet, widths: tuple[int, ...], seed: int) -> tuple[int, float]:
    """Compare the losses of both ways step by step, in float64, where rounding does not grow to anything that is seen."""
    mlp = recipe.network(widths, seed).to(dtype=torch.float64)
    other, exact = Torch(mlp, recipe.rate), part._replace(x=part.x.double())
    order = recipe.order(len(part.x), torch.Generator().manual_seed(seed))[:COMPARED]
    a, b = training.epoch(jac.SGD(mlp, recipe.rate), exact, "cross_entropy", order), other.epoch(exact, order)
    return len(order), float(((a - b).abs() / b.abs().clamp_min(1e-300)).max())


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    name, whole = data.load(options.data, SETS, options.data_dir)
    parts = data.split(whole, options.seed)
    lengths = [options.epochs or recipe.epochs for recipe in RECIPES]
    total = sum(length + min(length, recipe.beside) for length, recipe in zip(lengths, RECIPES, strict=True))
    done = 0
    for recipe, epochs in zip(RECIPES, lengths, strict=True):
        widths = training.sizes_of(whole, recipe.hidden)
        steps, worst = agreement(recipe, parts.train, widths, options.seed)
        mlp = recipe.network(widths, options.seed)
        sgd, other = jac.SGD(mlp, recipe.rate), Torch(mlp, recipe.rate)
        published = {(epoch, what): value for epoch, what, value in recipe.published}
        yield from probabilities.pictures(recipe.name, name, parts.test)
        generator, first, apart = torch.Generator().manual_seed(options.seed), 0, 0.0
        for epoch in range(epochs + 1):
            curves: dict[str, Tensor] = {}
            ways = WAYS if epoch <= recipe.beside else WAYS[:1]
            if epoch:
                order = recipe.order(len(parts.train.x), generator)
                for way in ways:
                    start = time.perf_counter()
                    if way == "jac":
                        curves[way] = training.epoch(sgd, parts.train, "cross_entropy", order, first)
                    else:
                        curves[way] = other.epoch(parts.train, order)
                    yield (
                        "from-scratch-times",
                        {"network": recipe.name, "written": way, "epoch": epoch, "seconds": time.perf_counter() - start},
                    )
                    done += 1
                    options.report(done / total)
                first += len(order)
                if len(ways) > 1:
                    apart = max(apart, abs(float(curves["jac"].mean() / curves["torch"].mean()) - 1))
            for way in ways:
                with torch.no_grad():
                    loss, right = training.evaluate(mlp if way == "jac" else other.net, parts.test)
                found = {"train_loss": float(curves[way].mean()) if epoch else math.nan, "test_loss": loss, "test_accuracy": right}
                known = {f"published_{what}": published.get((epoch, what), math.nan) for what in found}
                if way == "jac" and epoch in {0, epochs}:
                    yield from probabilities.answers(recipe.name, name, epoch, mlp, parts.test)
                yield "from-scratch", {"data": name, "network": recipe.name, "written": way, "epoch": epoch, **found, **known}
        row: Row = {"network": recipe.name, "steps": steps, "worst_difference": worst, "epochs": epochs, "worst_of_an_epoch": apart}
        yield "from-scratch-agreement", row


def times(rows: Sequence[Row], network: str) -> tuple[float, float]:
    """Return the time of an epoch by this library and how many times as long torch takes."""
    mine, theirs = ([float(row["seconds"]) for row in rows if (row["network"], row["written"]) == (network, way)] for way in WAYS)
    ratios = sorted(b / a for a, b in zip(mine, theirs, strict=False))  # torch may have trained fewer
    return sorted(mine)[len(mine) // 2], ratios[len(ratios) // 2]


def last(rows: Sequence[Row], network: str, way: str = "jac") -> Row:
    """Return the row of the last epoch."""
    return [row for row in rows if (row["network"], row["written"]) == (network, way)][-1]


def _conclude(tables: dict[str, list[Row]]) -> str:
    parts = []
    for agreed in tables["from-scratch-agreement"]:
        network = str(agreed["network"])
        final, (seconds, ratio) = last(tables["from-scratch"], network), times(tables["from-scratch-times"], network)
        parts.append(
            f"{network}: the losses of {float(agreed['steps']):g} steps in float64 are torch's within "
            f"{float(agreed['worst_difference']):.0e}, the mean loss of an epoch in float32 within "
            f"{float(agreed['worst_of_an_epoch']):.0e}; after {float(agreed['epochs']):g} epochs on "
            f"{final['data']} test accuracy {float(final['test_accuracy']):.3f} and loss {float(final['test_loss']):.3f}; an epoch takes "
            f"{seconds:.2g} s, and torch {ratio:.2f} times as long"
        )
    return "; ".join(parts) + "."


register(
    Study(
        "from-scratch",
        "Training without autograd",
        "Does SGD on gradients by hand follow torch step by step, and what does an epoch cost?",
        {
            "from-scratch": (
                "data",
                "network",
                "written",
                "epoch",
                "train_loss",
                "test_loss",
                "test_accuracy",
                "published_train_loss",
                "published_test_loss",
                "published_test_accuracy",
            ),
            "from-scratch-agreement": ("network", "steps", "worst_difference", "epochs", "worst_of_an_epoch"),
            "from-scratch-times": ("network", "written", "epoch", "seconds"),
            **probabilities.TABLES,
        },
        _rows,
        _conclude,
        SETS,
    )
)

"""Training without autograd: losses step by step beside torch's, and the time of an epoch.

Two networks of an exercise: 784-32-32-10 with sigmoids, one sample at a time, in the order of the file, pixels from 0 to 255; and
784-256-128-64-10 with ReLUs in shuffled batches of 64. Both ways of a network start from the same weights and see the same samples in
the same order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import jacobians as jac
from studies import data, probabilities, published, training
from studies.study import Options, Row, Study, Tables, column, register, where

SETS = ("mnist", "fashion-mnist", "digits")
WAYS = ("jac", "torch")
COMPARED = 200  # steps in float64, for the comparison of losses
GENERATOR = 80085  # of the exercise's weights


def by_numpy(widths: Sequence[int], seed: int) -> jac.MLP:
    """Draw the exercise's weights, one (in, out) array after the other: normal, with variance 1 / max(in, out); no biases yet."""
    generator = np.random.default_rng(GENERATOR + seed)
    weights = [generator.normal(0.0, math.sqrt(1 / max(pair)), size=pair) for pair in pairwise(widths)]
    return jac.MLP(
        [torch.from_numpy(W.T.copy()) for W in weights], [torch.zeros(width, dtype=torch.float64) for width in widths[1:]], "sigmoid"
    )


def as_torch(widths: Sequence[int], seed: int) -> jac.MLP:
    """Draw weights and biases from the distribution of `nn.Linear`'s."""
    generator = torch.Generator().manual_seed(seed + 1)
    biases = [training.uniform(1 / math.sqrt(fan_in))(1, out, generator)[0] for fan_in, out in pairwise(widths)]
    return jac.MLP(
        training.draw(widths, lambda out, fan_in, g: training.uniform(1 / math.sqrt(fan_in))(out, fan_in, g), seed), biases, "relu"
    )


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained."""

    name: str
    sets: tuple[str, ...]  # data sets it can use, in order of preference
    hidden: tuple[int, ...]
    network: Callable[[Sequence[int], int], jac.MLP]
    batch: int | None  # samples of a step, shuffled; `None` for single samples in their order
    rate: float
    epochs: int
    updates: int  # of an epoch: as many as 60,000 images give; smaller sets are seen more often
    beside: int  # epochs that torch trains beside ours, from the first on
    brightest: float = 1.0  # value of a white pixel; pixels are whole numbers where it is not 1
    optional: bool = False  # whether it is left out where its set is not there, or another one is named

    def prepared(self, part: data.DataSet, dtype: torch.dtype) -> data.DataSet:
        """Scale the pixels."""
        x = part.x if self.brightest == 1 else (self.brightest * part.x).round()
        return part._replace(x=x.to(dtype))

    def order(self, count: int, seed: int) -> Iterator[Tensor]:
        """Put the samples into steps, without end."""
        return training.passes(count, self.batch, None if self.batch is None else torch.Generator().manual_seed(seed))


ONE_SAMPLE = Recipe("one sample", ("mnist", "digits"), (32, 32), by_numpy, None, 0.003, 3, 60_000, 1, 255.0)
CLOTHES = replace(ONE_SAMPLE, name="one sample, clothes", sets=("fashion-mnist",), optional=True)
BATCHED = Recipe("batches of 64", ("fashion-mnist", "mnist", "digits"), (256, 128, 64), as_torch, 64, 0.01, 25, 938, 25)
RECIPES = (ONE_SAMPLE, CLOTHES, BATCHED)


def sets_of(options: Options) -> Iterator[tuple[Recipe, str, data.DataSet]]:
    """Read the data set of each recipe. A directory without a name is that of MNIST."""
    for recipe in RECIPES:
        if recipe.optional and options.data is not None:
            continue
        directory = options.data_dir if options.data is not None or recipe.sets[0] == SETS[0] else None
        try:
            yield recipe, *data.load(options.data, recipe.sets, directory)
        except (FileNotFoundError, ModuleNotFoundError):
            if not recipe.optional:
                raise


class Torch:
    """The same training as people write it: autograd and `torch.optim.SGD`."""

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
    other = Torch(mlp, recipe.rate)
    order = list(islice(recipe.order(len(part.x), seed), COMPARED))
    exact = part._replace(x=part.x.double())
    a, b = training.epoch(jac.SGD(mlp, recipe.rate), exact, "cross_entropy", order), other.epoch(exact, order)
    return len(order), float(((a - b).abs() / b.abs().clamp_min(1e-300)).max())


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    lengths = [options.epochs or recipe.epochs for recipe in RECIPES]
    total = sum(length + min(length, recipe.beside) for length, recipe in zip(lengths, RECIPES, strict=True))
    done = 0
    for recipe, name, whole in sets_of(options):
        parts, epochs, widths = data.split(whole, options.seed), options.epochs or recipe.epochs, training.sizes_of(whole, recipe.hidden)
        mlp = recipe.network(widths, options.seed)
        train, test = (recipe.prepared(part, mlp.dtype) for part in (parts.train, parts.test))
        steps, worst = agreement(recipe, train, widths, options.seed)
        sgd, other = jac.SGD(mlp, recipe.rate), Torch(mlp, recipe.rate)
        yield from probabilities.pictures(recipe.name, name, parts.test)
        stream, apart = recipe.order(len(train.x), options.seed), 0.0
        for epoch in range(epochs + 1):
            curves: dict[str, Tensor] = {}
            ways = WAYS if epoch <= recipe.beside else WAYS[:1]
            if epoch:
                order = list(islice(stream, recipe.updates))
                for way in ways:
                    start = time.perf_counter()
                    if way == "jac":
                        curves[way] = training.epoch(sgd, train, "cross_entropy", order, (epoch - 1) * recipe.updates)
                    else:
                        curves[way] = other.epoch(train, order)
                    row: Row = {"network": recipe.name, "written": way, "epoch": epoch, "seconds": time.perf_counter() - start}
                    yield "from-scratch-times", row
                    done += 1
                    options.report(done / total)
                if len(ways) > 1:
                    apart = max(apart, abs(float(curves["jac"].mean() / curves["torch"].mean()) - 1))
            for way in ways:
                with torch.no_grad():
                    loss, right = training.evaluate(mlp if way == "jac" else other.net, test, recipe.batch)
                if way == "jac" and epoch in {0, epochs}:
                    yield from probabilities.answers(recipe.name, name, epoch, mlp, test)
                row = {"data": name, "network": recipe.name, "written": way, "epoch": epoch, "updates": epoch * recipe.updates}
                mean = float(curves[way].double().mean()) if epoch else math.nan
                yield "from-scratch", {**row, "train_loss": mean, "test_loss": loss, "test_accuracy": right}
        row = {"network": recipe.name, "training_samples": len(train.x), "steps": steps, "worst_difference": worst, "epochs": epochs}
        yield "from-scratch-agreement", {**row, "worst_of_an_epoch": apart}


def times(rows: Sequence[Row], network: str) -> tuple[float, float]:
    """Return the least time of an epoch by this library, for what disturbs only adds, and how many times as long torch's takes."""
    mine, theirs = (column(where(rows, network=network, written=way), "seconds") for way in WAYS)
    return min(mine), min(theirs) / min(mine[: len(theirs)])  # torch may have trained fewer


def last(rows: Sequence[Row], network: str) -> Row:
    """Return the row of the last epoch by this library."""
    return where(rows, network=network, written="jac")[-1]


def _conclude(tables: Tables) -> str:
    parts = []
    for agreed in tables["from-scratch-agreement"]:
        network = str(agreed["network"])
        final, (seconds, ratio) = last(tables["from-scratch"], network), times(tables["from-scratch-times"], network)
        parts.append(
            f"{network}: the losses of {float(agreed['steps']):g} steps in float64 are torch's within "
            f"{float(agreed['worst_difference']):.0e}, the mean loss of an epoch of training within "
            f"{float(agreed['worst_of_an_epoch']):.0e}; after {float(final['updates']):g} updates on {float(agreed['training_samples']):g} "
            f"samples of {final['data']} test accuracy {float(final['test_accuracy']):.3f} and loss {float(final['test_loss']):.3f}; the "
            f"fastest epoch takes {seconds:.2g} s, and torch's {ratio:.2f} times as long"
        )
    return "; ".join(parts) + "."


def _checks(tables: Tables) -> list[tuple[str, bool]]:
    """Hold the untrained network against the printed one, where the tests are the exercise's: the start is exact."""
    printed, start = published.table("numpy_network_accuracy")[0], tables["from-scratch"][0]
    counts = {row["network"]: float(row["training_samples"]) for row in tables["from-scratch-agreement"]}
    if (start["data"], counts[ONE_SAMPLE.name]) != ("mnist", ONE_SAMPLE.updates):
        return []
    right, loss = round(float(start["test_accuracy"]) * float(printed["test_samples"])), f"{float(start['test_loss']):.2f}"
    line = f"before training {right} tests are right, with a loss of {loss}; printed: {printed['test_correct']} and {printed['test_loss']}"
    return [(line, (right, loss) == (int(printed["test_correct"]), printed["test_loss"]))]


register(
    Study(
        "from-scratch",
        "Training without autograd",
        "Does SGD on gradients by hand follow torch step by step, and what does an epoch cost?",
        {
            "from-scratch": ("data", "network", "written", "epoch", "updates", "train_loss", "test_loss", "test_accuracy"),
            "from-scratch-agreement": ("network", "training_samples", "steps", "worst_difference", "epochs", "worst_of_an_epoch"),
            "from-scratch-times": ("network", "written", "epoch", "seconds"),
            **probabilities.TABLES,
        },
        _rows,
        _conclude,
        SETS,
        _checks,
    )
)

"""Effect of the scale of the first weights on gradients, Jacobians and training of a deep tanh network.

Uniform weights of fixed ranges let gradients vanish (0.01, 0.1) or saturate every unit (2); Glorot and Bengio's range
`√(6 / (in + out))` keeps the variance from layer to layer, forward and back.

Source:
    Glorot & Bengio, Understanding the difficulty of training deep feedforward neural networks, AISTATS (2010).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor

import jacobians as jac
from studies import data, training
from studies.study import Options, Row, Study, Tables, register

HIDDEN = (50,) * 8
BATCH, RATE = 128, 0.01
EPOCHS, UPDATES = 5, 468  # an epoch is as many updates as MNIST has whole batches; smaller sets are seen more often
OF_A_GRADIENT, OF_A_JACOBIAN = 256, 16  # samples
SATURATED = 0.99  # |tanh z| beyond this
SETS = ("mnist", "digits", "fashion-mnist")
PRINTED = ("uniform 0.01", "uniform 0.1", "uniform 2", "xavier uniform")  # the names in the published table
INITS: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "U(±0.01)": training.uniform(0.01),
    "U(±0.1)": training.uniform(0.1),
    "U(±2)": training.uniform(2.0),
    "Xavier uniform": training.xavier_uniform,
}


def network(init: str, widths: tuple[int, ...], seed: int) -> jac.MLP:
    """Draw a network without anything in its biases."""
    return jac.MLP(training.draw(widths, INITS[init], seed), [torch.zeros(width) for width in widths[1:]])


def layers_of(mlp: jac.MLP, x: Tensor, target: Tensor) -> Iterator[Row]:
    """Describe the layers of a network on a batch."""
    gradients = jac.gradient(mlp, x, target, "cross_entropy").weights
    for number, (layer, gradient) in enumerate(zip(mlp.layers(x, value=True), gradients, strict=True), 1):
        assert layer.value is not None
        last = number == len(mlp.weights)
        head = jac.MLP(mlp.weights[:number], mlp.biases[:number], output_activation="identity" if last else "tanh")
        singular = torch.linalg.svdvals(jac.jacobian(head, x[:OF_A_JACOBIAN]).double())
        yield {
            "layer": number,
            "gradient_norm": float(gradient.double().norm()),
            "saturated": math.nan if last else float((layer.value.abs() > SATURATED).double().mean()),
            "largest_singular_value": float(singular[:, 0].mean()),
            "median_singular_value": float(singular.median(1).values.mean()),
        }


def whole_batches(part: data.DataSet) -> data.DataSet:
    """Leave out the samples of the last batch where it is smaller than the others, as the exercise does, training and testing."""
    count = len(part.x)
    return part if count < BATCH else part._replace(x=part.x[: count - count % BATCH], target=part.target[: count - count % BATCH])


def train(mlp: jac.MLP, part: data.DataSet, epochs: int) -> Iterator[Row]:
    """Train on batches in the order of the samples, and average what each batch gives before its own update."""
    sgd, order = jac.SGD(mlp, lr=RATE), training.passes(len(part.x), BATCH)
    for epoch in range(1, epochs + 1):
        losses, right = [], []
        for step, at in enumerate(islice(order, UPDATES)):
            right.append((mlp(part.x[at]).argmax(1) == part.target[at]).double().mean())
            losses.append(training.epoch(sgd, part, "cross_entropy", [at], (epoch - 1) * UPDATES + step))
        loss, share = float(torch.cat(losses).double().mean()), float(torch.stack(right).mean())
        yield {"epoch": epoch, "updates": epoch * UPDATES, "train_loss": loss, "train_accuracy": share}


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    name, whole = data.load(options.data, SETS, options.data_dir)
    parts = data.split(whole, options.seed)
    own, tests = whole_batches(parts.train), whole_batches(parts.test)
    epochs, widths = options.epochs or EPOCHS, training.sizes_of(whole, HIDDEN)
    head = slice(min(OF_A_GRADIENT, len(parts.test.x)))  # tests, as in the exercise
    for place, init in enumerate(INITS):
        mlp = network(init, widths, options.seed)
        for row in layers_of(mlp, parts.test.x[head], parts.test.target[head]):
            yield "initialisation-layers", {"data": name, "init": init, **row}
        end: Row = {}
        for row in train(mlp, own, epochs):
            loss, right = training.evaluate(mlp, tests)
            end = {**row, "test_loss": loss, "test_accuracy": right}
            options.report((place + float(row["epoch"]) / epochs) / len(INITS))
            yield "initialisation-training", {"init": init, **end}
        counts: Row = {"training_samples": len(own.x), "tests": len(tests.x)}
        yield "initialisation", {"data": name, "init": init, **counts, **{key: end[key] for key in ENDS}}


def _conclude(tables: Tables) -> str:
    rows = tables["initialisation"]
    ours = ", ".join(
        f"{row['init']} {100 * float(row['test_accuracy']):.1f} % and {100 * float(row['train_accuracy']):.1f} %" for row in rows
    )
    first = rows[0]
    return (
        f"After {float(first['updates']):g} updates on {first['data']} ({float(first['training_samples']):g} training samples) the share "
        f"that is right, of the tests and in the last {UPDATES} updates before each: {ours}."
    )


OF_A_LAYER = ("gradient_norm", "saturated", "largest_singular_value", "median_singular_value")
ENDS = ("updates", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
register(
    Study(
        "initialisation",
        "First weights of a deep tanh network",
        "What does the scale of the first weights do to gradients, Jacobians and training?",
        {
            "initialisation": ("data", "init", "training_samples", "tests", *ENDS),
            "initialisation-layers": ("data", "init", "layer", *OF_A_LAYER),
            "initialisation-training": ("init", "epoch", *ENDS),
        },
        _rows,
        _conclude,
        SETS,
    )
)

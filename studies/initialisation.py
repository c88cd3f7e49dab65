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
from studies.study import Options, Row, Study, register

HIDDEN = (50,) * 8
BATCH, RATE = 128, 0.01
STEPS = 2345  # five epochs of 60,000 images
OF_A_GRADIENT, OF_A_JACOBIAN = 256, 16  # samples
SATURATED = 0.99  # |tanh z| beyond this
SETS = ("mnist", "digits", "fashion-mnist")
CURVE = 60  # points of a training curve


def _uniform(bound: float) -> Callable[[int, int, torch.Generator], Tensor]:
    return lambda out, fan_in, generator: bound * (2 * torch.rand(out, fan_in, generator=generator) - 1)


def _xavier(out: int, fan_in: int, generator: torch.Generator) -> Tensor:
    return _uniform(math.sqrt(6 / (fan_in + out)))(out, fan_in, generator)


# Name -> how a weight is drawn, and the published accuracy on the tests of MNIST.
INITS: dict[str, tuple[Callable[[int, int, torch.Generator], Tensor], float]] = {
    "U(±0.01)": (_uniform(0.01), 0.1135),
    "U(±0.1)": (_uniform(0.1), 0.1135),
    "U(±2)": (_uniform(2.0), 0.1948),
    "Xavier uniform": (_xavier, 0.9006),
}


def network(init: str, widths: tuple[int, ...], seed: int) -> jac.MLP:
    """Draw a network without anything in its biases."""
    return jac.MLP(training.draw(widths, INITS[init][0], seed), [torch.zeros(width) for width in widths[1:]])


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


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    name, whole = data.load(options.data, SETS, options.data_dir)
    parts = data.split(whole, options.seed)
    each = math.ceil(len(parts.train.x) / BATCH)  # steps of an epoch
    steps = STEPS if options.epochs is None else options.epochs * each
    widths = training.sizes_of(whole, HIDDEN)
    for place, init in enumerate(INITS):
        mlp = network(init, widths, options.seed)
        head = slice(min(OF_A_GRADIENT, len(parts.train.x)))
        for row in layers_of(mlp, parts.train.x[head], parts.train.target[head]):
            yield "initialisation-layers", {"data": name, "init": init, **row}
        generator = torch.Generator().manual_seed(options.seed)
        order = (batch for _ in range(math.ceil(steps / each)) for batch in training.batches(len(parts.train.x), BATCH, generator))
        sgd, done, piece = jac.SGD(mlp, lr=RATE), 0, max(1, steps // CURVE)
        while some := list(islice(order, min(piece, steps - done))):
            losses = training.epoch(sgd, parts.train, "cross_entropy", some, done)
            done += len(some)
            options.report((place + done / steps) / len(INITS))
            yield "initialisation-training", {"init": init, "step": done, "loss": float(losses.mean())}
        loss, right = training.evaluate(mlp, parts.test)
        row: Row = {"data": name, "init": init, "training_samples": len(parts.train.x), "steps": steps}
        yield "initialisation", {**row, "test_loss": loss, "test_accuracy": right, "published_accuracy": INITS[init][1]}


def _conclude(tables: dict[str, list[Row]]) -> str:
    rows = tables["initialisation"]
    ours = ", ".join(
        f"{row['init']} {100 * float(row['test_accuracy']):.1f} % ({100 * float(row['published_accuracy']):.2f} %)" for row in rows
    )
    first = rows[0]
    return (
        f"After {float(first['steps']):g} steps on {first['data']} ({float(first['training_samples']):g} training samples) the share of "
        f"right tests is, beside the published one for MNIST: {ours}."
    )


register(
    Study(
        "initialisation",
        "First weights of a deep tanh network",
        "What does the scale of the first weights do to gradients, Jacobians and training?",
        {
            "initialisation": (
                "data",
                "init",
                "training_samples",
                "steps",
                "test_loss",
                "test_accuracy",
                "published_accuracy",
            ),
            "initialisation-layers": (
                "data",
                "init",
                "layer",
                "gradient_norm",
                "saturated",
                "largest_singular_value",
                "median_singular_value",
            ),
            "initialisation-training": ("init", "step", "loss"),
        },
        _rows,
        _conclude,
        SETS,
    )
)

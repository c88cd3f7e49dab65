"""Images that a classifier takes for a class: ascent along a row of its Jacobian.

`x ← x + η J[c] / ‖J[c]‖`, where `J[c] = ∂y_c/∂x` is one pullback; plain, with a pull to zero (L2), and with a blur of the image every few
steps, which leaves what the classifier sees in larger parts.

Source:
    Simonyan, Vedaldi & Zisserman, Deep inside convolutional networks, arXiv 1312.6034 (2014); blur: Yosinski et al., arXiv 1506.06579.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacobians as jac
from studies import data, training
from studies.layers import Momentum
from studies.study import Options, Row, Study, Tables, column, register, where

SETS = ("fashion-mnist", "mnist", "digits")
HIDDEN, BATCH, RATE, EPOCHS = (64, 64), 64, 0.02, 3
STEPS, STRIDE = 100, 0.15
BLUR_EVERY = 4


@dataclass(frozen=True)
class Regulariser:
    """A regulariser of the ascent: decay `x ← (1 - λ) x` each step, and a blur every few steps."""

    name: str
    decay: float = 0.0
    blur: bool = False


REGULARISERS = (Regulariser("plain"), Regulariser("L2", decay=0.05), Regulariser("blur", decay=0.01, blur=True))
NETWORKS = ("tanh", "tanh with batch norm")


def blurred(x: Tensor) -> Tensor:
    """Blur square images by the weights 1-2-1 in both directions; the edge is repeated."""
    side = math.isqrt(x.shape[1])
    if side * side != x.shape[1]:
        raise ValueError(f"images of {x.shape[1]} pixels are not square, so they cannot be blurred; use a set of square images")
    line = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype)
    padded = F.pad(x.view(-1, 1, side, side), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, (line[:, None] * line)[None, None]).reshape(x.shape)


def ascend(mlp: jac.MLP, regulariser: Regulariser, steps: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Climb for every class at once, from a grey image."""
    x, classes = torch.full((mlp.P, mlp.D), 0.5), torch.eye(mlp.P)
    yield 0, x, mlp(x)
    for step in range(1, steps + 1):
        row = jac.vjp(mlp, x, classes)  # row c of the Jacobian at image c
        if not bool(torch.isfinite(row).all()):
            raise ArithmeticError(f"the Jacobian at step {step} of the ascent is not finite: {training.first_layer_not_finite(mlp, x)}")
        x = (x + STRIDE * row / row.norm(dim=1, keepdim=True).clamp_min(1e-12)) * (1 - regulariser.decay)
        if regulariser.blur and step % BLUR_EVERY == 0:
            x = blurred(x)
        x = x.clamp(0, 1)
        yield step, x, mlp(x)


def classifier(name: str, parts: data.Split, options: Options, place: int) -> jac.MLP:
    train, epochs = parts.train, options.epochs or EPOCHS
    widths = training.sizes_of(train, HIDDEN)
    norms = name.endswith("norm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        layers: list[nn.Module] = []
        for fan_in, out in pairwise(widths[:-1]):
            layers += [nn.Linear(fan_in, out), *([nn.BatchNorm1d(out)] if norms else []), nn.Tanh()]
        module = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1])).requires_grad_(False)
    optimizer, generator = Momentum(module, RATE), torch.Generator().manual_seed(options.seed)
    step = 0
    for epoch in range(1, epochs + 1):
        for at in training.batches(len(train.x), min(BATCH, len(train.x)), generator):
            if len(at) > 1 or not norms:
                found = jac.module_gradient(module, train.x[at], train.target[at], "cross_entropy")
                if not math.isfinite(float(found.loss)):
                    raise ArithmeticError(f"the loss of the classifier at step {step} is {float(found.loss)}; take a smaller rate")
                optimizer.step(found)
                step += 1
        options.report((place + epoch / (epochs + 1)) / len(NETWORKS))
    return jac.MLP.from_torch(module.eval())


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    name, whole = data.load(options.data, SETS, options.data_dir)
    parts = data.split(whole, options.seed)
    for place, network in enumerate(NETWORKS):
        mlp = classifier(network, parts, options, place)
        _, right = training.evaluate(mlp, parts.test)
        for regulariser in REGULARISERS:
            path = list(ascend(mlp, regulariser, STEPS))
            for step, _, scores in path[::5]:
                own = scores.softmax(1).diagonal()
                for at, label in enumerate(whole.names):
                    row: Row = {"network": network, "regulariser": regulariser.name, "class": label, "step": step}
                    yield "image-ascent-curves", {**row, "probability": float(own[at])}
            _, x, scores = path[-1]
            smooth = (x - blurred(x)).norm(dim=1) / x.norm(dim=1).clamp_min(1e-12)
            for at, label in enumerate(whole.names):
                row = {"data": name, "network": network, "test_accuracy": right, "regulariser": regulariser.name, "class": label}
                found = {"probability": float(scores.softmax(1)[at, at]), "roughness": float(smooth[at]), "pixels": data.as_hex(x[at])}
                yield "image-ascent", {**row, **found}


def _conclude(tables: Tables) -> str:
    rows = tables["image-ascent"]
    parts = []
    for network in NETWORKS:
        own = where(rows, network=network)
        lowest = min(column(own, "probability"))
        rough = ", ".join(
            f"{one.name} {statistics.fmean(column(where(own, regulariser=one.name), 'roughness')):.2f}" for one in REGULARISERS
        )
        parts.append(
            f"{network} (right on {100 * float(own[0]['test_accuracy']):.1f} % of the tests): after {STEPS} steps every image is taken "
            f"for its class with a probability of at least {lowest:.2f}; share of an image that a blur takes away: {rough}"
        )
    return f"On {rows[0]['data']}, {'; '.join(parts)}."


register(
    Study(
        "image-ascent",
        "Images that a classifier takes for a class",
        "What does ascent along a row of the Jacobian make a classifier see?",
        {
            "image-ascent": ("data", "network", "test_accuracy", "regulariser", "class", "probability", "roughness", "pixels"),
            "image-ascent-curves": ("network", "regulariser", "class", "step", "probability"),
        },
        _rows,
        _conclude,
        SETS,
    )
)

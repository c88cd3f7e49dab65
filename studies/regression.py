"""Regression with one hidden tanh layer and squared errors, as an exercise trains it: with its first layer fixed by mistake, and trained.

The exercise gives Adam the parameters before it replaces the first matrix, so that this one stays at its first draw. Both ways start
from the same weights here and see the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import jacobians as jac
from studies import data, training
from studies.study import Options, Row, Study, Tables, column, register, where

HIDDEN, BATCH, RATE, PATIENCE = 20, 64, 1e-3, 5
EPOCHS, UPDATES = 40, 162  # an epoch is as many updates as half of California housing has batches; smaller sets are seen more often
SEEDS = 5
SETS = ("diabetes", "california-housing")
UNITS = {"diabetes": 100.0}  # of the target, which is of the size 1 to 3 then, as California's is in 100,000 dollars
LAYERS = ("fixed", "trained")  # W_1
PARTS = ("train_mse", "validation_mse", "test_mse")
WIDTHS, SAMPLES = (10, 20, 1), 100  # of the gradients that are compared


def standardised(x: Tensor) -> Tensor:
    """Shift and scale features to mean 0 and variance 1; a constant one becomes zero.

    Example:
        >>> standardised(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        tensor([[-1.,  0.],
                [ 1.,  0.]])
    """
    deviation = x.std(0, unbiased=False)
    return (x - x.mean(0)) / torch.where(deviation > 0, deviation, 1.0)


def halves(count: int) -> tuple[Tensor, Tensor]:
    """Cut samples into training and tests as scikit-learn's `train_test_split(test_size=0.5, random_state=42)` does."""
    order, tests = torch.as_tensor(np.random.RandomState(42).permutation(count)), math.ceil(count / 2)
    return order[tests:], order[:tests]


def network(widths: Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> jac.MLP:
    """Draw Xavier uniform weights, with biases of zero."""
    weights = training.draw(widths, training.xavier_uniform, seed)
    return jac.MLP([W.to(dtype) for W in weights], [torch.zeros(width, dtype=dtype) for width in widths[1:]])


def _of_views(vector: Tensor, mlp: jac.MLP) -> jac.MLP:
    shapes = [p.shape for p in mlp.parameters()]
    views = [part.view(shape) for part, shape in zip(vector.split([shape.numel() for shape in shapes]), shapes, strict=True)]
    return jac.MLP(views[::2], views[1::2])


def train(first_layer: str, train: data.DataSet, epochs: int, seed: int, held: Sequence[data.DataSet]) -> Iterator[tuple[jac.MLP, Row]]:
    """Train by Adam on gradients by hand; the rate is halved where the loss on the first set held out stalls."""
    mlp = network((train.x.shape[1], HIDDEN, 1), seed)
    first = mlp.weights[0].numel()
    vector = torch.cat(
        [p.flatten() for p in mlp.parameters()]
    )  # all parameters, of which the network gets views: one tensor is quick to update
    mlp = _of_views(vector, mlp)
    trained = vector[first:] if first_layer == "fixed" else vector
    adam = torch.optim.Adam([trained], lr=RATE)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.5, patience=PATIENCE)
    order = training.passes(len(train.x), BATCH, torch.Generator().manual_seed(seed))
    for epoch in range(1, epochs + 1):
        losses = []
        for at in islice(order, UPDATES):
            g = jac.gradient(mlp, train.x[at], train.target[at], "mse")
            trained.grad = torch.cat([derivative.flatten() for derivative in g.parameters()])[-len(trained) :]
            losses.append(float(g.loss))
            if not math.isfinite(losses[-1]):
                where = training.first_layer_not_finite(mlp, train.x[at])
                raise ArithmeticError(f"the loss at step {(epoch - 1) * UPDATES + len(losses)} is {losses[-1]}: {where}")
            adam.step()
        errors = [training.mean_over_batches((mlp(part.x) - part.target).square(), BATCH) for part in held]
        plateau.step(errors[0])
        found = dict(zip(PARTS, (sum(losses) / len(losses), *errors), strict=True))
        yield mlp, {"epoch": epoch, "updates": epoch * UPDATES, **found, "rate": adam.param_groups[0]["lr"]}


def differences(loss: str, dtype: torch.dtype, seed: int) -> Iterator[tuple[str, float]]:
    """Compare the gradient by hand with autograd's: the 2-norm of the difference, parameter by parameter."""
    generator = torch.Generator().manual_seed(seed)
    x, target = (torch.randn(SAMPLES, width, generator=generator, dtype=dtype) for width in (WIDTHS[0], WIDTHS[-1]))
    mlp = jac.MLP.random(widths=WIDTHS, bias=True, dtype=dtype, seed=seed)
    parameters = [p.clone().requires_grad_() for p in mlp.parameters()]
    value = {"l1": F.l1_loss, "mse": F.mse_loss}[loss](jac.MLP(parameters[::2], parameters[1::2])(x), target)
    by_hand, by_autograd = jac.gradient(mlp, x, target, loss).parameters(), torch.autograd.grad(value, parameters)
    for name, a, b in zip(("W1", "b1", "W2", "b2"), by_hand, by_autograd, strict=True):
        yield name, float((a - b).norm())


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    name, whole = data.load(options.data, SETS, options.data_dir)
    if len(whole.x) < 2:
        raise ValueError(f"a study needs samples for training and for tests, got {len(whole.x)} in all; take a larger set")
    x, target = standardised(whole.x), whole.target / UNITS.get(name, 1.0)
    own, tests = halves(len(x))
    epochs, seeds = options.epochs or EPOCHS, range(options.seed, options.seed + SEEDS)
    constant = float((target[tests] - target[own].mean()).square().mean())
    for number, seed in enumerate(seeds):
        some = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))[: math.ceil(len(own) / 5)]]
        parts = [data.DataSet(x[at], target[at], whole.names) for at in (own, some, tests)]  # the validation samples stay in training
        for place, layer in enumerate(LAYERS):
            row: Row = {}
            for _, row in train(layer, parts[0], epochs, seed, parts[1:]):
                yield "regression-curves", {"data": name, "first_layer": layer, "seed": seed, **row}
                options.report((number + (place + float(row["epoch"]) / epochs) / len(LAYERS)) / len(seeds))
            yield "regression", {"data": name, "first_layer": layer, "seed": seed, **row, "test_mse_of_the_mean": constant}
    for loss in ("l1", "mse"):
        for dtype in (torch.float32, torch.float64):
            for seed in seeds:
                for parameter, norm in differences(loss, dtype, seed):
                    kind = str(dtype).removeprefix("torch.")
                    yield (
                        "regression-gradient",
                        {"loss": loss, "dtype": kind, "seed": seed, "parameter": parameter, "difference_norm": norm},
                    )


def spread(rows: Sequence[Row], first_layer: str, name: str = "test_mse") -> tuple[float, float, float]:
    """Return the median over seeds of an error at the end, the least and the largest."""
    values = sorted(column(where(rows, first_layer=first_layer), name))
    return values[len(values) // 2], values[0], values[-1]


def _conclude(tables: Tables) -> str:
    rows, (row, *_) = tables["regression"], tables["regression"]
    fixed, trained = (spread(rows, layer) for layer in LAYERS)
    gradients = tables["regression-gradient"]
    norms = {dtype: max(column(where(gradients, dtype=dtype), "difference_norm")) for dtype in ("float32", "float64")}
    halved = sum(float(r["rate"]) < RATE for r in rows)
    ends = [f"{middle:.3g} ({low:.3g} to {high:.3g})" for middle, low, high in (fixed, trained)]
    return (
        f"On {row['data']} the mean squared error on the tests after {float(row['updates']):g} updates is {ends[0]} with the first layer "
        f"fixed and {ends[1]} with it trained, over {len(rows) // 2} seeds; on the training samples "
        f"{' and '.join(f'{spread(rows, layer, PARTS[0])[0]:.3g}' for layer in LAYERS)}, and for the mean of the training targets "
        f"{float(row['test_mse_of_the_mean']):.3g}. The rate was halved in {halved} of {len(rows)} runs. Gradients by hand, of absolute "
        f"and of squared errors, are autograd's within a norm of {norms['float32']:.0e} in float32 and {norms['float64']:.0e} in float64."
    )


register(
    Study(
        "regression",
        "Regression with a first layer fixed by mistake",
        "What does a small tanh network learn, what did a first layer that was never trained cost, and is the gradient by hand autograd's?",
        {
            "regression": ("data", "first_layer", "seed", "epoch", "updates", *PARTS, "rate", "test_mse_of_the_mean"),
            "regression-curves": ("data", "first_layer", "seed", "epoch", "updates", *PARTS, "rate"),
            "regression-gradient": ("loss", "dtype", "seed", "parameter", "difference_norm"),
        },
        _rows,
        _conclude,
        SETS,
    )
)

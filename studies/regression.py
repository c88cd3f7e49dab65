"""Regression with one hidden tanh layer and absolute errors: the gradient by hand beside autograd, and curves of training."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import jacobians as jac
from studies import data, training
from studies.study import Options, Row, Study, register

HIDDEN, BATCH, RATE, EPOCHS = 32, 32, 0.05, 41
SETS = ("diabetes", "california-housing")
PUBLISHED = 0.507  # mean absolute error on the tests of California housing, in units of 100,000 dollars, after 41 epochs
LOSS = jac.Loss("l1")


def standardised(part: data.DataSet, train: data.DataSet) -> data.DataSet:
    """Shift and scale the features by the mean and deviation of the training samples; a constant feature becomes zero.

    Example:
        >>> one = data.DataSet(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.zeros(2, 1), ("a", "constant"))
        >>> standardised(one, one).x
        tensor([[-1.,  0.],
                [ 1.,  0.]])
    """
    deviation = train.x.std(0, unbiased=False)
    return part._replace(x=(part.x - train.x.mean(0)) / torch.where(deviation > 0, deviation, 1.0))


def difference_to_autograd(mlp: jac.MLP, x: Tensor, target: Tensor) -> float:
    """Compare the gradient by hand with autograd's, in float64."""
    exact = mlp.to(dtype=torch.float64)
    by_hand = jac.gradient(exact, x.double(), target.double(), LOSS)
    parameters = [p.clone().requires_grad_() for p in exact.parameters()]
    net = jac.MLP(parameters[::2], parameters[1::2])
    by_autograd = torch.autograd.grad(F.l1_loss(net(x.double()), target.double()), parameters)
    largest = max(1e-300, *(float(g.abs().max()) for g in by_autograd))  # zero where every target is met
    return max(float((a - b).abs().max()) for a, b in zip(by_hand.parameters(), by_autograd, strict=True)) / largest


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    name, whole = data.load(options.data, SETS, options.data_dir)
    raw = data.split(whole, options.seed, validation=0.25)
    # Targets in units of their deviation, so that one rate serves every set; errors are told in the units of the data.
    centre, scale = raw.train.target.median(), raw.train.target.std(unbiased=False)
    scale = scale if float(scale) > 0 else torch.tensor(1.0)
    parts = [standardised(part, raw.train)._replace(target=(part.target - centre) / scale) for part in raw]
    train = parts[0]
    widths = (train.x.shape[1], HIDDEN, 1)
    mlp = jac.MLP(
        training.draw(widths, lambda out, fan_in, g: math.sqrt(1 / fan_in) * torch.randn(out, fan_in, generator=g), options.seed),
        [torch.zeros(width) for width in widths[1:]],
    )

    def errors() -> Row:
        found = [float(LOSS.value(mlp(part.x), part.target)) * float(scale) if len(part.x) else math.nan for part in parts]
        return dict(zip(("train", "validation", "test"), found, strict=True))

    epochs, sgd, generator = options.epochs or EPOCHS, jac.SGD(mlp, lr=RATE), torch.Generator().manual_seed(options.seed)
    worst, step = difference_to_autograd(mlp, train.x, train.target), 0
    yield "regression-curves", {"data": name, "epoch": 0, **errors()}
    for number in range(1, epochs + 1):
        order = list(training.batches(len(train.x), BATCH, generator))
        training.epoch(sgd, train, LOSS, order, step)
        step += len(order)
        worst = max(worst, difference_to_autograd(mlp, train.x, train.target))
        options.report(number / epochs)
        yield "regression-curves", {"data": name, "epoch": number, **errors()}
    constant = float((raw.test.target - centre).abs().mean())
    row: Row = {"data": name, "epochs": epochs, "test": errors()["test"], "test_of_the_median": constant, "worst_difference": worst}
    yield "regression", {**row, "published": PUBLISHED if name == "california-housing" else math.nan}


def _conclude(tables: dict[str, list[Row]]) -> str:
    (row,) = tables["regression"]
    published = f"; published {PUBLISHED}" if float(row["published"]) == PUBLISHED else ""
    return (
        f"The gradient by hand is autograd's within {float(row['worst_difference']):.0e} at every epoch. On {row['data']} the mean "
        f"absolute error on the tests is {float(row['test']):.3g} after {float(row['epochs']):g} epochs, and "
        f"{float(row['test_of_the_median']):.3g} for the median of the training targets{published}."
    )


register(
    Study(
        "regression",
        "Regression with absolute errors",
        "Is the gradient by hand autograd's, at kinks of the loss too, and what does a small tanh network learn with it?",
        {
            "regression": ("data", "epochs", "test", "test_of_the_median", "worst_difference", "published"),
            "regression-curves": ("data", "epoch", "train", "validation", "test"),
        },
        _rows,
        _conclude,
        SETS,
    )
)

"""What a classifier says of three test samples: their pictures, and the probability of each class at some stages of its training."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from studies.data import TEST_IMAGES, DataSet, as_hex
from studies.study import Row

SAMPLES = (3638, 5139, 9269)  # of 10,000 tests: those of the exercise, from 0
TABLES = {
    "from-scratch-probabilities": ("network", "data", "epoch", "sample", "class", "probability"),
    "from-scratch-samples": ("network", "data", "sample", "class", "pixels"),
}


def places(count: int) -> list[int]:
    """Choose the samples; of fewer tests those at the same shares.

    Example:
        >>> places(10_000), places(100)
        ([3638, 5139, 9269], [36, 51, 92])
    """
    return list(dict.fromkeys(place * count // TEST_IMAGES for place in SAMPLES))


def pictures(network: str, name: str, part: DataSet) -> Iterator[tuple[str, Row]]:
    """Write the pictures, pixels as hexadecimal bytes."""
    for at in places(len(part.x)):
        label = part.names[int(part.target[at])]
        yield "from-scratch-samples", {"network": network, "data": name, "sample": at, "class": label, "pixels": as_hex(part.x[at])}


def answers(network: str, name: str, epoch: int, mlp: Callable[[Tensor], Tensor], part: DataSet) -> Iterator[tuple[str, Row]]:
    """Write the probability of each class."""
    chosen = places(len(part.x))
    with torch.no_grad():
        shares = torch.softmax(mlp(part.x[chosen]), 1)
    for at, row_of in zip(chosen, shares.tolist(), strict=True):
        for label, probability in zip(part.names, row_of, strict=True):
            row: Row = {"network": network, "data": name, "epoch": epoch, "sample": at, "class": label}
            yield "from-scratch-probabilities", {**row, "probability": probability}

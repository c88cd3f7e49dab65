"""Several networks as one: their results behind each other, along a first axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jacobians.network.from_torch import network_of
from jacobians.network.mlp import MLP


class Stack:
    """Networks of one input and output width, as an ensemble: see `MLP.stack`."""

    def __init__(self, networks: Sequence[MLP | nn.Module]) -> None:
        self.networks = tuple(MLP.from_torch(net) if isinstance(net, nn.Module) else network_of(net) for net in networks)
        kinds = {(net.D, net.P, net.dtype, net.device) for net in self.networks}
        if len(kinds) != 1:
            found = "; ".join(f"{D} to {P}, {dtype}, {device}" for D, P, dtype, device in sorted(kinds, key=str)) or "none"
            raise ValueError(f"stacked networks must have the same input and output width, dtype and device, got {found}")

    def parameters(self) -> Iterator[Tensor]:
        """Iterate over the parameters of all networks, one network after the other."""
        for net in self.networks:
            yield from net.parameters()

    def each(self, compute: Callable[[MLP], Any]) -> Any:
        """Compute with each network, and stack the results."""
        return _stacked([compute(net) for net in self.networks])

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate all networks: (E, …, P)."""
        return self.each(lambda net: net(x))

    def __len__(self) -> int:
        return len(self.networks)

    def __repr__(self) -> str:
        """Show the first network and how many there are."""
        return f"Stack({len(self)} x {self.networks[0]!r})"


def _stacked(results: Sequence[Any]) -> Any:
    return torch.stack(list(results)) if isinstance(results[0], Tensor) else tuple(map(_stacked, zip(*results, strict=True)))

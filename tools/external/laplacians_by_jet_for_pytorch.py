"""Laplacians by jet-for-pytorch 1.0.0, which needs Python 3.12: run this file alone, in an environment of its own.

    python3.12 -m venv jet
    jet/bin/pip install jet-for-pytorch==1.0.0 numpy
    jet/bin/python tools/external/laplacians_by_jet_for_pytorch.py

The networks are those of the sweeps `laplacian` and `laplacian-training`, with weights of the same distribution: `jet.laplacian` in
collapsed mode, under `vmap` for the batch; the median of 15 calls after two that trace and warm up. A training step is the gradient of the
mean squared Laplacian by autograd through it.
"""

# pyright: basic
from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch

SHAPES = [((3, 64, 64, 64, 64, 64, 1), 4096), ((30, 64, 64, 64, 64, 64, 1), 512)]
CALLS = 15


def network(widths: tuple[int, ...]) -> torch.nn.Sequential:
    """Draw a network with Xavier's weights."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for i, o in pairwise(widths):
        linear = torch.nn.Linear(i, o)
        torch.nn.init.normal_(linear.weight, std=math.sqrt(2 / (i + o)))
        layers += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def median(call: Callable[[], object]) -> float:
    """Time a call."""
    times = []
    for _ in range(CALLS + 2):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def main() -> None:
    """Measure both shapes and print a table."""
    import jet  # pyright: ignore[reportMissingImports]

    for widths, N in SHAPES:
        net, x = network(widths), torch.randn(N, widths[0])
        each = torch.func.vmap(jet.laplacian(net, (x[0],)))
        exact = torch.stack([torch.func.hessian(lambda x, net=net: net(x)[0])(one).trace() for one in x[:4]])
        torch.testing.assert_close(each(x[:4])[:, 0], exact, rtol=1e-3, atol=1e-4)
        parameters = list(net.parameters())

        def value(each: Callable[..., torch.Tensor] = each, x: torch.Tensor = x) -> None:
            with torch.no_grad():
                each(x)

        def step(each: Callable[..., torch.Tensor] = each, x: torch.Tensor = x, parameters: list[torch.nn.Parameter] = parameters) -> None:
            torch.autograd.grad(each(x).square().mean(), parameters, allow_unused=True)

        print(f"{'-'.join(map(str, widths))} N={N}: Laplacian {median(value) * 1e3:.2f} ms, training step {median(step) * 1e3:.1f} ms")


if __name__ == "__main__":
    main()

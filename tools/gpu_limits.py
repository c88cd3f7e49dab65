"""Limits of the Triton kernels on a card, by the roofline of its data sheet. Predicted; `make gpu` measures."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from benchmarks.analysis.tables import duration
from jacobians.planning.cost import cost
from jacobians.planning.registry import JACOBIAN
from jacobians.problem import Problem
from tools.cuda_resources import SHAPES

GRAPH_LAUNCH_S = 1.4e-6  # of a kernel in a CUDA graph, measured on an H100
LAUNCH_S = 7.75e-6  # of a kernel that follows another, measured on an H100 with PyTorch: no card's data sheet says it
PARTS = 3  # products of float32 numbers on the matrix units: three of tf32


class Card(NamedTuple):
    """A card by its data sheet: bytes/s of its memory, and operations/s of its matrix units in tf32, dense."""

    name: str
    bandwidth: float
    tf32: float


# NVIDIA's data sheets of the SXM cards. Rates with structured sparsity, twice as high, are for other matrices than these.
CARDS = (
    Card("A100 80 GB", 2.039e12, 156e12),
    Card("H100", 3.35e12, 494.7e12),
    Card("H200", 4.8e12, 494.7e12),
    Card("B200", 7.7e12, 1.13e15),
)


class Limit(NamedTuple):
    """The least time of a call, and what it is spent on: `launch`, `launches`, `memory` or `matrix units`."""

    seconds: float
    by: str


def limit(kind: str, problem: Problem, card: Card) -> Limit:
    """Predict the least time of a kernel.

    Args:
        kind: `"forward"`, `"reverse"`, or the quantity where that is another than the Jacobian.
        problem: The problem.
        card: The card.

    Returns:
        The largest of launch, memory and matrix units.

    Example:
        >>> limit("forward", Problem(widths=(2, 30, 10)), CARDS[1])
        Limit(seconds=7.75e-06, by='launch')
    """
    work = cost(problem, {"laplacian": "forward", "gradient": "reverse", "jacobian_gradient": "forward"}.get(kind, kind))
    times = {"launch": LAUNCH_S, "memory": work.bytes / card.bandwidth, "matrix units": PARTS * work.flops / card.tf32}
    by = max(times, key=lambda name: times[name])
    return Limit(times[by], by)


WIDE = (("forward", Problem(widths=(1, *[1000] * 10, 1))), ("reverse", Problem(widths=(1000, *[1000] * 10, 1))))


def limit_of_layers(mode: str, problem: Problem, card: Card) -> Limit:
    """Predict the least time of a call that launches a kernel a layer, in a CUDA graph: each way reads all weights.

    Args:
        mode: `"forward"` or `"reverse"`.
        problem: The problem.
        card: The card.

    Returns:
        The larger of the launches and memory.

    Example:
        >>> limit_of_layers("forward", WIDE[0][1], CARDS[0]).by
        'memory'
    """
    ways = 1 if mode == "forward" else 2
    read = ways * problem.itemsize * sum(i * o for i, o in pairwise(problem.widths))
    times = {"launches": GRAPH_LAUNCH_S * ways * (problem.L + 1), "memory": read / card.bandwidth}
    by = max(times, key=lambda name: times[name])
    return Limit(times[by], by)


def table() -> str:
    """Write the limits of the kernels on the cards.

    Returns:
        Markdown.
    """
    lines = [f"| kernel | shape | {' | '.join(card.name for card in CARDS)} |", "|---" * (2 + len(CARDS)) + "|"]
    for kind, problem in SHAPES:
        described = problem.with_(quantity=JACOBIAN if kind in {"forward", "reverse"} else kind)
        found = [limit(kind, described, card) for card in CARDS]
        cells = " | ".join(f"{duration(one.seconds)}, {one.by}" for one in found)
        lines.append(f"| {kind} | {'-'.join(map(str, problem.widths))}, N={problem.N} | {cells} |")
    for mode, problem in WIDE:
        found = [limit_of_layers(mode, problem, card) for card in CARDS]
        cells = " | ".join(f"{duration(one.seconds)}, {one.by}" for one in found)
        lines.append(f"| {mode}, a launch a layer | {'-'.join(map(str, problem.widths))}, N=1 | {cells} |")
    return "\n".join(lines)

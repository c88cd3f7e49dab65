"""Forward and reverse mode under a bound of memory: a few samples, columns or rows of J at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from jacobians.modes.forward import forward
from jacobians.modes.reverse import reverse
from jacobians.network.mlp import MLP
from jacobians.problem import Problem

ALLOCATOR = 1.4  # blocks that were freed are not always the ones that are taken next
LIBRARY_BYTES = 8 * 2**20  # what the matrix library packs its operands into, and keeps; measured up to 5.7 MB on two threads


class Chunks(NamedTuple):
    """The size of a chunk."""

    samples: int
    seeds: int  # columns of J in forward mode, rows in reverse mode
    bytes: int  # memory that it takes at most, beyond J itself


def working_bytes(problem: Problem, mode: str, samples: int, seeds: int) -> int:
    """Bound the memory of a mode for some samples and seeds, beyond the J that is filled.

    Forward mode holds two layers of values and of tangents, reverse mode the tape and two layers of cotangents; either also the piece
    of J it has computed.

    Example:
        >>> p = Problem(widths=(1000, 1000, 10), batch=64)
        >>> working_bytes(p, "reverse", 64, 10) > 4 * 64 * 10 * 1000
        True
    """
    widths = problem.widths
    pairs = list(pairwise(widths[1:] if mode == "forward" else widths[:-1])) or [(widths[0], widths[-1])]
    carried = max(a + b for a, b in pairs)
    piece = problem.P if mode == "forward" else problem.D
    values = 3 * max(widths) + (0 if mode == "forward" else 2 * sum(widths[1:]))
    first = max(widths[1], widths[-2])  # the scaled first factor, before anything is multiplied
    return LIBRARY_BYTES + int(ALLOCATOR * problem.itemsize * samples * (values + seeds * (carried + piece + first)))


def layout(problem: Problem, mode: str, most_bytes: int) -> Chunks:
    """Find the largest chunks within a bound: samples are cut first, then columns or rows."""
    seeds = problem.D if mode == "forward" else problem.P
    per_sample = working_bytes(problem, mode, 1, seeds) - LIBRARY_BYTES
    if LIBRARY_BYTES + per_sample <= most_bytes:
        samples = max(1, min(problem.N, (most_bytes - LIBRARY_BYTES) // per_sample))
        return Chunks(samples, seeds, LIBRARY_BYTES + samples * per_sample)
    fixed = working_bytes(problem, mode, 1, 0)
    each = working_bytes(problem, mode, 1, 1) - fixed
    few = (most_bytes - fixed) // each
    if few < 1:
        raise ValueError(f"max_bytes={most_bytes} bytes is too little for {mode} mode on this network; it needs at least {fixed + each}")
    return Chunks(1, few, fixed + few * each)


def chunked(mlp: MLP, x: Tensor, problem: Problem, mode: str, most_bytes: int) -> Tensor:
    """Compute J piece by piece."""
    chunks = layout(problem, mode, most_bytes)
    J = x.new_empty((problem.N, problem.P, problem.D))
    batch = x.reshape(-1, problem.D)
    for n in range(0, problem.N, chunks.samples):
        some = batch[n : n + chunks.samples]
        for seed in range(0, problem.D if mode == "forward" else problem.P, chunks.seeds):
            piece = slice(seed, seed + chunks.seeds)
            if mode == "forward":
                J[n : n + chunks.samples, :, piece] = forward(mlp, some, columns=piece)[1]
            else:
                J[n : n + chunks.samples, piece] = reverse(_with_rows(mlp, piece), some)[1]
    return J.reshape(problem.jacobian_shape)


def _with_rows(mlp: MLP, rows: slice) -> MLP:
    """Return the network of some outputs; its Jacobian is those rows."""
    last = mlp.biases[-1]
    weights, biases = (*mlp.weights[:-1], mlp.weights[-1][rows]), (*mlp.biases[:-1], None if last is None else last[rows])
    return MLP(weights, biases, mlp.activations[:-1], mlp.activations[-1])

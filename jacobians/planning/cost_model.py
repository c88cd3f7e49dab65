"""Predicted times: operations over the machine's rates, plus what calls cost. Pure arithmetic.

A prediction only has to put the methods of one problem in the right order. It knows four things about our kernels: how many bytes of
weights they stream, how many operations they do on vectors padded to full registers, how many rows they sum up, and how many calls
of the interpreter or layers of a network they go through. The constants below are of that kind and were fitted on one machine; the
rates come from `machine.Ceilings`.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from jacobians.kernels.cuda.blocks import SUMMED, cut_for
from jacobians.kernels.native import program
from jacobians.planning.cost import cost
from jacobians.planning.machine import Ceilings
from jacobians.planning.registry import JACOBIAN, Cost
from jacobians.problem import Problem

NATIVE_CALL = 5.0  # of a torch operation's: checks, addresses, the foreign call
EAGER_CALL = 3.0  # operations in sequence find each other's results cold
# On a GPU, fitted on the committed rows of an H100, whose operation with its wait takes 13 µs.
GPU_CALL = 1.5  # of a torch operation's with its wait: one that follows others
GRAPH_START, GRAPH_CALL, GRAPH_BATCH_CALL = 3.0, 0.115, 0.17  # copies in and out of a graph; an operation of a replayed one
GPU_PASSES = 6  # of what a layer carries, through the memory of a GPU
GPU_OPERATIONS = {"laplacian": 18, "hessian": 18}  # per layer, where it is not 6 to 8
TRITON_START = 3.5  # the launch, and what Python does before it
TRITON_LAYER_S, TRITON_TILE_S = 5.5e-6, 1e-6  # of a block: a layer, and a tile of inputs or outputs beyond the registers
TRITON_AT_ONCE = 264  # blocks: two on each multiprocessor of an H100
EAGER_OPERATIONS = {"forward": 6, "reverse": 6, "mixed": 7}  # per layer
ROW_S = 2.5e-9  # of summing up the lanes of one row
LAYER_S = 0.4e-6  # of two threads meeting after a layer
NUMBER_S = 0.4e-9  # of a number that is scaled, moved or activated
EFFICIENCY = 0.85  # of the ceiling of products
LARGE_BYTES = 2**22  # of weights, beyond which they pass through memory in each product
LARGE_EFFICIENCY = 0.65  # of ours there
WIDE_EFFICIENCY = 0.95  # of products of a library, of matrices that fill the second cache
TWO_CALLS = 4 / 3  # of the operations of a gradient through J: the way back computes what the Jacobian had, once more
EAGER_EFFICIENCY = 0.6  # where every product is a call, and every scaling a pass through memory


def estimate(problem: Problem, mode: str, implementation: str, ceilings: Ceilings, threads: int | None = None) -> float:
    """Predict the time of a method."""
    return _estimate(problem, mode, implementation, ceilings, threads or torch.get_num_threads())


@lru_cache(maxsize=4096)
def _estimate(problem: Problem, mode: str, implementation: str, ceilings: Ceilings, threads: int) -> float:
    if implementation == "native" and problem.quantity == JACOBIAN:
        return _native(problem, mode, ceilings, threads)
    if implementation == "triton":
        return _triton(problem, mode, ceilings)
    if implementation == "triton-graph":
        return _layers(problem, mode, ceilings)
    work = cost(problem, mode)
    if implementation == "native":
        if problem.quantity == "jacobian_gradient" and mode != "fused":
            work = Cost(int(TWO_CALLS * work.flops), work.bytes)
        return _native_parameters(problem, work, ceilings, threads)
    start, each = 0.0, EAGER_CALL
    operations, carried = EAGER_OPERATIONS.get(mode, 8), 0.0
    if problem.device != "cpu":
        of_graph = GRAPH_CALL if problem.batch is None else GRAPH_BATCH_CALL
        start, each = (GRAPH_START, of_graph) if implementation == "cuda-graph" else (0.0, GPU_CALL)
        operations = GPU_OPERATIONS.get(problem.quantity, operations)
        streams = problem.D if mode == "forward" else problem.P
        carried = float(GPU_PASSES * problem.itemsize * problem.N * sum(problem.widths[1:-1]) * (1 + streams))
    efficiency = EAGER_EFFICIENCY
    if problem.quantity in IN_BLOCKS and _wide(problem):
        efficiency = WIDE_EFFICIENCY
    calls = (start + operations * (problem.L + 1) * each) * ceilings.call_s + carried / ceilings.bandwidth(carried)
    passes = 1 if mode == "forward" else 2  # of the weights: what is pulled back reads them again
    return calls + work.flops / _rate(problem, ceilings, efficiency) + passes * work.bytes / ceilings.bandwidth(work.bytes)


# What is computed in blocks of whole vectors of samples, also where there is one sample alone.
IN_BLOCKS = {"derivatives", "laplacian", "hessian", "jacobian_gradient", "laplacian_gradient"}


def _triton(problem: Problem, mode: str, ceilings: Ceilings) -> float:
    """Follow the kernels in Triton: waves of blocks, each a sequence of layers, and of tiles where inputs or outputs are many."""
    cut = cut_for(problem, mode if problem.quantity == JACOBIAN else problem.quantity)
    blocks = -(-problem.N // cut.samples)
    tiles = -(-problem.P // 32) if mode == "forward" else -(-problem.D // 16) + -(-problem.D // 32)
    if problem.quantity in SUMMED:  # there, back, and the products of both: not yet seen on a card
        return TRITON_START * ceilings.call_s + max(1.0, blocks / TRITON_AT_ONCE) * 3 * (TRITON_LAYER_S * problem.L + TRITON_TILE_S * tiles)
    if mode == "reverse":
        blocks *= -(-problem.P // cut.streams)
    waves = max(1.0, blocks / TRITON_AT_ONCE)
    written = problem.itemsize * problem.N * problem.P * problem.D
    block_s = TRITON_LAYER_S * problem.L + TRITON_TILE_S * tiles
    return TRITON_START * ceilings.call_s + waves * block_s + written / ceilings.bandwidth(written)


def _layers(problem: Problem, mode: str, ceilings: Ceilings) -> float:
    """Follow the kernels of wide networks: launches of a graph, and the weights read once for each way. Not yet seen on a card."""
    ways = 1 if mode == "forward" else 2
    read = float(ways * problem.itemsize * problem.weights)
    return (GRAPH_START + ways * (problem.L + 1) * GRAPH_CALL) * ceilings.call_s + read / ceilings.bandwidth(read)


def estimate_back(problem: Problem, implementation: str, ceilings: Ceilings, threads: int | None = None) -> float:
    """Predict the way back through a Jacobian or a Laplacian, of one that is to be differentiated."""
    through = {JACOBIAN: ("jacobian_gradient", "fused"), "laplacian": ("laplacian_gradient", "forward")}.get(problem.quantity)
    if through is None:
        return 0.0
    quantity, mode = through
    return estimate(problem.with_(quantity=quantity), mode, implementation, ceilings, threads)


def _native_parameters(problem: Problem, work: Cost, ceilings: Ceilings, threads: int) -> float:
    """Follow the kernels for parameters: a call, and the operations at a rate that falls where the weights fill memory."""
    if problem.quantity in IN_BLOCKS and problem.N:
        lanes = 64 // problem.itemsize
        work = Cost(work.flops * (-(-problem.N // lanes) * lanes) // problem.N, work.bytes)
        threads_used = min(threads, -(-problem.N // lanes))  # each takes blocks of its own
        rate = _rate(problem, ceilings, LARGE_EFFICIENCY if _wide(problem) else EFFICIENCY) * threads_used / max(1, threads)
        return NATIVE_CALL * ceilings.call_s + work.flops / rate + work.bytes / ceilings.bandwidth(work.bytes)
    stored = problem.itemsize * problem.weights
    used = threads if work.flops >= program.FEWEST_OPERATIONS else 1
    efficiency = EFFICIENCY if stored < LARGE_BYTES else LARGE_EFFICIENCY
    passes = 1 if problem.N == 1 else 0  # of weights that nothing but one sample uses
    return (
        NATIVE_CALL * ceilings.call_s
        + work.flops / (_rate(problem, ceilings, efficiency) * used / max(1, threads))
        + (1 + passes) * work.bytes / ceilings.bandwidth(work.bytes)
    )


def _wide(problem: Problem) -> bool:
    """Say whether the weights leave the second cache, where the products of a library for large matrices are best."""
    return problem.itemsize * problem.weights >= 2**20


def _rate(problem: Problem, ceilings: Ceilings, efficiency: float = EFFICIENCY) -> float:
    return efficiency * ceilings.gemm * 4 / max(4, problem.itemsize)


def _native(problem: Problem, mode: str, ceilings: Ceilings, most_threads: int) -> float:
    """Follow the techniques of `jacobians.kernels.native.runner`."""
    work = program.work_of(mode, problem, most_threads)
    widths, weights, N = problem.widths, problem.weights, problem.N
    threads = work.threads
    rate = _rate(problem, ceilings) * threads / max(1, most_threads)
    lanes = 64 // problem.itemsize
    stored = problem.itemsize * weights
    hidden = sum(widths[1:])
    seconds = NATIVE_CALL * ceilings.call_s + (LAYER_S * problem.L if threads > 1 else 0.0)
    output = problem.itemsize * N * problem.P * problem.D
    if work.blocks:
        mode = work.mode
        seeds = problem.D if mode == "forward" else problem.P
        samples = -(-N // lanes) * lanes if N <= 4 * lanes else -(-N // (4 * lanes)) * 4 * lanes
        first, last = widths[0] * widths[1], widths[-2] * widths[-1]
        chain = seeds * (weights - (first if mode == "forward" else last))
        carried = seeds * (hidden - problem.P) + 2 * hidden + problem.D + problem.P * problem.D
        return (
            seconds
            + 2 * samples * (weights + chain) / rate
            + samples * carried * NUMBER_S / 2 / threads
            + output / ceilings.bandwidth(output)
        )
    evaluations = N * (stored / ceilings.bandwidth(stored) * _share(stored, threads, most_threads))
    rows = N * hidden * (1 + work.tangents) * ROW_S / threads
    seconds += evaluations * (1 + work.tangents / 6) + rows + N * hidden * NUMBER_S / threads
    if work.cotangents:
        seconds += evaluations * (1 + (work.cotangents - 1) / 6)
    seconds += N * work.copied * NUMBER_S / 2 / threads
    for rows_, columns, inner in work.products:
        padded = -(-columns // lanes) * lanes
        seconds += N * (2 * rows_ * padded * inner / rate + (rows_ * padded + inner * padded) * NUMBER_S / 4 / threads)
    return seconds + output / ceilings.bandwidth(output)


def _share(working_set: int, threads: int, most: int) -> float:
    """One thread of several reads at its share of the rate from its own caches, and at more from memory shared by all."""
    if threads >= most:
        return 1.0
    return most / threads if working_set < 2**20 else 1.5

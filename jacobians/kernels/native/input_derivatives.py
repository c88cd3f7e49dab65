"""The C function of second order: `SecondOrder` of native.c, its sizes, and calls of it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from jacobians.kernels.native.compiler import library
from jacobians.kernels.native.program import FEWEST_OPERATIONS, Setting, leaves_cache, numbers, registers, settings_of
from jacobians.kernels.native.runner import addresses_of, done
from jacobians.problem import Problem
from jacobians.quantities.parameters import offsets

PUSH, HESSIAN, BACK_FORWARD, BACK_REVERSE = range(4)
# A block whose working set is larger is cut to half its samples, so that it stays in the second cache.
CACHED_BYTES = 2097152
MOST_SAMPLES = 64  # of a block
SLOTS, MOST_SLOTS, SUM_BYTES = 16, 64, 2**18


class SecondOrder(ctypes.Structure):
    """`SecondOrder` of native.c."""

    _fields_ = [
        ("layers", ctypes.c_int64),
        ("widths", ctypes.POINTER(ctypes.c_int64)),
        ("activation", ctypes.POINTER(Setting)),
        *((name, ctypes.POINTER(ctypes.c_int64)) for name in ("at_weight", "at_bias", "at_padded")),
        *((name, ctypes.c_int64) for name in ("numbers", "widest", "kind", "samples", "block", "laplacians", "keeps")),
        *((name, ctypes.c_int64) for name in ("parameters_padded", "work_of_thread", "kept_of_block", "slots")),
        ("penalty", ctypes.c_double),
    ]


class InputDerivatives:
    """Calls the C function for one kind of computation; where an output couples its neurons, for what stands before it.

    `PUSH` gives y, J and Laplacians, `BACK_FORWARD` takes cotangents of these to the parameters and x along tangents, `BACK_REVERSE`
    those of y and J along cotangents. A push that keeps leaves what the way back needs. With a penalty, the factor of the loss
    `Σ (J - target)²`, the way back begins at J itself. `lean` takes the fewest samples at a time, on one thread.
    """

    def __init__(
        self,
        problem: Problem,
        biased: Sequence[bool],
        kind: int,
        laplacians: int = 0,
        *,
        keeps: bool = False,
        penalty: float = 0.0,
        lean: bool = False,
    ) -> None:
        if problem.activations[-1].coupled:
            problem = problem.with_(output_activation="identity")
        widths = problem.widths
        panel, lanes = registers(problem.dtype)
        most = MOST_SAMPLES if leaves_cache(problem) else panel
        at_weight, at_bias, self.parameters = offsets(widths, biased)
        at_padded = [0, *accumulate(o * (-(-i // lanes) * lanes) + o for i, o in pairwise(widths))]
        layout = SecondOrder(
            problem.L + 1, numbers(widths), settings_of(problem), numbers(at_weight), numbers(at_bias), numbers(at_padded[:-1])
        )
        layout.numbers, layout.widest, layout.kind, layout.samples = sum(widths[1:]), max(widths), kind, problem.N
        layout.laplacians, layout.keeps, layout.penalty = laplacians, int(keeps), penalty
        self._layout, self._at = layout, ctypes.addressof(layout)
        threaded = not lean and problem.N * problem.weights * 6 >= FEWEST_OPERATIONS
        threads = torch.get_num_threads() if threaded else 1
        self._count = getattr(library(), f"second_order_numbers_{problem.dtype}")
        self._count.argtypes, self._count.restype = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p], ctypes.c_int64
        self._itemsize, self._what = problem.itemsize, f"derivatives at x of shape {problem.input_shape}"
        # The block of a push that keeps is that of the way back, whatever else they need.
        blocks = (lanes, 2 * lanes, *range(panel, most, panel))
        layout.block = lanes if lean else next((block for block in blocks if block * threads >= problem.N), most)
        while layout.block > 2 * lanes and most == panel and sum(self._sizes()) * problem.itemsize > CACHED_BYTES and not keeps:
            layout.block //= 2
        # Each thread takes blocks of its own: more threads than blocks would only be woken.
        self._most_threads = max(1, -(-problem.N // layout.block)) if threaded else 1
        working, layout.kept_of_block = self._sizes()
        layout.kept_of_block = -(-layout.kept_of_block // 16) * 16
        self.kept_numbers = -(-problem.N // layout.block) * layout.kept_of_block if keeps else 0
        layout.parameters_padded = -(-at_padded[-1] // 16) * 16 if kind in (BACK_FORWARD, BACK_REVERSE) else 0
        layout.work_of_thread = -(-working // 16) * 16
        # More slots than threads, for one of them may be held up; each has a sum of its own, which must stay small.
        many = 1 if lean else SLOTS if layout.parameters_padded * problem.itemsize <= SUM_BYTES else min(threads, MOST_SLOTS)
        layout.slots = max(1, min(-(-problem.N // layout.block), many))
        self._function = getattr(library(), f"second_order_{problem.dtype}")
        self._function.argtypes = [ctypes.c_void_p] * 7 + [ctypes.c_int]

    def _sizes(self) -> tuple[int, int]:
        """Return the numbers that a block takes of a thread's memory, and those that may be kept."""
        leaves = ctypes.c_int64()
        return self._count(self._at, self._layout.block, ctypes.addressof(leaves)), leaves.value

    @property
    def working_bytes(self) -> int:
        """Memory of a call beyond its result, on as many threads as it takes."""
        of_threads = self._layout.work_of_thread * min(self._most_threads, torch.get_num_threads())
        return self._itemsize * (self._layout.slots * self._layout.parameters_padded + of_threads)

    def __call__(
        self,
        weights: Any,
        biases: Any,
        x: Tensor,
        given: Sequence[Tensor | None],
        results: Sequence[Tensor | None],
        loss: Tensor | None = None,
    ) -> None:
        threads = min(self._most_threads, torch.get_num_threads())
        at_loss = None if loss is None else loss.data_ptr()
        status = self._function(self._at, weights, biases, x.data_ptr(), addresses_of(given), addresses_of(results), at_loss, threads)
        if status:
            done(status, self._what)


def along_tangents(problem: Problem) -> bool:
    """Say along what a Jacobian is pulled back: the fewer of its columns and rows, whatever it was computed along."""
    return problem.L == 0 or problem.D <= problem.P

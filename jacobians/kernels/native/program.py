"""The plan of a call: which technique serves a problem, its list of products, and the memory it needs.

Four techniques, chosen by shape:

- *vectors*: one sample with three tangents (forward) or four cotangents (reverse) at a time. Value and tangents are pushed together, so
  forward mode reads each weight once for three columns of J. Reverse mode reads each weight twice, and walks back over the rows in the
  opposite order on the same core, so that what the evaluation read last is read from that core's cache. Bound by memory. It is also
  the leanest technique, which serves a bound of memory (`lean`) whatever the number of tangents or cotangents.
- *products*: one sample with more. The chain is a list of matrix products, in the order of forward, reverse or mixed mode; slopes
  are multiplied in while a tile of the product is still in registers. Bound by arithmetic.
- *blocks*: a batch, 16 to 128 samples at a time, one sample a lane: all layers and all tangents or cotangents of a block before the
  next block, so that only weights, x and J pass through memory. Where weights leave the second cache, several tangents or cotangents
  go side by side.
- *sample by sample*: a batch whose per-sample products are large enough to fill the registers by themselves.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, product
from typing import Any, NamedTuple

import torch

from jacobians.kernels.native.compiler import library
from jacobians.modes.bracketing import Split, known_bracketing
from jacobians.network.activations import Activation
from jacobians.problem import Problem

TANGENTS, COTANGENTS, PRODUCTS, FORWARD_BLOCKS, REVERSE_BLOCKS = range(5)
EVALUATION = "evaluation"  # y alone
MOST_TANGENTS, MOST_COTANGENTS = 3, 4
MOST_PANEL = 64  # columns of a panel of the widest registers
MOST_SIDE = 128  # samples, tangents or cotangents side by side: twice as many leave the second cache
_SPARE_ROWS = 24
# One thread below this work: waking another costs about as much as it saves.
FEWEST_OPERATIONS, FEWEST_BYTES = 1_000_000, 500_000
WIDE_BYTES = 2**18
PASS_LANES = 32  # what a pass through weights beyond the cache takes, in lanes of arithmetic


class Step(ctypes.Structure):
    """`Step` of native.c."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ("rows", "columns", "inner", "a_weight", "a_buffer", "b_weight", "b_buffer", "c_buffer", "row_slope", "column_slope")
    ]


class Setting(ctypes.Structure):
    """`Activation` of native.c: the code that the library gave for a name, the settings in the order of the table, and the scale."""

    _fields_ = [("code", ctypes.c_int64), *((name, ctypes.c_double) for name in ("a", "b", "scale"))]


class Program(ctypes.Structure):
    """`Program` of native.c."""

    _fields_ = [
        ("layers", ctypes.c_int64),
        ("widths", ctypes.POINTER(ctypes.c_int64)),
        ("columns", ctypes.c_int64),
        ("activation", ctypes.POINTER(Setting)),
        *((name, ctypes.c_int64) for name in ("widest", "scaled_output", "kind", "samples", "block", "group", "parts")),
        *((name, ctypes.c_int64) for name in ("slopes", "buffers", "private", "work", "work_of_thread", "steps")),
        ("step", ctypes.POINTER(Step)),
    ]


@dataclass
class _Products:
    """The products of a tree as a list of steps: who multiplies what into which buffer, scaled by which slopes."""

    widths: tuple[int, ...]
    final_slope: int  # slope that scales the rows of J, or -1
    steps: list[Step] = field(default_factory=list)
    buffers: int = 0

    def __post_init__(self) -> None:
        self._slope = [0, *accumulate(self.widths[1:])]

    def run(self, tree: Split | None) -> None:
        """Append the steps of a whole chain."""
        if tree is None:
            self._copy(self._weight(1), self.widths[1], self.widths[0], -1, self.final_slope, -1)
        else:
            self._multiply(tree, -1, self.final_slope, -1)

    def _weight(self, layer: int) -> int:
        """Return where a weight stands among the addresses; the first one as the seed, last of all."""
        return layer - 1 if layer > 1 else len(self.widths) - 1

    def _buffer(self, size: int) -> int:
        offset = self.buffers
        self.buffers += -(-size // 16) * 16
        return offset

    def _copy(self, weight: int, rows: int, columns: int, target: int, row_slope: int, column_slope: int) -> None:
        self.steps.append(Step(rows, columns, 0, weight, 0, -1, 0, target, row_slope, column_slope))

    def _operand(self, part: Split | None, first: int, last: int, row_slope: int, column_slope: int) -> tuple[int, int]:
        """Return (weight, buffer) of layers first … last, scaled."""
        rows, columns = self.widths[last], self.widths[first - 1]
        if part is None and row_slope < 0 and column_slope < 0:
            return self._weight(first), 0
        target = self._buffer(rows * columns)
        if part is None:
            self._copy(self._weight(first), rows, columns, target, row_slope, column_slope)
        else:
            self._multiply(part, target, row_slope, column_slope)
        return -1, target

    def _multiply(self, tree: Split, target: int, row_slope: int, column_slope: int) -> None:
        between = self._slope[tree.at - 1]  # where the slopes of layer `at` begin
        left = self._operand(tree.left, tree.at + 1, tree.last, -1, between if tree.scales_left else -1)
        right = self._operand(tree.right, tree.first, tree.at, -1 if tree.scales_left else between, -1)
        rows, inner, columns = self.widths[tree.last], self.widths[tree.at], self.widths[tree.first - 1]
        self.steps.append(Step(rows, columns, inner, *left, *right, target, row_slope, column_slope))


def _one_sided(mode: str, layers: int) -> Split | None:
    """Return the tree of forward or reverse mode."""
    tree: Split | None = None
    if mode == "forward":
        for last in range(2, layers + 1):
            tree = Split(1, last, last - 1, False, None, tree)
    else:
        for first in range(layers - 1, 0, -1):
            tree = Split(first, layers, first, True, tree, None)
    return tree


def _tree(mode: str, problem: Problem) -> tuple[str, Split | None]:
    """Return the mode that a problem is really computed in, and its order of products."""
    if mode == EVALUATION:
        return mode, None
    if mode == "mixed":
        order = known_bracketing(problem.widths, False, problem.scaled)
        if order.mode == "mixed":
            return "mixed", order.tree
        mode = order.mode
    return mode, _one_sided(mode, problem.L + 1)


def setting(activation: Activation) -> Setting:
    """Translate an activation for the C library."""
    code = library().activation_code(activation.name.encode())
    if code < 0:
        raise ValueError(f"the C kernels have no activation {activation.name!r}; add it to csrc/activations.h")
    values = [float(value != "none") if isinstance(value, str) else value for value in activation.settings.values()]
    a, b = [*values, 0.0, 0.0][:2]
    return Setting(code, a, b, activation.scale)


def settings_of(problem: Problem) -> Any:
    """Translate all activations of a network."""
    return (Setting * (problem.L + 1))(*map(setting, problem.activations))


def numbers(values: Sequence[int]) -> Any:
    """Return an array of C, which a structure that points to it keeps alive."""
    return (ctypes.c_int64 * len(values))(*values)


def registers(dtype: str) -> tuple[int, int]:
    """Return the columns of a panel of products, and the numbers of a vector."""
    panel, lanes = (getattr(library(), f"{what}_width_{dtype}")() for what in ("panel", "vector"))
    return panel, lanes


class Kernel(NamedTuple):
    """A program for one problem, and whether threads share its work."""

    program: Program
    threaded: bool


def _kind(mode: str, problem: Problem, lean: bool = False) -> int:
    """Choose the technique; `lean` asks for the one with the least memory. An evaluation is a list of no products."""
    if mode == EVALUATION:
        return PRODUCTS
    if lean and mode == "forward":
        return TANGENTS
    if lean and mode == "reverse" and problem.L > 0:
        return COTANGENTS
    if problem.batch is not None and mode != "mixed":
        seeds = problem.D if mode == "forward" else problem.P
        # Lanes hold samples here, columns of the products there: take what fills them better.
        if problem.L == 0 or problem.N >= 32 or seeds < 16 or max(problem.widths) < 32:
            return FORWARD_BLOCKS if mode == "forward" else REVERSE_BLOCKS
    if mode == "forward" and problem.D <= MOST_TANGENTS:
        return TANGENTS
    if mode == "reverse" and problem.P <= MOST_COTANGENTS and problem.L > 0:
        return COTANGENTS
    return PRODUCTS


@dataclass(frozen=True, slots=True)
class Work:
    """The operations of the C function for a problem, for predictions of its time."""

    mode: str  # that it really is: mixed mode may be forward or reverse mode
    blocks: bool  # whether a batch is taken in blocks of samples
    tangents: int  # pushed beside the value, one read of the weights for all
    cotangents: int  # pulled back by a second read of the weights
    products: tuple[tuple[int, int, int], ...]  # rows, columns and inner size of the matrix products, per sample
    copied: int  # numbers of the scaled copies of weights, per sample
    threads: int  # that it will use, of those it may


def work_of(mode: str, problem: Problem, threads: int | None = None) -> Work:
    """Describe the work of the C function for a mode on a problem.

    Example:
        >>> work_of("reverse", Problem(widths=(1000, 1000, 1000, 1))).cotangents
        1
        >>> work_of("forward", Problem(widths=(100, 50, 20))).products
        ((20, 100, 50),)
    """
    real, tree = _tree(mode, problem)
    kind = _kind(real, problem)
    products = _Products(problem.widths, -1)
    if kind == PRODUCTS:
        products.run(tree)
    sizes = tuple((step.rows, step.columns, step.inner) for step in products.steps if step.inner)
    most = threads or torch.get_num_threads()
    return Work(
        mode=real,
        blocks=kind >= FORWARD_BLOCKS,
        tangents=problem.D if kind == TANGENTS else 0,
        cotangents=problem.P if kind == COTANGENTS else 0,
        products=sizes,
        copied=sum(step.rows * step.columns for step in products.steps if not step.inner),
        threads=most if _worth_threads(kind, real, problem, products) else 1,
    )


def working_bytes(mode: str, problem: Problem, lean: bool = False, threads: int | None = None) -> int:
    """Return the memory a call uses beyond J, on torch's number of threads by default."""
    kernel = assemble(mode, problem, lean, threads)
    threads = (threads or torch.get_num_threads()) if kernel.threaded else 1
    return problem.itemsize * (kernel.program.work + threads * kernel.program.work_of_thread)


def leaves_cache(problem: Problem) -> bool:
    """Say whether the weights leave the second cache, and so are to be read for as many samples at once as there is room for."""
    return problem.itemsize * problem.weights >= WIDE_BYTES


def _blocks(problem: Problem, seeds: int, threads: int, forward: bool) -> tuple[int, int, int]:
    """Return the samples of a block, the tangents or cotangents that it takes at once, and the tasks that these are shared out in.

    Weights are read for up to 128 lanes at a time, and threads get equal work, which a short batch gives only by its cotangents.
    """
    panel, lanes = registers(problem.dtype)
    sizes = (panel // 4, panel // 2, panel)
    if not leaves_cache(problem):  # a short batch is cut so that each thread gets a block
        return next((size for size in sizes if problem.N <= size * threads), panel), 1, 1
    # Reverse mode ends in rows of J: it reads W_1 for each cotangent by itself, but where those rows share few sets.
    few_sets = problem.D * problem.itemsize % 2048 == 0 and problem.widths[1] >= 256  # as in csrc/products.h
    alone = not forward and problem.D >= lanes and not few_sets
    share = problem.D * problem.widths[1] / problem.weights if alone else 0.0

    def time(size: int, parts: int) -> float:
        each = -(-seeds // parts)
        passes = 1 + (1 - share) * -(-each // (MOST_SIDE // size)) + share * each
        return -(-(-(-problem.N // size) * parts) // threads) * (size * (1 + each) + PASS_LANES * passes)

    able = (size for size in (*range(MOST_SIDE, panel, -lanes), *sizes[::-1]) if size >= lanes)
    size, parts = min(product(able, sorted({1, min(threads, seeds)})), key=lambda given: time(*given))
    return size, min(-(-seeds // parts), MOST_SIDE // size), parts


def _worth_threads(kind: int, mode: str, problem: Problem, products: _Products) -> bool:
    if kind in (TANGENTS, COTANGENTS) or mode == EVALUATION:
        return problem.N * problem.weights * problem.itemsize >= FEWEST_BYTES
    if kind == PRODUCTS:
        return problem.N * sum(2 * s.rows * max(1, s.inner) * s.columns for s in products.steps) >= FEWEST_OPERATIONS
    return problem.N * problem.weights * 2 * (problem.D if mode == "forward" else problem.P) >= FEWEST_OPERATIONS


def assemble(mode: str, problem: Problem, lean: bool = False, threads: int | None = None, columns: int = 0) -> Kernel:
    """Lay out a call; for some columns of J alone, where their number is given."""
    if problem.activations[-1].coupled:  # whose slopes torch multiplies in, behind the kernel
        problem = problem.with_(output_activation="identity")
    widths, layers = problem.widths, problem.L + 1
    problem = problem.with_(widths=(columns or problem.D, *widths[1:]))  # of the products
    mode, tree = _tree(mode, problem)
    threads = 1 if lean else threads or torch.get_num_threads()
    kind = _kind(mode, problem, lean)
    widest, slopes = -(-max(*widths, columns) // 16) * 16, sum(widths[1:])
    scaled_last = not problem.activations[-1].linear or layers == 1
    products = _Products(problem.widths, slopes - problem.P if scaled_last else -1)
    if kind == PRODUCTS and mode != EVALUATION:
        products.run(tree)
    inner = max((step.inner for step in products.steps), default=0)
    private = (inner + _SPARE_ROWS) * MOST_PANEL
    program = Program(layers, numbers(widths), problem.D, settings_of(problem), widest, int(scaled_last))
    program.kind, program.samples = kind, -1 if problem.batch is None else problem.N
    # The slopes end with those of the last layer, and vectors of them are read whole.
    program.slopes, program.buffers, program.private = slopes, products.buffers, private
    padded = -(-slopes // 16) * 16 + 64
    own = {TANGENTS: 0, COTANGENTS: 12 * widest, PRODUCTS: private}.get(kind, 0)  # of each thread
    shared = padded + 8 * widest + products.buffers
    if kind >= FORWARD_BLOCKS:
        forward = kind == FORWARD_BLOCKS
        program.block, program.group, program.parts = _blocks(problem, problem.D if forward else problem.P, threads, forward)
        program.work, program.work_of_thread = 0, (slopes + 2 * widest) * MOST_SIDE + (widest + _SPARE_ROWS) * MOST_PANEL
    elif problem.batch is not None:
        program.work, program.work_of_thread = 0, -(-(shared + own) // 16) * 16
    else:
        program.work, program.work_of_thread = shared, own
    program.steps, program.step = len(products.steps), (Step * max(1, len(products.steps)))(*products.steps)
    threaded = not lean and _worth_threads(kind, mode, problem, products)
    return Kernel(program, threaded)

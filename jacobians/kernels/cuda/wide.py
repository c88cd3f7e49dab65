"""Wide networks with few tangents or cotangents: a launch a layer, recorded as a CUDA graph."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jacobians.kernels.cuda.blocks import MULTIPROCESSORS, power_of_two, setting, unsupported_activations, unsupported_device
from jacobians.kernels.cuda.graph import Replay, on_cuda
from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Prepare, Request
from jacobians.problem import Problem
from jacobians.quantities.jacobian_gradient import not_empty

WIDE_ROWS = 16  # of all samples: more are work for the matrix units
PRODUCTS = 8192  # of a block at once, 64 to a thread
OUTPUTS = 8  # of a block that pushes: neurons of the layer
INPUTS = 64  # of a block that pulls: neurons before the layer
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
MOST_PARTS = 16  # of a sum over the neurons of a layer


def blocks_of_pushed(rows: int) -> tuple[int, int]:
    """Return how many neurons a block computes, and how many it reads at once.

    Example:
        >>> blocks_of_pushed(2), blocks_of_pushed(16)
        ((8, 512), (8, 64))
    """
    return OUTPUTS, PRODUCTS // OUTPUTS // max(2, rows)


def blocks_of_pulled(n_out: int, n_in: int, rows: int) -> tuple[int, int, int]:
    """Cut a layer that cotangents are pulled through into as many blocks as there are multiprocessors, twice over.

    Example:
        >>> blocks_of_pulled(1000, 1000, 1)
        (64, 16, 64)
        >>> blocks_of_pulled(10, 1000, 1)
        (64, 1, 64)
    """
    at_once = PRODUCTS // INPUTS // max(2, power_of_two(rows))
    at_once = at_once if power_of_two(rows) < WIDE_ROWS else WIDE_ROWS  # the least that the matrix units multiply
    parts = max(1, min(MOST_PARTS, 2 * MULTIPROCESSORS // -(-n_in // INPUTS), -(-n_out // at_once)))
    each = -(-n_out // (parts * at_once)) * at_once
    return at_once, -(-n_out // each), each


class Wide:
    """Launches the kernels of one network, layer by layer."""

    def __init__(self, mlp: MLP, problem: Problem) -> None:
        self._mlp, self._problem = mlp, problem
        self._settings = [setting(rule) for rule in problem.activations]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Push the value and all tangents."""
        return self._pushed(x, self._problem.D, None)

    def reverse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate, and pull all cotangents back."""
        kernels, widths, (N, P) = self._kernels(), self._problem.widths, (self._problem.N, self._problem.P)
        slopes = [x.new_empty(N, width) for width in widths[1:]]
        y, _ = self._pushed(x, 0, slopes)
        C, parts = x, 1
        for index in reversed(range(len(slopes))):
            n_out, n_in = widths[index + 1], widths[index]
            at_once, here, each = blocks_of_pulled(n_out, n_in, N * P)
            out = x.new_empty(here, N, P, n_in)
            kernels.pulled_layer[(-(-n_in // INPUTS), here)](
                C, slopes[index], self._mlp.weights[index].contiguous(), out, n_out, n_in, N * P, P, parts, each,
                R=power_of_two(N * P), BO=at_once, BI=INPUTS, FIRST=index == len(slopes) - 1, **OPTIONS,
            )  # fmt: skip
            C, parts = out, here
        return y, C[0] if parts == 1 else C.sum(0)

    def _pushed(self, x: Tensor, D: int, slopes: list[Tensor] | None) -> tuple[Tensor, Tensor]:
        kernels, widths, N = self._kernels(), self._problem.widths, self._problem.N
        S, BN = power_of_two(1 + D), power_of_two(N)
        outputs, at_once = blocks_of_pushed(S * BN)
        y, J = x.new_empty(N, widths[-1]), x.new_empty(N, widths[-1], D)
        rows = x.contiguous()
        for index, (W, b) in enumerate(zip(self._mlp.weights, self._mlp.biases, strict=True)):
            n_in, n_out, last = widths[index], widths[index + 1], index == len(widths) - 2
            code, *settings = self._settings[index]
            out = y if last else x.new_empty(N, S, n_out)
            kernels.pushed_layer[(-(-n_out // outputs),)](
                rows, W.contiguous(), y if b is None else b, out, out if slopes is None else slopes[index], y, J, n_in, n_out, N, D,
                *settings, S=S, BN=BN, BO=outputs, BI=at_once, CODE=code, FIRST=index == 0, LAST=last, KEEP=slopes is not None,
                BIAS=b is not None, **OPTIONS,
            )  # fmt: skip
            rows = out
        return y, J

    @staticmethod
    def _kernels() -> Any:
        return importlib.import_module("jacobians.kernels.cuda.layers")  # needs Triton


def _supports(problem: Problem, streams: int, name: str) -> str | None:
    reason = unsupported_device(problem)
    if reason is not None:
        return reason
    if problem.N * streams > WIDE_ROWS:
        return f"holds at most {WIDE_ROWS} {name} of all samples in registers, this takes {problem.N * streams}; use a CUDA graph"
    return not_empty(problem) or unsupported_activations(problem)


def _prepare(mode: str) -> Prepare:
    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        def build() -> Callable[[Tensor], tuple[Tensor, ...]]:
            wide = Wide(mlp, problem)
            compute = wide.forward if mode == "forward" else wide.reverse
            return lambda x: compute(x.reshape(problem.N, problem.D))

        replay = Replay(mlp, build)

        def run(x: Tensor) -> tuple[Tensor | None, Tensor]:
            with torch.no_grad():
                y, J = replay(x)
            if problem.batch is None:
                y, J = y[0], J[0]
            return (y if request.value else None), J

        return Computation(run, records=False)

    return prepare


on_cuda(
    "forward:triton-graph",
    supports=lambda problem: _supports(problem, power_of_two(1 + problem.D), "values and tangents"),
    summary="forward mode of a wide network, a launch a layer, as a CUDA graph",
)(_prepare("forward"))
on_cuda(
    "reverse:triton-graph",
    supports=lambda problem: _supports(problem, problem.P, "cotangents"),
    summary="reverse mode of a wide network, a launch a layer, as a CUDA graph",
)(_prepare("reverse"))

"""Tangent kernels by the C function: the factors of a batch, and their products tile by tile."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from jacobians.kernels.native.compiler import library
from jacobians.kernels.native.gradient import layout_of
from jacobians.kernels.native.program import FEWEST_OPERATIONS
from jacobians.kernels.native.runner import Addresses, done, in_c, plain, supports
from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Request
from jacobians.problem import Problem
from jacobians.quantities.jacobian_gradient import not_empty

TILE = 16  # samples of the first batch; divides the samples of the second that are taken at a time
TILE_NUMBERS = 2**17  # of the sum over the layers, which should stay in the second cache


class KernelTiles(ctypes.Structure):
    """`KernelTiles` of native.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ("first", "second", "symmetric", "trace", "tile", "block_numbers", "work_of_thread")]


class TangentKernel:
    """Calls the C function for a tangent kernel; with `trace` for the sum over equal outputs."""

    def __init__(self, mlp: MLP, problem: Problem, trace: bool) -> None:
        self._addresses, self._trace, self._problem = Addresses(mlp, problem), trace, problem
        self._chain = layout_of(mlp, problem)
        self._panel = getattr(library(), f"panel_width_{problem.dtype}")()
        self._function = getattr(library(), f"tangent_kernel_{problem.dtype}")
        self._function.argtypes = [ctypes.c_void_p] * 7 + [ctypes.c_int]

    def __call__(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        weights, biases, alive = self._addresses.now()
        x1 = plain("x1", x1)
        x2 = None if x2 is None else plain("x2", x2)
        P, chain, panel = self._problem.P, self._chain, self._panel
        N1, N2 = len(x1), len(x1 if x2 is None else x2)
        outputs = 1 if self._trace else P
        tile = min(TILE, panel)
        while tile > 1 and outputs * outputs * tile * panel > TILE_NUMBERS:
            tile //= 2
        hidden = chain.numbers - self._problem.D - P
        tile_numbers = outputs * outputs * (tile * panel + panel) + tile * panel
        work = max(chain.numbers * panel + panel, tile_numbers)
        tiles = KernelTiles(N1, N2, int(x2 is None), int(self._trace), tile, (chain.numbers + P + P * hidden) * panel, -(-work // 16) * 16)
        out = x1.new_empty((N1, N2) if self._trace else (N1, N2, P, P))
        operations = N1 * N2 * (outputs * P * (hidden + 1) + hidden + self._problem.D)
        threads = torch.get_num_threads() if operations >= FEWEST_OPERATIONS else 1
        at2 = None if x2 is None else x2.data_ptr()
        status = self._function(
            ctypes.addressof(chain), ctypes.addressof(tiles), weights, biases, x1.data_ptr(), at2, out.data_ptr(), threads
        )
        del alive
        if status:
            done(status, f"a tangent kernel of shape {tuple(out.shape)}")
        return out


def _why_not(problem: Problem) -> str | None:
    psi = problem.activations[-1]
    return f"has no {psi.name} in C" if psi.coupled else supports(problem) or not_empty(problem)


@in_c("ntk/structured:native", supports=_why_not, options=("trace",), summary="factors and their products in C, tile by tile")
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    kernel = TangentKernel(mlp, problem, request.trace)

    def run(inputs: Tensor | tuple[Tensor, ...]) -> tuple[None, tuple[Tensor]]:
        return None, (kernel(*inputs) if isinstance(inputs, tuple) else kernel(inputs),)

    return Computation(run, records=False)

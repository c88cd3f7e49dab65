"""Derivatives by the parameters in Triton: each program sums those of its samples up, and the sums of all programs are added at the end."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from jacobians.kernels.cuda.blocks import (
    LOSSES,
    MOST_NEURONS,
    MULTIPROCESSORS,
    Launcher,
    constants_of,
    options_for,
    power_of_two,
    unsupported,
)
from jacobians.kernels.cuda.graph import on_cuda, places
from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Request
from jacobians.problem import Problem
from jacobians.quantities.gradient import Parts
from jacobians.quantities.jacobian_gradient import not_empty
from jacobians.quantities.parameters import loss_in, offsets


class Sums(Launcher):
    """Launches a kernel that sums a loss, or that of a Jacobian, and its derivatives by the parameters."""

    def __init__(self, mlp: MLP, problem: Problem) -> None:
        super().__init__(mlp, problem, problem.quantity)
        self._like = [torch.empty_like(p) for p in mlp.parameters()]
        at_weight, at_bias, parameters = offsets(problem.widths, mlp.biased)
        self._size = parameters + 1
        self._offsets = torch.tensor([*at_weight, *at_bias], dtype=torch.int64, device=problem.device)

    def __call__(self, x: Tensor, *target: Tensor) -> Parts:
        places((x, *target), "an input")
        self.look_up()
        problem, cut = self.problem, self.cut
        blocks = -(-problem.N // cut.samples)
        programs = max(1, min(blocks, MULTIPROCESSORS))
        partial = x.new_zeros(programs, self._size)
        if problem.N:
            kernels: Any = importlib.import_module("jacobians.kernels.cuda.chains")  # needs Triton
            kernel, factor, constants, rows = self._of_loss(*target) if target else self._of_jacobian()
            kept = x.new_empty(rows, problem.L, problem.N, cut.neurons)
            inputs = [x.contiguous(), *[t.contiguous() for t in target]]
            getattr(kernels, kernel)[(programs,)](
                *inputs, self.addresses, self.widths, self._offsets, kept, partial, problem.N, blocks, self._size, factor, *self.settings,
                **constants_of(problem, self.kind, cut, False, self.unpadded), **self.codes, **constants,
                **options_for(problem, self.kind),
            )  # fmt: skip
        return Parts(partial.sum(0), self._like, None)

    def _of_loss(self, target: Tensor) -> tuple[str, float, dict[str, Any], int]:
        """Return kernel, factor of the sum over samples, constants, and rows kept of a neuron: its value and its slope."""
        loss, problem = loss_in(self.problem), self.problem
        count = (problem.N if loss.per_sample else problem.N * problem.P) if loss.reduction == "mean" else 1
        classes = loss.classes and not target.is_floating_point()
        return "differentiated", loss.scale / count, {"LOSS": LOSSES.index(loss.name), "CLASSES": classes}, 2

    def _of_jacobian(self) -> tuple[str, float, dict[str, Any], int]:
        problem = self.problem
        return "there_and_back", 1 / (problem.N * problem.P * problem.D), {}, self.cut.streams


def _supports_gradient(problem: Problem) -> str | None:
    loss = loss_in(problem)
    if loss.name not in LOSSES or loss.reduction == "none":
        return f"has no loss {loss} in Triton"
    if problem.P > MOST_NEURONS:
        return f"holds at most {MOST_NEURONS} outputs in registers, got {problem.P}; use a CUDA graph"
    return unsupported(problem, 1, kept=2)


def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    sums = Sums(mlp, problem)

    def run(inputs: Tensor | tuple[Tensor, ...]) -> tuple[None, Parts]:
        return None, sums(*inputs) if isinstance(inputs, tuple) else sums(inputs)

    return Computation(run, restore=lambda out: out.tensors(), records=False)


on_cuda("gradient/reverse:triton", supports=_supports_gradient, summary="evaluation, loss and pullback of a block in one launch")(_prepare)
on_cuda(
    "jacobian_gradient/forward:triton",
    supports=lambda problem: not_empty(problem) or unsupported(problem, problem.D + 1, kept=power_of_two(problem.D + 1)),
    summary="J of a block, its loss and the way back in one launch; J is not formed",
)(_prepare)

"""Calling the Triton kernels: block sizes by shape, addresses of the parameters looked up in each call, and what they cannot serve."""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jacobians.activations import Activation
from jacobians.mlp import MLP
from jacobians.problem import Problem
from jacobians.quantities.gradient import Parts
from jacobians.quantities.parameters import loss_in
from jacobians.registry import Computation, NotPlain, Prepare, Request, register

MOST_NEURONS = 64  # of a hidden layer: with 128, what a thread holds no longer fits its registers
MOST_STREAMS = 16
WARPS = 4
MOST_ROWS = 32  # of a block: 16, 64 and 128 were slower on an H100, as were eight warps
MULTIPROCESSORS = 132  # blocks are cut so that this many get one
LOSSES = ("mse", "l1", "bce_with_logits", "cross_entropy")  # a name stands for its place in the kernel
INSTALL = "Triton is not installed; install it with: pip install 'jacobians[cuda]'"


def interpreted() -> bool:
    """Say whether Triton's interpreter runs the kernels, on tensors of the CPU: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def power_of_two(least: int) -> int:
    """Return the smallest power of two that is no less.

    Args:
        least: At least 1.

    Returns:
        The power.

    Example:
        >>> power_of_two(1), power_of_two(50), power_of_two(64)
        (1, 64, 64)
    """
    return 1 << (least - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Blocks:
    """The cut of a problem into blocks.

    Attributes:
        neurons: Hidden width, padded.
        streams: Rows of a sample.
        samples: Samples of a block.
    """

    neurons: int
    streams: int
    samples: int


def blocks_for(problem: Problem, streams: int, least_samples: int) -> Blocks:
    """Cut a problem into blocks of some rows, fewer where all multiprocessors would not get one.

    Args:
        problem: The problem.
        streams: Rows of a sample that are needed.
        least_samples: Fewest samples of a block.

    Returns:
        The sizes.

    Example:
        >>> blocks_for(Problem(widths=(3, 64, 64, 1), batch=4096), 4, 1)
        Blocks(neurons=64, streams=4, samples=8)
    """
    neurons, streams = max(16, power_of_two(max(problem.widths[1:-1]))), power_of_two(streams)
    most = max(1, MOST_ROWS // streams)
    samples = min(most, power_of_two(-(-max(1, problem.N) // MULTIPROCESSORS)))
    samples = max(samples, least_samples, -(-16 // streams))
    return Blocks(neurons, streams, samples)


def setting(rule: Activation) -> tuple[int, float, float, float]:
    """Translate an activation for the kernels.

    Args:
        rule: The activation.

    Returns:
        Its code, two settings and its scale.
    """
    from jacobians.kernels.cuda.elementary import CODES

    values = [float(value != "none") if isinstance(value, str) else value for value in rule.settings.values()]
    a, b = [*values, 0.0, 0.0][:2]
    return CODES.index(rule.name), a, b, rule.scale


def constants_of(problem: Problem, kind: str, cut: Blocks, value: bool) -> dict[str, Any]:
    """Return what a kernel is compiled for, but the codes of the activations.

    Args:
        problem: The problem.
        kind: `"forward"`, `"reverse"`, `"laplacian"` or `"gradient"`.
        cut: How it is cut.
        value: Whether y is written.

    Returns:
        Name to constant.
    """
    if kind == "gradient":
        tiles = {"TP": max(16, power_of_two(problem.P)), "TD": 16 if problem.D <= 16 else 32}
        return {"layers": problem.L + 1, "D": problem.D, "P": problem.P, "K": cut.neurons, "BN": cut.samples, **tiles}
    sizes = {"layers": problem.L + 1, "D": problem.D, "P": problem.P, "K": cut.neurons, "S": cut.streams, "BN": cut.samples, "VALUE": value}
    if kind == "reverse":
        return sizes | {"TD": 16, "EVALUATED": value or not problem.activations[-1].linear}
    return sizes | {"TP": 16 if problem.P <= 16 else 32, "SECOND": kind == "laplacian"}


def warps_for(kind: str) -> int:
    """Return how many warps a block has: twice as many where the derivative of a weight stands in registers beside the rest.

    Args:
        kind: `"forward"`, `"reverse"`, `"laplacian"` or `"gradient"`.

    Returns:
        Triton's `num_warps`.
    """
    return 2 * WARPS if kind == "gradient" else WARPS


def stages_for(problem: Problem, kind: str) -> int:
    """Return how many tiles ahead loads are issued: as many as the registers leave room for, by the compiler's own report.

    Args:
        problem: The problem.
        kind: `"forward"`, `"reverse"`, `"laplacian"` or `"gradient"`.

    Returns:
        Triton's `num_stages`.
    """
    return 1 if kind == "gradient" or (kind == "reverse" and problem.P > 1) else 3


def cut_for(problem: Problem, kind: str) -> Blocks:
    """Cut a problem for one of the kernels.

    Args:
        problem: The problem.
        kind: `"forward"`, `"reverse"`, `"laplacian"` or `"gradient"`.

    Returns:
        The sizes.
    """
    if kind == "reverse":
        return blocks_for(problem, min(2, problem.P), 16)
    if kind == "gradient":
        return blocks_for(problem, 2, 16)  # values and cotangents: with 32 samples an A100 spills
    return blocks_for(problem, problem.D + (2 if kind == "laplacian" else 1), 1)


class Chain:
    """Launches a kernel for one network and shape.

    Args:
        mlp: The network.
        problem: The problem.
        kind: `"forward"`, `"reverse"`, `"laplacian"` or `"gradient"`.
        value: Whether y is wanted too.
    """

    def __init__(self, mlp: MLP, problem: Problem, kind: str, value: bool) -> None:
        self._mlp, self._problem, self._kind, self._value = mlp, problem, kind, value
        self._known: list[int] = []
        self._addresses = torch.empty(0)
        self._widths = torch.tensor(problem.widths, dtype=torch.int64, device=problem.device)
        self._blocks = cut_for(problem, kind)
        hidden, out = setting(problem.activations[0]), setting(problem.activations[-1])
        self._settings = (*hidden[1:], *out[1:])
        self._codes = {"CODE": hidden[0], "CODE_OUT": out[0]}

    def _look_up(self) -> None:
        """Send the addresses of the parameters where the kernel reads them, if they are others than in the last call."""
        weights, biases = self._mlp.parameter_tuples()
        tensors = [*weights, *biases]
        now = [0 if t is None else t.data_ptr() for t in tensors]
        if now == self._known:
            return
        expected = list(zip(self._problem.widths[1:], self._problem.widths, strict=False))
        if [tuple(W.shape) for W in weights] != expected:
            raise ValueError("the network has other widths than when this was planned; make another plan")
        for t in tensors:
            if t is not None and (type(t) not in {Tensor, nn.Parameter} or not t.is_contiguous() or t.dtype != torch.float32):
                raise NotPlain("a parameter is no contiguous float32 tensor")
        self._addresses = torch.tensor(now, dtype=torch.int64).to(self._problem.device)
        self._known = now

    def __call__(self, x: Tensor, weights: Tensor | None = None) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Compute.

        Args:
            x: Input of shape (D,) or (N, D).
            weights: w of the Laplacian, (D,).

        Returns:
            y or `None`, J, and the Laplacian or `None`; for a single x with a batch of one.

        Raises:
            NotPlain: A tensor's numbers do not stand in memory as they are.
            ValueError: The network has changed.
        """
        if type(x) not in {Tensor, nn.Parameter}:
            raise NotPlain(f"x is a {type(x).__name__}")
        self._look_up()
        chains: Any = importlib.import_module("jacobians.kernels.cuda.chains")  # needs Triton
        problem, cut = self._problem, self._blocks
        N, D, P, x = problem.N, problem.D, problem.P, x.contiguous()
        second = self._kind == "laplacian"
        J = x.new_empty(N, P, D)
        y = x.new_empty(N, P) if self._value or second else J  # never written where it is not wanted
        lap = x.new_empty(N, P) if second else J
        constants = constants_of(problem, self._kind, cut, self._value or second) | self._codes
        options = {"num_warps": WARPS, "num_stages": stages_for(problem, self._kind)}
        grid = (-(-N // cut.samples),)
        if N and self._kind == "reverse":
            slopes = x.new_empty(problem.L, N, cut.neurons)
            chains.pulled[(*grid, -(-P // cut.streams))](
                x, self._addresses, self._widths, slopes, y, J, N, *self._settings, **constants, **options
            )  # fmt: skip
        elif N:
            w = x if weights is None else weights.contiguous()
            chains.pushed[grid](
                x, w, self._addresses, self._widths, y, J, lap, N, *self._settings, **constants, **options
            )  # fmt: skip
        return (y if self._value or second else None), J, (lap if second else None)


class Descent(Chain):
    """Launches the kernel of the gradient of a loss.

    Args:
        mlp: The network.
        problem: The problem, with its loss.
    """

    def __init__(self, mlp: MLP, problem: Problem) -> None:
        super().__init__(mlp, problem, "gradient", False)
        self._loss = loss_in(problem)
        weights, biases = mlp.parameter_tuples()
        self._like = [torch.empty_like(p) for p in mlp.parameters()]
        starts, places = 0, ([], [])
        for W, b in zip(weights, biases, strict=True):
            places[0].append(starts)
            starts += W.numel()
            places[1].append(-1 if b is None else starts)
            starts += 0 if b is None else b.numel()
        self._size = starts + 1
        self._offsets = torch.tensor([*places[0], *places[1]], dtype=torch.int64, device=problem.device)

    def gradient(self, x: Tensor, target: Tensor) -> Parts:
        """Compute.

        Args:
            x: Input of shape (D,) or (N, D).
            target: As the loss takes it.

        Returns:
            The derivatives by the parameters and the loss.

        Raises:
            NotPlain: A tensor's numbers do not stand in memory as they are.
            ValueError: The network has changed.
        """
        for one in (x, target):
            if type(one) not in {Tensor, nn.Parameter}:
                raise NotPlain(f"an input is a {type(one).__name__}")
        self._look_up()
        chains: Any = importlib.import_module("jacobians.kernels.cuda.chains")  # needs Triton
        problem, cut, loss = self._problem, self._blocks, self._loss
        N, P = problem.N, problem.P
        blocks = -(-N // cut.samples)
        programs = max(1, min(blocks, MULTIPROCESSORS))
        classes = loss.classes and not target.is_floating_point()
        count = (N if loss.per_sample else N * P) if loss.reduction == "mean" else 1
        kept = x.new_empty(2, problem.L, N, cut.neurons)
        partial = x.new_zeros(programs, self._size)
        if N:
            chains.differentiated[(programs,)](
                x.contiguous(), target.contiguous(), self._addresses, self._widths, self._offsets, kept, partial, N, blocks, self._size,
                loss.scale / count, *self._settings, **constants_of(problem, "gradient", cut, False), **self._codes,
                LOSS=LOSSES.index(loss.name), CLASSES=classes, num_warps=warps_for("gradient"), num_stages=stages_for(problem, "gradient"),
            )  # fmt: skip
        return Parts(partial.sum(0), self._like, None)


def _supports(problem: Problem, streams: int) -> str | None:
    if not problem.device.startswith("cuda") and not interpreted():
        return f"runs on CUDA, not on {problem.device}"
    if importlib.util.find_spec("triton") is None:
        return INSTALL
    if problem.dtype != "float32":
        return f"computes in float32, not in {problem.dtype}"
    if problem.L == 0:
        return "needs a hidden layer"
    if max(problem.widths[1:-1]) > MOST_NEURONS:
        return f"holds layers of at most {MOST_NEURONS} neurons in registers, got {max(problem.widths[1:-1])}; use a CUDA graph"
    if streams > MOST_STREAMS:
        return f"holds at most {MOST_STREAMS} rows of a sample in registers, this takes {streams}; use the other mode, or a CUDA graph"
    if len(set(problem.activations[:-1])) > 1:
        return "is compiled for one hidden activation; use a CUDA graph"
    if any(rule.coupled for rule in problem.activations):
        return f"has no {problem.activations[-1].name}"
    from jacobians.kernels.cuda.elementary import CODES

    unknown = [rule.name for rule in problem.activations if rule.name not in CODES]
    return f"has no activation {unknown[0]!r} in Triton" if unknown else None


def _supports_forward(problem: Problem) -> str | None:
    return _supports(problem, problem.D + 1)


def _supports_reverse(problem: Problem) -> str | None:
    return _supports(problem, 1)


def _supports_laplacian(problem: Problem) -> str | None:
    return _supports(problem, problem.D + 2)


def _supports_gradient(problem: Problem) -> str | None:
    loss = loss_in(problem)
    if loss.name not in LOSSES or loss.reduction == "none":
        return f"has no loss {loss} in Triton"
    if problem.P > MOST_NEURONS:
        return f"holds at most {MOST_NEURONS} outputs in registers, got {problem.P}; use a CUDA graph"
    return _supports(problem, 1)


def _prepare_gradient(mlp: MLP, problem: Problem, request: Request) -> Computation:
    descent = Descent(mlp, problem)
    return Computation(lambda inputs: (None, descent.gradient(*inputs)), restore=lambda out: out.tensors(), records=False)


def _prepare(mode: str) -> Prepare:
    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        chain = Chain(mlp, problem, mode, request.value)

        def run(x: Tensor) -> tuple[Tensor | None, Tensor]:
            y, J, _ = chain(x)
            return (y, J) if problem.batch is not None else (None if y is None else y[0], J[0])

        return Computation(run, records=False)

    return prepare


def _prepare_laplacian(mlp: MLP, problem: Problem, request: Request) -> Computation:
    chain = Chain(mlp, problem, "laplacian", True)

    def run(inputs: tuple[Tensor, Tensor]) -> tuple[None, tuple[Tensor, ...]]:
        x, directions = inputs
        found = [chain(x, w) for w in directions]
        y, J, _ = found[0]
        assert y is not None
        columns = [lap[..., None] for _, _, lap in found if lap is not None]
        tensors = y, J, columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)
        return None, tensors if problem.batch is not None else tuple(t[0] for t in tensors)

    return Computation(run, records=False)


register("forward:triton", hand_written=True, supports=_supports_forward, device="cuda", summary="forward mode of a block in one launch")(
    _prepare("forward")
)
register("reverse:triton", hand_written=True, supports=_supports_reverse, device="cuda", summary="reverse mode of a block in one launch")(
    _prepare("reverse")
)
register(
    "laplacian/forward:triton",
    hand_written=True,
    supports=_supports_laplacian,
    device="cuda",
    summary="value, tangents and Laplacian of a block in one launch",
)(_prepare_laplacian)

register(
    "gradient/reverse:triton",
    hand_written=True,
    supports=_supports_gradient,
    device="cuda",
    summary="evaluation, loss and pullback of a block in one launch",
)(_prepare_gradient)

"""Calling the Triton kernels: block sizes by shape, addresses of the parameters looked up in each call, and what they cannot serve."""

from __future__ import annotations

import importlib
import importlib.util
import os
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jacobians.kernels.cuda.graph import on_cuda, places
from jacobians.network.activations import Activation
from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, NotPlain, Prepare, Request
from jacobians.problem import Problem

MOST_NEURONS = 64  # of a hidden layer: with 128, what a thread holds no longer fits its registers
MOST_STREAMS = 16
WARPS = 4
ALIGNED = 16  # bytes: four numbers
MOST_NUMBERS = 2**31  # that a kernel counts
MOST_ROWS = 32  # of a block: 16, 64 and 128 were slower on an H100, as were eight warps
MULTIPROCESSORS = 132  # blocks are cut so that this many get one
SUMMED = ("gradient", "jacobian_gradient")  # derivatives by the parameters
LOSSES = ("mse", "l1", "bce_with_logits", "cross_entropy")  # a name stands for its place in the kernel
INSTALL = "Triton is not installed; install it with: pip install 'jacobians[cuda]'"


def interpreted() -> bool:
    """Say whether Triton's interpreter runs the kernels, on tensors of the CPU: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def power_of_two(least: int) -> int:
    """Return the smallest power of two that is no less.

    Example:
        >>> power_of_two(1), power_of_two(50), power_of_two(64)
        (1, 64, 64)
    """
    return 1 << (least - 1).bit_length()


class Blocks(NamedTuple):
    """The cut of a problem into blocks."""

    neurons: int  # hidden width, padded
    streams: int  # rows of a sample
    samples: int  # of a block


def blocks_for(problem: Problem, streams: int, least_samples: int) -> Blocks:
    """Cut a problem into blocks of some rows, fewer where all multiprocessors would not get one.

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
    """Translate an activation for the kernels."""
    from jacobians.kernels.cuda.elementary import CODES

    values = [float(value != "none") if isinstance(value, str) else value for value in rule.settings.values()]
    a, b = [*values, 0.0, 0.0][:2]
    return CODES.index(rule.name), a, b, rule.scale


def constants_of(problem: Problem, kind: str, cut: Blocks, value: bool, unpadded: bool) -> dict[str, Any]:
    """Return what a kernel is compiled for, but the codes of the activations."""
    sizes = {"layers": problem.L + 1, "D": problem.D, "P": problem.P, "K": cut.neurons, "UNPADDED": unpadded, "BN": cut.samples}
    outputs = 16 if problem.P <= 16 else 32
    if kind == "gradient":
        return sizes | {"TP": max(16, power_of_two(problem.P)), "TD": 16 if problem.D <= 16 else 32}
    sizes["S"] = cut.streams
    if kind == "jacobian_gradient":
        return sizes | {"TP": outputs}
    if kind == "reverse":
        return sizes | {"VALUE": value, "TD": 16, "EVALUATED": value or not problem.activations[-1].linear}
    return sizes | {"VALUE": value, "TP": outputs, "SECOND": kind == "laplacian"}


def options_for(problem: Problem, kind: str) -> dict[str, Any]:
    """Return how a kernel is compiled.

    Derivatives of a weight stand in registers beside the rest, and get twice as many warps; tiles are loaded as many ahead as the
    registers leave room for, by the compiler's own report. Products and sums are fused, which a later Triton no longer does by default.
    """
    stages = 1 if kind in SUMMED or (kind == "reverse" and problem.P > 1) else 3
    return {"num_warps": 2 * WARPS if kind in SUMMED else WARPS, "num_stages": stages, "enable_fp_fusion": True}


def unpadded(problem: Problem, kind: str, cut: Blocks) -> bool:
    """Say whether the weights between hidden layers are read without masks: where all layers have as many neurons as they are padded to.

    That takes up to 37 % of the registers off; but for the gradient of a loss, where an A100 would spill.

    Example:
        >>> cut = Blocks(neurons=64, streams=4, samples=8)
        >>> [unpadded(Problem(widths=(3, K, K, 1), batch=4096), "forward", cut) for K in (50, 64)]
        [False, True]
    """
    return kind != "gradient" and set(problem.widths[1:-1]) == {cut.neurons}


def cut_for(problem: Problem, kind: str) -> Blocks:
    """Cut a problem for one of the kernels."""
    if kind == "reverse":
        cut = blocks_for(problem, min(2, problem.P), 16)
        # One cotangent of 32 samples fits the registers only where weights are read without masks.
        return cut if problem.P > 1 or unpadded(problem, kind, cut) else Blocks(cut.neurons, cut.streams, 16)
    if kind == "gradient":
        return blocks_for(problem, 2, 16)  # values and cotangents: with 32 samples an A100 spills
    if kind == "jacobian_gradient":
        cut = blocks_for(problem, problem.D + 1, 1)
        return Blocks(cut.neurons, cut.streams, max(1, 16 // cut.streams))
    return blocks_for(problem, problem.D + (2 if kind == "laplacian" else 1), 1)


class Launcher:
    """The parameters of a network and the cut of a problem, for one of the kernels.

    Its kind is `"forward"`, `"reverse"`, or the quantity where that is another than the Jacobian.
    """

    def __init__(self, mlp: MLP, problem: Problem, kind: str) -> None:
        self._mlp, self.problem, self.kind = mlp, problem, kind
        self._known: list[int] = []
        self._biased = mlp.biased
        self.addresses = torch.empty(0)  # where the weights stand, then the biases, on the device; 0 for none
        self.unpadded = False  # whether weights between hidden layers are read without masks, as they stand now
        self.widths = torch.tensor(problem.widths, dtype=torch.int64, device=problem.device)
        self.cut = cut_for(problem, kind)
        hidden, out = setting(problem.activations[0]), setting(problem.activations[-1])
        self.settings = (*hidden[1:], *out[1:])
        self.codes = {"CODE": hidden[0], "CODE_OUT": out[0]}

    def look_up(self) -> None:
        """Send the addresses of the parameters where the kernel reads them, if they are others than in the last call."""
        weights, biases = self._mlp.parameter_tuples()
        tensors = [*weights, *biases]
        found = places(tensors, "a parameter")
        now = [address for address, _ in found]
        if not all(contiguous for _, contiguous in found):
            raise NotPlain("a parameter is not contiguous")
        if now == self._known:
            return
        expected = [((o, i), (o,) if biased else None) for (i, o), biased in zip(pairwise(self.problem.widths), self._biased, strict=True)]
        if [(W.shape, None if b is None else b.shape) for W, b in zip(weights, biases, strict=True)] != expected:
            raise ValueError("the network has other widths or biases than when this was planned; make another plan")
        if any(t is not None and t.dtype != torch.float32 for t in tensors):
            raise NotPlain("a parameter is no float32 tensor")
        self.addresses = torch.tensor(now, dtype=torch.int64).to(self.problem.device)
        between = now[1 : self.problem.L]
        self.unpadded = unpadded(self.problem, self.kind, self.cut) and all(at % ALIGNED == 0 for at in between)
        self._known = now


class BlockKernel(Launcher):
    """Launches the kernels of J and of the Laplacian."""

    def __init__(self, mlp: MLP, problem: Problem, kind: str, value: bool) -> None:
        super().__init__(mlp, problem, kind)
        self._value = value

    def __call__(self, x: Tensor, weights: Tensor | None = None) -> tuple[Tensor | None, Tensor, Tensor | None]:
        places((x,), "x")
        self.look_up()
        chains: Any = importlib.import_module("jacobians.kernels.cuda.chains")  # needs Triton
        problem, cut = self.problem, self.cut
        N, D, P, x = problem.N, problem.D, problem.P, x.contiguous()
        second = self.kind == "laplacian"
        J = x.new_empty(N, P, D)
        y = x.new_empty(N, P) if self._value or second else J  # never written where it is not wanted
        lap = x.new_empty(N, P) if second else J
        constants = constants_of(problem, self.kind, cut, self._value or second, self.unpadded) | self.codes
        options = options_for(problem, self.kind)
        grid = (-(-N // cut.samples),)
        if N and self.kind == "reverse":
            slopes = x.new_empty(problem.L, N, cut.neurons)
            grid = (*grid, -(-P // cut.streams))
            chains.pulled[grid](x, self.addresses, self.widths, slopes, y, J, N, *self.settings, **constants, **options)
        elif N:
            w = x if weights is None else weights.contiguous()
            chains.pushed[grid](x, w, self.addresses, self.widths, y, J, lap, N, *self.settings, **constants, **options)
        return (y if self._value or second else None), J, (lap if second else None)


def unsupported_device(problem: Problem) -> str | None:
    """Say why no kernel in Triton can serve a problem, whatever its sizes."""
    if not problem.device.startswith("cuda") and not interpreted():
        return f"runs on CUDA, not on {problem.device}"
    if importlib.util.find_spec("triton") is None:
        return INSTALL
    if problem.dtype != "float32":
        return f"computes in float32, not in {problem.dtype}"
    return None


def unsupported_activations(problem: Problem) -> str | None:
    """Say which activation the kernels in Triton lack."""
    if any(rule.coupled for rule in problem.activations):
        return f"has no {problem.activations[-1].name}"
    from jacobians.kernels.cuda.elementary import CODES

    unknown = [rule.name for rule in problem.activations if rule.name not in CODES]
    return f"has no activation {unknown[0]!r} in Triton" if unknown else None


def unsupported(problem: Problem, streams: int, kept: int = 0) -> str | None:
    """Say why the kernels cannot serve a problem."""
    reason = unsupported_device(problem)
    if reason is not None:
        return reason
    if problem.L == 0:
        return "needs a hidden layer"
    if max(problem.widths[1:-1]) > MOST_NEURONS:
        return f"holds layers of at most {MOST_NEURONS} neurons in registers, got {max(problem.widths[1:-1])}; use a CUDA graph"
    if streams > MOST_STREAMS:
        return f"holds at most {MOST_STREAMS} rows of a sample in registers, this takes {streams}; use the other mode, or a CUDA graph"
    if len(set(problem.activations[:-1])) > 1:
        return "is compiled for one hidden activation; use a CUDA graph"
    if problem.N * max(problem.P * problem.D, problem.L * MOST_NEURONS * kept) >= MOST_NUMBERS:
        return f"counts at most 2³¹ numbers of J, or of what it keeps for the way back, got N={problem.N}; use fewer samples at once"
    return unsupported_activations(problem)


def _prepare(mode: str) -> Prepare:
    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        chain = BlockKernel(mlp, problem, mode, request.value)

        def run(x: Tensor) -> tuple[Tensor | None, Tensor]:
            y, J, _ = chain(x)
            return (y, J) if problem.batch is not None else (None if y is None else y[0], J[0])

        return Computation(run, records=False)

    return prepare


@on_cuda(
    "laplacian/forward:triton",
    supports=lambda problem: unsupported(problem, problem.D + 2),
    summary="value, tangents and Laplacian of a block in one launch",
)
def _prepare_laplacian(mlp: MLP, problem: Problem, request: Request) -> Computation:
    chain = BlockKernel(mlp, problem, "laplacian", True)

    def run(inputs: tuple[Tensor, Tensor]) -> tuple[None, tuple[Tensor, ...]]:
        x, directions = inputs
        found = [chain(x, w) for w in directions]
        y, J, _ = found[0]
        assert y is not None
        columns = [lap[..., None] for _, _, lap in found if lap is not None]
        tensors = y, J, columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)
        return None, tensors if problem.batch is not None else tuple(t[0] for t in tensors)

    return Computation(run, records=False)


on_cuda(
    "forward:triton",
    supports=lambda problem: unsupported(problem, problem.D + 1),
    summary="forward mode of a block in one launch",
)(_prepare("forward"))
on_cuda(
    "reverse:triton",
    supports=lambda problem: unsupported(problem, 1, kept=1),
    summary="reverse mode of a block in one launch",
)(_prepare("reverse"))

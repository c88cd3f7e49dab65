"""The readable methods under a CUDA graph: recorded once, then launched as a whole, so that small networks do not pay for each operation.

The recorded operations read their inputs and the parameters from where they were at the recording. Inputs are copied there before each
replay; parameters that changed in place are read as they are; parameters that moved are noticed by their addresses, and the graph is
recorded again. What is computed leaves the graph in one vector, so that one copy takes it out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from jacobians.network.mlp import MLP
from jacobians.planning.registry import JACOBIAN, Computation, NotPlain, Prepare, Request, find_method, find_readable, register
from jacobians.problem import Problem

Tensors = tuple[Tensor, ...]
WARM_UP = 3  # calls before the recording: libraries allocate their workspaces in the first ones


PLAIN = {Tensor, nn.Parameter}


class Graph(Protocol):
    """The interface of a recording."""

    def replay(self) -> None:
        """Run the recorded operations again."""


def places(tensors: Iterable[Tensor | None], what: str) -> list[tuple[int, bool]]:
    """Return where tensors stand, and whether their numbers follow each other: by that a graph or a kernel reads them."""
    found: list[tuple[int, bool]] = []
    for t in tensors:
        if t is None:
            found.append((0, True))
            continue
        if type(t) not in PLAIN or t.is_neg() or t.layout is not torch.strided:
            raise NotPlain(f"{what} is no plain tensor, whose numbers stand in memory as they are")
        found.append((t.data_ptr(), t.is_contiguous()))
    return found


def _seen(tensors: Iterable[Tensor | None]) -> tuple[object, ...]:
    """Return in a few calls of C what `places` looks at: where it is the same, so is that."""
    given = [t for t in tensors if t is not None]
    return list(map(type, given)), list(map(Tensor.data_ptr, given)), list(map(Tensor.stride, given)), list(map(Tensor.is_neg, given))


Capture = Callable[[Callable[[], Tensors]], tuple[Graph, Tensors]]


def capture(compute: Callable[[], Tensors]) -> tuple[Graph, Tensors]:
    """Record a computation on the current CUDA device.

    Source:
        https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(WARM_UP):
            compute()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = compute()
    return graph, result


class Replay:
    """A computation of tensors of one dtype, recorded for one network and shapes; threads take turns, for they share its buffers."""

    def __init__(self, mlp: MLP, build: Callable[[], Callable[..., Tensors]], record: Capture = capture) -> None:
        self._mlp, self._build, self._record = mlp, build, record
        self._addresses: list[tuple[int, bool]] = []
        self._looks: tuple[object, ...] = ()
        self._lock = threading.Lock()

    def __call__(self, *inputs: Tensor) -> Tensors:
        places(inputs, "an input")
        with self._lock:
            weights, biases = self._mlp.parameter_tuples()
            self._look((*weights, *biases), inputs)
            torch._foreach_copy_(self._inputs, list(inputs))
            self._graph.replay()
            taken = self._flat.clone()
        if len(self._shapes) == 1:
            return (taken.view(self._shapes[0]),)
        return tuple(part.view(shape) for part, shape in zip(taken.split(self._sizes), self._shapes, strict=True))

    def _look(self, parameters: Sequence[Tensor | None], inputs: Tensors) -> None:
        """Record, where the parameters stand elsewhere than at the last recording."""
        looks = _seen(parameters)
        if looks == self._looks:
            return
        now = places(parameters, "a parameter")
        if now != self._addresses:
            self._inputs = [t.detach().clone() for t in inputs]
            compute = self._build()
            self._graph, (self._flat, *_) = self._record(lambda: self._packed(compute))
            self._addresses = now
        self._looks = looks

    def _packed(self, compute: Callable[..., Tensors]) -> Tensors:
        """Compute, and put the results one behind the other."""
        found = compute(*self._inputs)
        self._shapes = [t.shape for t in found]
        self._sizes = [t.numel() for t in found]
        return (torch.cat([t.reshape(-1) for t in found]),)


def recorded(readable: Prepare) -> Prepare:
    """Make a method that records a readable one."""

    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        def build() -> Callable[..., Tensors]:
            run = readable(mlp, problem, request).run

            def compute(*inputs: Tensor) -> Tensors:
                with torch.no_grad():
                    y, found = run(inputs[0] if len(inputs) == 1 else inputs)
                return found if isinstance(found, tuple) else (found,) if y is None else (y, found)

            return compute

        replay = Replay(mlp, build)

        def run(inputs: Any) -> tuple[Any, Any]:
            found = replay(*(inputs if isinstance(inputs, tuple) else (inputs,)))
            if problem.quantity != JACOBIAN:
                return None, found
            *y, J = found
            return (y[0] if y else None), J

        return Computation(run, records=False)

    return prepare


def _supports(problem: Problem) -> str | None:
    if not problem.device.startswith("cuda"):
        return f"runs on CUDA, not on {problem.device}"
    return find_readable("", problem.quantity).supports(problem)


on_cuda = partial(register, hand_written=True, device="cuda")
for _name, _options, _summary in (
    ("forward", (), "forward mode in torch"),
    ("reverse", (), "reverse mode in torch"),
    ("mixed", (), "mixed mode in torch"),
    ("gradient/reverse", ("inputs", "unreduced"), "evaluation and pullback"),
    ("gradient_norms/reverse", (), "in torch"),
    ("ggn/products", (), "a JVP and a VJP"),
    ("ntk/structured", ("trace",), "products of factors"),
    ("laplacian/forward", (), "the forward sweep"),
    ("hessian/symmetric", (), "the symmetric form"),
    ("jacobian_gradient/reverse", (), "there and back"),
    ("jacobian_gradient/forward", (), "there and back"),
    ("laplacian_gradient/forward", (), "there and back"),
):
    on_cuda(f"{_name}:cuda-graph", supports=_supports, options=_options, summary=f"{_summary}, as a CUDA graph")(
        recorded(find_method(f"{_name}:eager").prepare)
    )

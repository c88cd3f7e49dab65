"""The readable modes under a CUDA graph: recorded once, then launched as a whole, so that small networks do not pay for each operation.

The recorded operations read x and the weights from where they were at the recording. x is copied there before each replay; weights that
changed in place are read as they are; weights that moved are noticed by their addresses, and the graph is recorded again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from jacobians.mlp import MLP
from jacobians.modes.forward import forward
from jacobians.modes.mixed import mixed
from jacobians.modes.reverse import reverse
from jacobians.problem import Problem
from jacobians.registry import Computation, Prepare, Request, register

Result = tuple[Tensor | None, Tensor]
WARM_UP = 3  # calls before the recording: libraries allocate their workspaces in the first ones


class Graph(Protocol):
    """What a recording offers."""

    def replay(self) -> None:
        """Run the recorded operations again."""


Capture = Callable[[Callable[[], Result]], tuple[Graph, Result]]


def capture(compute: Callable[[], Result]) -> tuple[Graph, Result]:
    """Record a computation on the current CUDA device.

    Args:
        compute: The computation; every tensor it uses must stay alive.

    Returns:
        The graph, and the tensors that each replay fills again.

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
    """A mode recorded for one network and one shape of x. Threads take turns, for they share its buffers.

    Args:
        mlp: The network.
        mode: `(mlp, x, value=...) -> (y or None, J)`.
        value: Whether y is wanted too.
        record: Records a computation; `capture` where there is a CUDA device.
    """

    def __init__(self, mlp: MLP, mode: Callable[..., Result], value: bool, record: Capture = capture) -> None:
        self._mlp, self._mode, self._value, self._record = mlp, mode, value, record
        self._parameters = [t for t in (*mlp.weights, *mlp.biases) if t is not None]
        self._addresses: list[int] = []
        self._lock = threading.Lock()

    def __call__(self, x: Tensor) -> Result:
        """Compute `(y or None, J)` at x, in tensors of their own."""
        with self._lock:
            now = [t.data_ptr() for t in self._parameters]
            if now != self._addresses:
                self._x = x.detach().clone()
                self._graph, self._result = self._record(lambda: self._mode(self._mlp, self._x, value=self._value))
                self._addresses = now
            self._x.copy_(x)
            self._graph.replay()
            y, J = self._result
            return (None if y is None else y.clone()), J.clone()


def _supports(problem: Problem) -> str | None:
    return None if problem.device.startswith("cuda") else f"runs on CUDA, not on {problem.device}"


def _prepare(mode: Callable[..., Result]) -> Prepare:
    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        return Computation(run=Replay(mlp, mode, request.value))

    return prepare


register("forward:cuda-graph", hand_written=True, supports=_supports, device="cuda", summary="forward mode in torch, as a CUDA graph")(
    _prepare(forward)
)
register("reverse:cuda-graph", hand_written=True, supports=_supports, device="cuda", summary="reverse mode in torch, as a CUDA graph")(
    _prepare(reverse)
)
register("mixed:cuda-graph", hand_written=True, supports=_supports, device="cuda", summary="mixed mode in torch, as a CUDA graph")(
    _prepare(mixed)
)

"""Walks over the steps of a network that is no chain: tangents forward, cotangents back, and second order forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jacobians.modes.scaling import ALL, Columns
from jacobians.modes.taylor import Stream, order_of, weighted

if TYPE_CHECKING:
    from jacobians.network.graph import Graph
    from jacobians.network.steps import Pair

Result = tuple[Tensor | None, Tensor]


class Tape:
    """The values of all steps at x, (D,) or (N, D), with the tensors that they read."""

    def __init__(self, graph: Graph, x: Tensor) -> None:
        graph.read()  # refuses a module that has changed
        self._graph, self._lead = graph, x.shape[:-1]
        self.x = x.reshape(-1, graph.D)
        self._tensors = [step.tensors() for step in graph.steps]
        self._values = graph.evaluate(self.x, self._tensors)
        self.y = self.shaped(self._values[-1])

    def shaped(self, t: Tensor) -> Tensor:
        """Give a result of all samples the leading axes of x."""
        return t.reshape(*self._lead, *t.shape[1:])

    def finished(self, t: Tensor) -> Tensor:
        """Do so for a derivative, which is no number where x is not finite."""
        nan_if_not_finite = (self.x - self.x).sum(-1)
        return self.shaped(t + nan_if_not_finite.reshape(-1, *[1] * (t.ndim - 1)))

    def eye(self, n: int) -> Tensor:
        """Return seeds (1, n, n)."""
        return torch.eye(n, dtype=self.x.dtype, device=self.x.device)[None]

    def push(self, seeds: Tensor) -> list[Tensor]:
        """Push tangents of x (N or 1, m, D) through all steps."""
        tangents = [seeds]
        for step, p, y in zip(self._graph.steps, self._tensors, self._values[1:], strict=True):
            h, T = ([of[i] for i in step.inputs] for of in (self._values, tangents))
            tangents.append(step.push(p, h, y, T))
        return tangents

    def pull(self, seeds: Tensor) -> Tensor:
        """Pull cotangents of y (N or 1, m, P) back to x: what several steps take gets the sum of theirs."""
        cotangents: list[Tensor | None] = [*[None] * len(self._graph.steps), seeds]
        for number in range(len(self._graph.steps), 0, -1):
            step, C = self._graph.steps[number - 1], cotangents[number]
            if C is None:
                continue
            h = [self._values[i] for i in step.inputs]
            for i, part in zip(step.inputs, step.pull(self._tensors[number - 1], h, self._values[number], C), strict=True):
                sofar = cotangents[i]
                cotangents[i] = part if sofar is None else sofar + part
        found = cotangents[0]
        return seeds.new_zeros(1, seeds.shape[1], self._graph.D) if found is None else found

    def bend(self, tangents: list[Tensor], pairs: int, pair: Pair) -> Tensor:
        """Push second derivatives along so many pairs of tangents: `q ← ∂f q + ∂²f T T`."""
        bent: list[Tensor | None] = [None]
        for step, p, y in zip(self._graph.steps, self._tensors, self._values[1:], strict=True):
            if not step.bends:
                raise ValueError("a softmax in the network has no second derivative here; leave it out, and take it of the result")
            h, T = ([of[i] for i in step.inputs] for of in (self._values, tangents))
            q = [bent[i] for i in step.inputs]
            new = step.bend(p, h, y, T, pair)
            there = next((t for t in q if t is not None), None)
            if there is not None:
                whole = [there.new_zeros(1, there.shape[1], t.shape[-1]) if s is None else s for s, t in zip(q, h, strict=True)]
                linear = step.push(p, h, y, whole)
                new = linear if new is None else linear + new
            bent.append(new)
        last = bent[-1]
        return self.x.new_zeros(1, pairs, self._graph.P) if last is None else last


def forward(graph: Graph, x: Tensor, value: bool, columns: Columns = ALL) -> Result:
    """Compute J by pushing one tangent for each column."""
    tape = Tape(graph, x)
    J = tape.finished(tape.push(tape.eye(graph.D)[:, columns])[-1].mT)
    return (tape.y if value else None), J


def reverse(graph: Graph, x: Tensor, value: bool, columns: Columns = ALL) -> Result:
    """Compute J by pulling one cotangent for each row."""
    tape = Tape(graph, x)
    J = tape.finished(tape.pull(tape.eye(graph.P))[..., columns])
    return (tape.y if value else None), J


def cheapest(graph: Graph, x: Tensor, value: bool, columns: Columns = ALL) -> Result:
    """Compute J along the fewer of its columns and rows."""
    wanted = len(range(graph.D)[columns]) if isinstance(columns, slice) else len(columns)
    return (forward if wanted <= graph.P else reverse)(graph, x, value, columns)


def laplacian(graph: Graph, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute y, J and Laplacians in one forward walk."""
    tape = Tape(graph, x)
    tangents = tape.push(tape.eye(graph.D))
    q = tape.bend(tangents, len(directions), lambda A, B: directions @ (A * B))
    return tape.y, tape.finished(tangents[-1].mT), tape.finished(q.mT)


def along(graph: Graph, x: Tensor, tangents: Tensor | None = None, seeds: Tensor | None = None) -> Tensor:
    """Compute derivatives of J, or of its products with seeds (N, Q, P), along tangents (N, R, D) or all coordinates: (N, P or Q, R, D)."""
    tape = Tape(graph, x)
    D = graph.D
    if tangents is None:  # a Hessian: each pair once
        first, second = torch.triu_indices(D, D, device=x.device)
        T = tape.eye(D)
        place = torch.empty(D, D, dtype=torch.long, device=x.device)
        place[first, second] = place[second, first] = torch.arange(len(first), device=x.device)
    else:
        N, R, _ = tangents.shape
        T = torch.cat([tape.eye(D).expand(N, -1, -1), tangents], 1)
        place = torch.arange(R * D, device=x.device).reshape(R, D)
        first, second = torch.arange(D, device=x.device).repeat(R), D + torch.arange(R, device=x.device).repeat_interleave(D)
    q = tape.bend(tape.push(T), len(first), _mean_of_both(first, second))
    found = q if seeds is None else q @ seeds.mT  # (N, pairs, P or Q)
    return tape.finished(found.mT[..., place])


def _mean_of_both(first: Any, second: Any) -> Pair:
    """Return what takes products of some tangents with others, either way round."""
    return lambda A, B: (A[:, first] * B[:, second] + A[:, second] * B[:, first]) / 2


def named(graph: Graph, x: Tensor, wanted: Sequence[Stream]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Compute y and derivatives of first and second order, or sums of them: tangents of the columns that they name, and a bend for each."""
    tape = Tape(graph, x)
    columns = sorted({d for stream in wanted for index, _ in stream for d in index})
    place = {d: number for number, d in enumerate(columns)}
    sums = [stream for stream in wanted if order_of(stream) == 2]
    terms = [(row, place[index[0]], place[index[1]], weight) for row, stream in enumerate(sums) for index, weight in stream]
    tangents = tape.push(tape.eye(graph.D)[:, columns])
    q = tape.x.new_empty(0)
    if sums:
        rows, first, second, weights = map(list, zip(*terms, strict=True))
        M = x.new_zeros(len(sums), len(terms))
        M[rows, list(range(len(terms)))] = x.new_tensor(weights)
        products = _mean_of_both(first, second)
        q = tape.bend(tangents, len(sums), lambda A, B: M @ products(A, B))

    def found(stream: Stream) -> Tensor:
        if order_of(stream) == 2:
            return tape.finished(q[:, sums.index(stream)])
        return tape.finished(weighted([(weight, tangents[-1][:, place[index[0]]]) for index, weight in stream]))

    return tape.y, tuple(map(found, wanted))


def pushforward(graph: Graph, x: Tensor, v: Tensor) -> Tensor:
    """Compute `J v`."""
    tape = Tape(graph, x)
    return tape.finished(tape.push(v.reshape(-1, 1, graph.D))[-1][:, 0])


def pullback(graph: Graph, x: Tensor, u: Tensor) -> Tensor:
    """Compute `Jᵀ u`."""
    tape = Tape(graph, x)
    return tape.finished(tape.pull(u.reshape(-1, 1, graph.P))[:, 0])

"""Derivatives by name, `u`, `u_t`, `u_xx`, …: how they are written, their cost, the oracle, and Taylor mode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from jacobians.modes import steps
from jacobians.modes.taylor import HIGHEST, Stream, carried, one, order_of, taylor, weighted
from jacobians.names import unknown
from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, Cost, Quantity, Request, readable, register_quantity
from jacobians.problem import Problem
from jacobians.quantities.laplacian import bends
from jacobians.quantities.parameters import followed, sizes


class Asked(NamedTuple):
    """A derivative, or a sum of derivatives, of one output; of order 0 the output itself."""

    output: int
    stream: Stream


@lru_cache(maxsize=1024)
def read(names: tuple[str, ...], inputs: tuple[str, ...], outputs: tuple[str, ...] | None, P: int) -> tuple[Asked, ...]:
    """Read names of derivatives by columns and of outputs with these names; of one output `None` lets the names say what it is called.

    Example:
        >>> read(("u_tx", "u_xx + 2*u_tt"), ("t", "x"), None, 1)
        (Asked(output=0, stream=(((0, 1), 1.0),)), Asked(output=0, stream=(((0, 0), 2.0), ((1, 1), 1.0))))
    """
    if not names:
        raise ValueError("no derivative is asked for; name some, e.g. ['u', 'u_x', 'u_xx']")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"names of derivatives must be strings such as 'u_xx', got {type(name).__name__}")
    if outputs is None:
        outputs = numbered("y", P) if P > 1 else (_only_output(names),)
    return tuple(_read_one(name, inputs, outputs) for name in names)


def _only_output(names: Sequence[str]) -> str:
    """Find what the names call the one output."""
    found = dict.fromkeys(re.sub(r"^[\d.]+\s*\*\s*|^(bi)?laplacian\(|\)$", "", part.strip()) for name in names for part in name.split("+"))
    outputs = list(dict.fromkeys(text.partition("_")[0].strip() for text in found))
    if len(outputs) > 1:
        raise ValueError(f"the network has one output, but the names have {len(outputs)}: {', '.join(outputs)}; use one name for it")
    return outputs[0]


def _read_one(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Asked:
    call = re.fullmatch(r"\s*(bi)?laplacian\(\s*(\w+)\s*\)\s*", name)
    if call:
        pairs = product(range(len(inputs)), repeat=2 if call[1] else 1)
        found = [(_output(call[2], name, outputs), tuple(sorted(pair * 2)), 1.0) for pair in pairs]
    else:
        found = [_read_term(text.strip(), name, inputs, outputs) for text in name.split("+")]
    if len({(output, len(index)) for output, index, _ in found}) > 1:
        raise ValueError(f"{name!r} adds derivatives of several outputs or orders; ask for each, and add the results")
    weights: dict[tuple[int, ...], float] = {}
    for _, index, weight in found:
        weights[index] = weights.get(index, 0.0) + weight
    if len(found[0][1]) > HIGHEST:
        raise ValueError(
            f"{name!r} is of order {len(found[0][1])}, and at most {HIGHEST} are computed; ask for one of a lower order with "
            f"create_graph=True, and differentiate it by torch.autograd.grad"
        )
    return Asked(found[0][0], tuple(sorted(weights.items())))


def _read_term(text: str, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> tuple[int, tuple[int, ...], float]:
    factor = re.match(r"(\d+(?:\.\d+)?)\s*\*\s*", text)
    text = text[factor.end() :] if factor else text
    output = max((known for known in outputs if text == known or text.startswith(f"{known}_")), key=len, default=text.partition("_")[0])
    by = text[len(output) + 1 :]
    letters = [by] if by in inputs else re.split(r"\s*,\s*", by[1:-1].strip()) if re.fullmatch(r"\{.*\}", by) else list(by)
    place = _output(output, name, outputs)
    if text == f"{output}_":
        raise ValueError(f"{name!r} ends in '_'; write {output!r} for the output, or e.g. '{output}_{inputs[0]}' for a derivative of it")
    for letter in letters:
        if letter not in inputs:
            if not by.startswith("{") and all(len(i) > 1 for i in inputs):  # which cannot be written side by side
                raise ValueError(
                    f"{unknown('input', by, inputs)} (in {name!r}; longer names go in braces, as in 'u_{{{inputs[0]},{inputs[0]}}}')"
                )
            raise ValueError(f"{unknown('input', letter, inputs)} (in {name!r})")
    return place, tuple(sorted(map(inputs.index, letters))), float(factor[1]) if factor else 1.0


def _output(given: str, name: str, outputs: tuple[str, ...]) -> int:
    """Find an output by its name or its number."""
    if given in outputs:
        return outputs.index(given)
    if re.fullmatch(r"\d+", given) and int(given) < len(outputs):
        return int(given)
    raise ValueError(f"{unknown('output', given, outputs)} (in {name!r}); outputs= names them")


def numbered(name: str, count: int) -> tuple[str, ...]:
    """Name columns that have one name together.

    Example:
        >>> numbered("x", 3), numbered("t", 1)
        (('x0', 'x1', 'x2'), ('t',))
    """
    return (name,) if count == 1 else tuple(f"{name}{number}" for number in range(count))


@lru_cache(maxsize=1024)
def write(asked: tuple[Asked, ...], D: int, P: int) -> str:
    """Write what is asked as problems hold it: with the outputs y, or y0, y1, …, and the columns x, or x0, x1, …

    Example:
        >>> write(read(("u", "u_tx", "laplacian(u)"), ("t", "x"), None, 1), 2, 1)
        'y y_{x0,x1} y_{x0,x0}+y_{x1,x1}'
    """
    inputs, outputs = numbered("x", D), numbered("y", P)

    def term(output: int, index: tuple[int, ...], weight: float) -> str:
        by = f"_{inputs[index[0]]}" if len(index) == 1 else f"_{{{','.join(inputs[d] for d in index)}}}" if index else ""
        return f"{'' if weight == 1 else f'{weight:g}*'}{outputs[output]}{by}"

    return " ".join("+".join(term(one_.output, *part) for part in one_.stream) for one_ in asked)


def asked_of(problem: Problem) -> tuple[Asked, ...]:
    """Return what a problem asks for; by default the outputs with all first and second derivatives along the coordinates."""
    D, P = problem.D, problem.P
    if problem.asked is None:
        return tuple(Asked(p, one(index)) for p in range(P) for index in ((), *((d,) * k for k in (1, 2) for d in range(D))))
    return read(tuple(problem.asked.split(" ")), numbered("x", D), numbered("y", P), P)


def order(problem: Problem) -> int:
    """Return the highest order that is asked for."""
    return max(order_of(stream) for _, stream in asked_of(problem))


def sums_of(problem: Problem) -> list[Stream]:
    """Return the different second derivatives, or sums of them."""
    return list(dict.fromkeys(stream for _, stream in asked_of(problem) if order_of(stream) == 2))


def mixed_of(problem: Problem) -> list[tuple[int, ...]]:
    """Return the pairs of columns that second derivatives are mixed of."""
    return list(dict.fromkeys(index for stream in sums_of(problem) for index, _ in stream if index[0] != index[1]))


def _cost(problem: Problem, mode: str) -> Cost:
    """Count the evaluation, and all that is carried through all layers but the first, with the products that it is made of."""
    s, program = sizes(problem), carried(tuple(stream for _, stream in asked_of(problem) if order_of(stream)))[0]
    if mode in {"forward", "reverse"}:  # all columns, or all rows
        streams, sums = (problem.D + len(mixed_of(problem)), len(sums_of(problem))) if mode == "forward" else (problem.P, 0)
        flops = 2 * s.weights + 2 * (streams + sums) * (s.weights - s.first) + (3 * streams * (1 + sums) + 4 + 2 * sums) * s.neurons
        return Cost(problem.N * flops, problem.itemsize * (s.parameters + problem.N * (problem.D + problem.P * (1 + streams + sums))))
    products = sum(1 + sum(1 + len(factors) for terms in each.values() for _, factors in terms) for each in program.values())
    flops = 2 * s.weights + 2 * len(program) * (s.weights - s.first) + (2 + 2 * order(problem) + products) * s.neurons
    return Cost(problem.N * flops, problem.itemsize * (s.parameters + problem.N * (problem.D + len(asked_of(problem)))))


def by_autograd(y: Tensor, x: Tensor, asked: Sequence[Asked], create_graph: bool) -> tuple[Tensor, ...]:
    """Differentiate again and again, as codes for differential equations do; each derivative once."""
    known: dict[tuple[int, tuple[int, ...]], Tensor] = {}
    recorded = any(order_of(stream) for _, stream in asked)

    def derivative(p: int, index: tuple[int, ...]) -> Tensor:
        if (p, index) not in known:
            if not index:
                known[p, index] = y[:, p]
            else:
                below = derivative(p, index[:-1])
                again = create_graph or any(len(m) > len(index) for _, s in asked for m, _ in s)
                row = None
                if below.requires_grad and recorded:
                    (row,) = torch.autograd.grad(below.sum(), x, create_graph=again, retain_graph=True, allow_unused=True)
                for d in range(x.shape[1]):
                    known[p, (*index[:-1], d)] = x.new_zeros(len(x)) if row is None else row[:, d]
        return known[p, index]

    return tuple(sum((w * derivative(p, m) for m, w in stream[1:]), stream[0][1] * derivative(p, stream[0][0])) for p, stream in asked)


def _exact(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        y, at, _ = followed(mlp, problem, inputs[0])
        found = by_autograd(y, at, asked_of(problem), create_graph=False)
    return tuple(t.detach().reshape(problem.input_shape[:-1]) for t in found)


def why_not(problem: Problem) -> str | None:
    """Say why Taylor mode does not serve a problem."""
    if problem.structure and order(problem) > 2:
        return (
            f"computes third and fourth derivatives of chains of layers alone, and this network is none ({problem.structure}); "
            "ask for second ones with create_graph=True, and differentiate them by torch.autograd.grad"
        )
    return bends(problem)


register_quantity(
    Quantity(
        "derivatives",
        "Derivatives by name",
        {
            "taylor": "∂^m h = Σ_π φ⁽|π|⁾(z) Π_B ∂^B z over the partitions π of m, beside the value",
            "forward": "the forward Laplacian, a weighted sum for each second derivative",
            "reverse": "gradients of gradients, one for each derivative",
            "forward-over-reverse": "entries of the Jacobian of the Jacobian … of the network",
            "nested": "tangents of tangents, for each derivative",
        },
        _cost,
        _exact,
        per_sample=True,
        relabelled=True,
        order=order,
        call='d = jac.derivatives(mlp, x, "{asked}".split(), method="{method}")',
    )
)


@readable("derivatives/taylor:eager", supports=why_not, options=("steps",), summary="Taylor mode in several variables, in torch")
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    asked = asked_of(problem)
    wanted = tuple(dict.fromkeys(stream for _, stream in asked if order_of(stream)))

    def run(x: Tensor) -> tuple[None, tuple[Tensor, ...]]:
        at = x.reshape(-1, problem.D)
        y, found = taylor(mlp, at, wanted) if mlp.graph is None else steps.named(mlp.graph, at, wanted)
        columns = {stream: t.unbind(-1) for stream, t in zip((one(()), *wanted), (y, *found), strict=True)}
        each = (columns[s][p] if s in columns else weighted([(w, columns[one(m)][p]) for m, w in s]) for p, s in asked)
        return None, tuple(t.reshape(x.shape[:-1]) for t in each)

    return Computation(run=run)

"""Taylor mode: chosen derivatives of any order up to the fourth, pushed through the chain beside the value. One pass, no tape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, reduce
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from jacobians.network.activations import Activation
from jacobians.network.mlp import MLP

HIGHEST = 4  # order
Index = tuple[int, ...]  # columns of x, ascending: (0, 1, 1) is ∂³/∂x_0∂x_1²
Stream = tuple[tuple[Index, float], ...]  # what is carried: a derivative, or a weighted sum of derivatives of one order
Products = Mapping[int, tuple[tuple[float, tuple[Stream, ...]], ...]]  # k -> the weighted products of streams that φ⁽ᵏ⁾ multiplies


def taylor(mlp: MLP, x: Tensor, wanted: Sequence[Stream]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Push the value and all derivatives that the wanted ones are made of: a truncated Taylor series in several variables.

    With `u_m = ∂^m z`, a linear layer multiplies each by W, and an activation composes them by Faà di Bruno's formula over the partitions
    of m into blocks,

        ∂^m h = Σ_π φ⁽|π|⁾(z) Π_{B in π} u_B        e.g.  h_xy = φ' u_xy + φ'' u_x u_y

    Carried are only divisors of the wanted m: u_xxyy takes 9 numbers a neuron, where the univariate series that polarisation needs for it
    (along x, y, x + y and x - y) take 17. A sum of derivatives of which nothing else is made is carried as one.

    Example:
        >>> mlp = MLP([torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])], activation="exp")
        >>> y, (cubic,) = taylor(mlp, torch.zeros(1, 2), [one((0, 0, 1))])  # exp(2 a + b)
        >>> cubic
        tensor([[4.]])

    Source:
        Griewank, Utke & Walther, Evaluating higher derivative tensors by forward propagation of univariate Taylor series, Math. Comp. 69
        (2000); Griewank & Walther, Evaluating Derivatives (2nd ed., 2008), chapter 13.
    """
    program, ends = carried(tuple(wanted))
    order = max((order_of(stream) for stream in program), default=0)
    kept = set(ends) if mlp.activations[-1].linear else set(program)  # of what leaves the last hidden layer
    h, u = x, {}
    for index, (W, b, rule) in enumerate(zip(*mlp.parameter_tuples(), mlp.activations, strict=True)):
        z = F.linear(h, W, b)
        if index == 0:
            u = {stream: W[:, stream[0][0][0]] for stream in program if order_of(stream) == 1}
        elif u:
            u = {stream: F.linear(t, W) for stream, t in u.items()}
        h = rule.value(z)
        if not rule.linear:
            d = _derivatives(rule, z, h, order)
            made: dict[tuple[Stream, ...], Tensor | None] = {(stream,): t for stream, t in u.items()}
            u = {s: t for s, products in program.items() if (t := _push(s, products, made, d)) is not None}
        if index == mlp.L - 1:
            u = {stream: t for stream, t in u.items() if stream in kept}
    zero = (x - x).sum(-1, keepdim=True)  # NaN where x is not finite
    found = {stream: u[stream].expand_as(h) + zero if stream in u else torch.zeros_like(h) + zero for stream in ends}
    return h, tuple(found[s] if s in found else weighted([(w, found[one(m)]) for m, w in s]) for s in wanted)


def one(index: Index) -> Stream:
    """Return the stream of a single derivative."""
    return ((index, 1.0),)


def order_of(stream: Stream) -> int:
    """Return the order of a derivative."""
    return len(stream[0][0])


@lru_cache(maxsize=256)
def carried(wanted: tuple[Stream, ...]) -> tuple[dict[Stream, Products], tuple[Stream, ...]]:
    """Say what has to be carried, by ascending order, with the products of each, and which of it the wanted ones are read off.

    Example:
        >>> program, _ = carried((one((0, 0)), one((0, 1))))
        >>> [index for ((index, _),) in program]
        [(0,), (1,), (0, 0), (0, 1)]
    """
    single = {m for stream in wanted for index, _ in stream for size in range(1, len(index)) for m in combinations(index, size)}
    single |= {stream[0][0] for stream in wanted if stream == one(stream[0][0])}
    sums = [stream for stream in wanted if not {index for index, _ in stream} <= single]
    streams = dict.fromkeys([*map(one, sorted(single, key=lambda m: (len(m), m))), *sums])
    ends = dict.fromkeys(s for stream in wanted for s in ([stream] if stream in streams else [one(m) for m, _ in stream]))
    return {stream: _products(stream) for stream in sorted(streams, key=order_of)}, tuple(ends)


def _partitions(places: Index) -> Iterator[tuple[Index, ...]]:
    if not places:
        yield ()
    for rest in _partitions(places[1:]) if places else ():
        yield ((places[0],), *rest)
        for number, block in enumerate(rest):
            yield (*rest[:number], (places[0], *block), *rest[number + 1 :])


def _products(stream: Stream) -> Products:
    """Sum up equal products over the partitions of each index, but for the whole, which is the stream itself."""
    counted: dict[int, dict[tuple[Index, ...], float]] = {}
    for index, weight in stream:
        for blocks in _partitions(index):
            if len(blocks) > 1:
                same = counted.setdefault(len(blocks), {})
                key = tuple(sorted(blocks))
                same[key] = same.get(key, 0.0) + weight
    return {k: tuple((weight, tuple(map(one, blocks))) for blocks, weight in same.items()) for k, same in counted.items()}


def _derivatives(rule: Activation, z: Tensor, h: Tensor, order: int) -> Sequence[Tensor | None]:
    """Return φ', φ'' … of a layer, as many as are needed; those of tanh from each other, in half the operations."""
    if rule.name == "tanh" and rule.scale == 1:
        s = 1 - h * h
        found = [s]
        if order > 1:
            found.append(h * s * -2)
        if order > 2:
            found.append(s * torch.rsub(s, 4, alpha=6))
        if order > 3:
            found.append(found[1] * torch.rsub(s, 4, alpha=12))
        return found
    return [derivative(z, h) for derivative in (rule.slope, rule.curvature, rule.third, rule.fourth)[:order]]


def _push(stream: Stream, products: Products, made: dict[tuple[Stream, ...], Tensor | None], d: Sequence[Tensor | None]) -> Tensor | None:
    """Compose one derivative with an activation, of products that others may have made; `None` where it is zero everywhere."""
    total = made.get((stream,))
    if total is not None and d[0] is not None:
        total = d[0] * total
    for k, terms in products.items():
        for weight, factors in terms:
            by, product = d[k - 1], _product(factors, made)
            if by is not None and product is not None:
                total = weight * (by * product) if total is None else torch.addcmul(total, by, product, value=weight)
    return total


def _product(factors: tuple[Stream, ...], made: dict[tuple[Stream, ...], Tensor | None]) -> Tensor | None:
    if factors not in made:
        first, last = (_product(factors[:-1], made), made.get(factors[-1:])) if len(factors) > 1 else (None, None)
        made[factors] = None if first is None or last is None else first * last
    return made[factors]


def weighted(parts: Sequence[tuple[float, Tensor]]) -> Tensor:
    """Add up tensors with weights."""
    return reduce(torch.add, (t if weight == 1 else weight * t for weight, t in parts))

"""How time grows with the width M of layers as wide as the input: fitted exponents, those between neighbours, and the operations'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from scipy.stats import linregress, t

from benchmarks.records.problems import best_by_mode, certainties
from benchmarks.records.rows import Row
from plots.families import by_size

TAIL = 256  # least M of a fit: below, a call is mostly overhead
NAMED = ("forward", "reverse")


def exponent(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Fit `y ∝ x^e` by least squares on logarithms.

    Example:
        >>> e, half = exponent([1, 2, 4, 8], [3, 12, 48, 192])
        >>> round(e, 6), half < 1e-6
        (2.0, True)
    """
    if len(x) < 3:
        return None
    fit: Any = linregress([math.log(value) for value in x], [math.log(value) for value in y])
    return float(fit.slope), float(fit.stderr * t.ppf((1 + confidence) / 2, len(x) - 2))


def square(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with D = K and one output, at the depth with most widths: the course notebook's M."""
    by_depth: dict[int, list[Row]] = {}
    for row in rows:
        if row.D == row.K and row.P == 1 and row.N == 1:
            by_depth.setdefault(row.L, []).append(row)
    best = max(by_depth.values(), key=lambda group: len({row.K for row in group}), default=[])
    return best if len({row.K for row in best}) >= 3 else []


@dataclass(frozen=True, slots=True)
class Tail:
    """The growth of a mode from M = 256 on."""

    mode: str
    rows: tuple[Row, ...]  # the fastest hand-written one of each M, ascending
    fitted: float  # exponent of the medians
    half_width: float  # of its 95 % interval
    of_minima: float  # exponent of the fastest rounds
    local: tuple[float, ...]  # exponents between neighbouring M, of the fastest rounds
    counted: float  # exponent of the operations


def tails(rows: Sequence[Row]) -> list[Tail]:
    """Fit forward and reverse mode; nothing where there are fewer than three widths."""
    found: list[Tail] = []
    chosen = [row for row in square(rows) if row.D >= TAIL]
    best = [best_by_mode(here) for here in by_size(chosen, "D").values()]
    for mode in NAMED:
        own = tuple(modes[mode] for modes in best if mode in modes)
        M, least = [row.D for row in own], [row.min_s or row.median for row in own]
        fits = [exponent(M, values) for values in ([row.median for row in own], least, [row.flops or 1 for row in own])]
        if fits[0] and fits[1] and fits[2]:
            local = tuple(math.log(b / a) / math.log(n / m) for (m, a), (n, b) in pairwise(zip(M, least, strict=True)))
            found.append(Tail(mode, own, *fits[0], fits[1][0], local, fits[2][0]))
    return found


def sentence(rows: Sequence[Row]) -> str:
    """Say how the modes grow."""
    found = tails(rows)
    if not found:
        return ""
    first, widths = found[0].rows[0], [row.D for row in found[0].rows]
    grown = ", ".join(
        f"{tail.mode} as M^{tail.fitted:.2f} (±{tail.half_width:.2f}; fastest rounds M^{tail.of_minima:.2f})" for tail in found
    )
    local = "; ".join(f"{tail.mode} {', '.join(f'{e:.1f}' for e in tail.local)}" for tail in found)
    counted = ", ".join(f"{tail.mode} M^{tail.counted:.2f}" for tail in found)
    return (
        f"With inputs and layers M wide and one output (L = {first.L}), time grows, from M = {widths[0]} to {widths[-1]}: {grown}; by the "
        f"operations {counted}. Exponents between neighbours (M = {', '.join(map(str, widths))}; fastest rounds): {local}. Of these times, "
        f"{certainties([row for tail in found for row in tail.rows])}."
    )

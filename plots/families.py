"""Rows grouped as figures need them, and shared labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from benchmarks.records.problems import against_libraries, contenders, key_of, ratio
from benchmarks.records.rows import Row
from jacobians.planning.registry import MODES
from plots.chart import Trace

VARIABLES = {"L": "hidden layers L", "D": "input width D", "K": "hidden width K", "P": "output width P", "N": "samples N"}
Point = tuple[float, float, float, float]


def families(rows: Iterable[Row], variable: str) -> list[list[Row]]:
    """Group the rows whose problems differ in one size alone, where it takes at least three values."""
    return [group for group in _alike(rows, variable) if len(by_size(group, variable)) >= 3]


def by_size(rows: Iterable[Row], variable: str) -> dict[int, list[Row]]:
    """Return the rows of each value of a size, ascending."""
    found: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: getattr(row, variable)):
        found.setdefault(getattr(row, variable), []).append(row)
    return found


def best_over(rows: Iterable[Row], variable: str) -> dict[str, dict[float, Row]]:
    """Return, over a size, the fastest hand-written row of each mode, and the fastest one of a library as `library`."""
    best: dict[str, dict[float, Row]] = {}
    for size, here in by_size(rows, variable).items():
        for name, row in contenders(here).items():
            best.setdefault(name, {})[size] = row
    return best


def grids(rows: Iterable[Row]) -> list[list[Row]]:
    """Group the rows over D × P with at least three values of each."""
    found = _alike(rows, "D", "P")
    return [g for g in found if len({(r.D, r.P) for r in g}) >= 9 and len(by_size(g, "D")) >= 3 and len(by_size(g, "P")) >= 3]


def _alike(rows: Iterable[Row], *variables: str) -> list[list[Row]]:
    """Group the rows whose problems are the same but for some sizes."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        if row.K is not None:  # irregular widths have no one size to vary
            sizes = (getattr(row, name) for name in VARIABLES if name not in variables)
            found.setdefault((row.sweep, *sizes, *key_of(row)[3:], row.threads), []).append(row)
    return list(found.values())


def crossings(x: Sequence[float], ratios: Sequence[float]) -> tuple[float, ...]:
    """Find where a ratio crosses 1, by interpolation on log-log axes.

    Example:
        >>> crossings([1, 4], [0.5, 2.0])
        (2.0,)
    """
    found: list[float] = []
    for (x0, r0), (x1, r1) in pairwise(zip(x, ratios, strict=True)):
        a, b = math.log(r0), math.log(r1)
        if a == 0 or a * b < 0:
            found.append(math.exp(math.log(x0) + (math.log(x1) - math.log(x0)) * a / (a - b)) if a else float(x0))
    return tuple(round(position, 10) for position in found)


def ahead(fast: Row, slow: Row, times: float = 1.0) -> bool:
    """Say whether a row is faster, by more than both intervals."""
    return point(0, fast)[3] < point(0, slow)[2] and times * fast.median < slow.median


def meetings(forward: Mapping[float, Row], reverse: Mapping[float, Row]) -> Iterator[tuple[str, float, float, float]]:
    """Find where the modes are equal, between sizes whose intervals are apart: what noise could turn is not marked.

    Each is the mode that is faster before, the place, and the sizes around it.
    """
    both = sorted(x for x in forward.keys() & reverse.keys() if x > 0)
    equal = crossings(both, [forward[x].median / reverse[x].median for x in both])
    pairs = (("forward", forward, reverse), ("reverse", reverse, forward))
    clear = [(x, mode) for x in both for mode, fast, slow in pairs if ahead(fast[x], slow[x])]
    for (before, first), (after, then) in pairwise(clear):
        if first != then:
            here = [math.log(x) for x in equal if before <= x <= after]
            x = math.exp(sum(here) / len(here))  # several only where noise decides
            yield first, x, max(a for a in both if a <= x), min(a for a in both if a >= x)


def make_trace(method: str, label: str, points: Iterable[Point]) -> Trace:
    """Make a trace of points in any order."""
    x, y, low, high = zip(*sorted(points), strict=True)
    return Trace(method, label, x, y, low, high)


def point(position: float, row: Row) -> Point:
    """Place a row's median with its interval."""
    return position, row.median, row.ci_low_s or row.median, row.ci_high_s or row.median


def look_of(name: str) -> tuple[str, str]:
    """Return the look and the label of a hand-written mode, or of the best library."""
    return (f"{name}:native", f"{name}, hand-written") if name in MODES else ("library:best", "best library")


def mode_traces(rows: Mapping[str, Iterable[tuple[float, Row]]]) -> tuple[Trace, ...]:
    """Make the traces of the modes and of the best library."""
    order = [name for name in (*MODES, "library") if name in rows]
    return tuple(make_trace(*look_of(name), [point(x, row) for x, row in rows[name]]) for name in order)


def limit_of(label: str, least: Mapping[int, float]) -> Trace | None:
    """Make the trace of what cannot be, over at least two sizes."""
    return make_trace("limit", label, [(x, y, y, y) for x, y in least.items()]) if len(least) > 1 else None


def subtitle_of(rows: Sequence[Row], *varying: str) -> str:
    """Write the sizes, settings and hardware that the rows of a chart share."""
    first = rows[0]
    sizes = ", ".join(f"{name} = {getattr(first, name)}" for name in VARIABLES if name not in varying)
    biases = "biases" if first.bias else "no biases"
    return f"{sizes}, {first.activation}, {first.init} weights, {biases}, {first.dtype}\n{hardware(rows)}"


def hardware(rows: Sequence[Row]) -> str:
    """Name the devices of rows."""
    return "; ".join(dict.fromkeys(f"{row.device_name} ({row.device}, {row.threads} threads)" for row in rows))


def lead(rows: Sequence[Row]) -> str:
    """Say how the best hand-written method stands to the best library, over the problems of a chart."""
    found = sorted(ratio(library, ours).value for ours, library in against_libraries(rows))
    if not found:
        return ""
    wins = sum(value > 1 for value in found)
    span = f"{found[0]:.3g}" if len(found) == 1 else f"{found[0]:.3g} to {found[-1]:.3g}"
    return f"Ahead of the best library on {wins} of {len(found)} problems: {span} times as fast."

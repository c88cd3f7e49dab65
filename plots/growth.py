"""How times grow with each size: the best of ours in each mode, the best peer, the ceiling, and fitted exponents."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from scipy.stats import linregress, t

from benchmarks.records.rows import Row, ok_rows
from plots.data import LineChart
from plots.traces import VARIABLES, best_by_mode, families, is_hand_written, make_trace, subtitle_of

MODES = ("forward", "reverse", "mixed")


def growth_charts(rows: Sequence[Row], stem: str) -> list[LineChart]:
    """Make one chart per size that alone varies in the rows.

    Args:
        rows: Rows of one sweep and device.
        stem: Start of the file names.

    Returns:
        The charts.
    """
    valid = ok_rows(rows)
    found: list[LineChart] = []
    for variable in VARIABLES:
        for family in families(valid, variable):
            if {row.mode for row in family if is_hand_written(row.method)} >= {"forward", "reverse"}:
                found.append(_chart(family, variable, f"{stem}-{variable}", lambda row, v=variable: getattr(row, v), VARIABLES[variable]))
    return found


def square_chart(rows: Sequence[Row], stem: str) -> LineChart | None:
    """Make the chart of layers of equal width, D = K = M, with one output: the course notebook's M² against M³.

    Args:
        rows: Rows of one sweep and device.
        stem: File name.

    Returns:
        The chart, or `None` where fewer than three such problems were measured.
    """
    square = [row for row in ok_rows(rows) if row.D == row.K and row.P == 1 and row.N == 1]
    groups: dict[int, list[Row]] = {}
    for row in square:
        groups.setdefault(row.L, []).append(row)
    family = max(groups.values(), key=lambda group: len({row.K for row in group}), default=[])
    if len({row.K for row in family}) < 3:
        return None
    return _chart(family, "M", stem, lambda row: row.D, "width M of input and hidden layers (D = K = M)")


def exponent(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Fit `y ∝ x^e` by least squares on logarithms.

    Args:
        x: Positive positions.
        y: Positive values there.
        confidence: Coverage of the interval.

    Returns:
        e and the half-width of its interval; `None` for fewer than three points.

    Example:
        >>> e, half = exponent([1, 2, 4, 8], [3, 12, 48, 192])
        >>> round(e, 6), half < 1e-6
        (2.0, True)
    """
    if len(x) < 3:
        return None
    fit: Any = linregress([math.log(value) for value in x], [math.log(value) for value in y])
    return float(fit.slope), float(fit.stderr * t.ppf((1 + confidence) / 2, len(x) - 2))


def large(x: Sequence[float]) -> list[int]:
    """Choose the points that show how a time grows: the upper half of the range, at least three.

    Args:
        x: Ascending positions.

    Returns:
        Their indices.
    """
    middle = math.sqrt(x[0] * x[-1])
    upper = [i for i, value in enumerate(x) if value >= middle]
    return upper if len(upper) >= 3 else list(range(max(0, len(x) - 3), len(x)))


def _chart(family: list[Row], variable: str, stem: str, position: Callable[[Row], float], x_label: str) -> LineChart:
    points: dict[str, list[Row]] = {}
    floors: list[tuple[float, float, float, float]] = []
    for value in sorted({position(row) for row in family}):
        here = [row for row in family if position(row) == value]
        for mode, row in best_by_mode(here).items():
            points.setdefault(mode, []).append(row)
        peers = [row for row in here if not is_hand_written(row.method) and row.implementation != "dense"]
        if peers:
            points.setdefault("peer", []).append(min(peers, key=lambda row: row.median))
        floor = min((row.fraction_of_ceiling * row.median for row in here if row.fraction_of_ceiling), default=None)
        if floor is not None:
            floors.append((value, floor, floor, floor))
    traces = [
        make_trace(
            f"{name}:native" if name in MODES else "peer:best",
            [(position(row), row.median, row.ci_low_s or row.median, row.ci_high_s or row.median) for row in points[name]],
            label=f"{name}, ours" if name in MODES else "best peer",
        )
        for name in (*MODES, "peer")
        if name in points
    ]
    shared = (variable,) if variable != "M" else ("D", "K")
    return LineChart(
        stem=stem,
        title=f"Growth with {x_label}",
        subtitle=subtitle_of(family, *shared),
        x_label=x_label,
        traces=tuple(traces),
        crossovers=(),
        caption=_caption(variable, points, position),
        ceilings=(make_trace("ceiling", floors, label="ceiling"),) if floors else (),
    )


def _caption(variable: str, points: dict[str, list[Row]], position: Callable[[Row], float]) -> str:
    parts: list[str] = []
    span = ""
    for mode in MODES:
        rows = points.get(mode, [])
        x = [position(row) for row in rows]
        chosen = large(x) if len(x) >= 3 else []
        fitted = exponent([x[i] for i in chosen], [rows[i].median for i in chosen])
        counted = exponent([x[i] for i in chosen], [rows[i].flops or 1 for i in chosen])
        if fitted and counted:
            parts.append(f"{mode} {variable}^{fitted[0]:.2f} ± {fitted[1]:.2f} (operations {counted[0]:.2f})")
            span = f"from {variable} = {x[chosen[0]]:g} to {x[chosen[-1]]:g}"
    grown = f"Fitted growth {span}: {', '.join(parts)}." if parts else ""
    gains: list[float] = []
    for peer in points.get("peer", []):
        ours = [row for mode in MODES for row in points.get(mode, []) if row.problem_key == peer.problem_key]
        if ours:
            gains.append(peer.median / min(row.median for row in ours))
    beside = f"The best of ours is {min(gains):.2f} to {max(gains):.2f} times as fast as the best peer." if gains else ""
    return " ".join(part for part in (grown, beside) if part)

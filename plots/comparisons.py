"""The data of the figures that compare: winners over D × P, speed-ups, the roofline, what mixed mode saves, the planner's regret."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

from benchmarks.analysis.regret import groups, problem_of_row, regrets, row_title
from benchmarks.analysis.scoreboard import names_of
from benchmarks.analysis.tables import speed_up
from benchmarks.records.rows import Row, ok_rows
from benchmarks.workloads.cases import Sweep
from jacobians.cost import cost
from jacobians.estimate import estimate
from jacobians.machine import Ceilings
from jacobians.modes.bracketing import known_bracketing
from plots.data import Roofline, ScatterChart, SpeedupChart, StepChart, Trace, WinnerMap
from plots.traces import best_by_mode, crossings, grids, hardware, is_hand_written, make_trace, subtitle_of

MODES = ("forward", "reverse", "mixed")


def winner_maps(rows: Sequence[Row], stem: str, rates: Mapping[str, Ceilings]) -> list[WinnerMap]:
    """Map the fastest method over D × P, one map per hidden width.

    Args:
        rows: Rows of one sweep and device.
        stem: Start of the file names.
        rates: Device to ceilings, for the predicted crossover.

    Returns:
        The maps.
    """
    found: list[WinnerMap] = []
    for grid in grids(ok_rows(rows)):
        D, P = sorted({row.D for row in grid}), sorted({row.P for row in grid})
        cells = {(d, p): [row for row in grid if (row.D, row.P) == (d, p)] for d, p in product(D, P)}
        best = {cell: min(here, key=lambda row: row.median) for cell, here in cells.items() if here}
        ratio = {}
        for cell, here in cells.items():
            modes = best_by_mode(here)
            if {"forward", "reverse"} <= modes.keys():
                ratio[cell] = modes["forward"].median / modes["reverse"].median
        along_d = {(x, float(p)) for p in P for x in _crossings([(d, ratio[d, p]) for d in D if (d, p) in ratio])}
        along_p = {(float(d), y) for d in D for y in _crossings([(p, ratio[d, p]) for p in P if (d, p) in ratio])}
        first = grid[0]
        predicted = _predicted_crossover(first, D, P, rates.get(first.device))
        found.append(
            WinnerMap(
                stem=f"{stem}-K{first.K}",
                title=f"The fastest method over input and output width, K = {first.K}",
                subtitle=subtitle_of(grid, "D", "P"),
                D=tuple(D),
                P=tuple(P),
                winner=tuple(tuple(_plainest(best[d, p]) if (d, p) in best else "" for d in D) for p in P),
                seconds=tuple(tuple(best[d, p].median if (d, p) in best else math.nan for d in D) for p in P),
                predicted=tuple(predicted),
                measured=tuple(sorted(along_d | along_p)),
                caption=_winners_caption(list(best.values()), along_d | along_p),
            )
        )
    return found


def _winners_caption(best: list[Row], measured: set[tuple[float, float]]) -> str:
    counts: dict[str, int] = {}
    for row in best:
        counts[_plainest(row)] = counts.get(_plainest(row), 0) + 1
    by_count = sorted(counts.items(), key=lambda item: -item[1])
    words = ", ".join(f"{method} in {count}" for method, count in by_count)
    off = [d / p for d, p in measured]
    where = f" Our forward and reverse mode take equal time (dots) at D/P from {min(off):.2g} to {max(off):.2g}." if off else ""
    return f"Fastest of {len(best)} cells: {words}.{where} Line: where the planner predicts them equal."


def _plainest(row: Row) -> str:
    """Name a method; mixed mode by the mode that it is there, where it is one."""
    if row.mode != "mixed":
        return row.method
    problem = problem_of_row(row)
    mode = known_bracketing(
        problem.widths, problem.batch is not None and row.implementation == "eager", problem.scaled
    ).mode
    return f"{mode}:{row.implementation}"


def _predicted_crossover(row: Row, D: list[int], P: list[int], rates: Ceilings | None) -> list[tuple[float, float]]:
    if rates is None or row.K is None:
        return []
    problem = problem_of_row(row)
    line: list[tuple[float, float]] = []
    for p in _spread(P[0], P[-1], 25):
        ratio: list[tuple[int, float]] = []
        for d in _spread(D[0], D[-1], 40):
            there = problem.with_(widths=(d, *problem.widths[1:-1], p))
            forward, reverse = (estimate(there, mode, "native", rates, row.threads) for mode in ("forward", "reverse"))
            ratio.append((d, forward / reverse))
        found = _crossings(ratio)
        if found:
            line.append((min(found, key=lambda d: abs(math.log(d / p))), float(p)))
    return line


def _spread(low: int, high: int, count: int) -> list[int]:
    return sorted({round(low * (high / low) ** (i / (count - 1))) for i in range(count)})


def _crossings(points: list[tuple[int, float]]) -> tuple[float, ...]:
    return crossings([float(x) for x, _ in points], [ratio for _, ratio in points])


def speedup_chart(rows: Sequence[Row], stem: str, sweep: Sweep | None = None) -> SpeedupChart | None:
    """Compare the best of ours with every peer on each problem.

    Args:
        rows: Rows of one sweep and device.
        stem: File name.
        sweep: Where the problems have their names.

    Returns:
        The chart, the largest lead over the best peer on top; `None` where ours and peers never meet.
    """
    names = names_of(sweep)
    scored: list[tuple[float, str, list[tuple[str, float, float, float]]]] = []
    for group in groups(rows):
        ours = min((row for row in group if is_hand_written(row.method)), key=lambda row: row.median, default=None)
        peers: dict[str, Row] = {}
        for row in group:
            if not is_hand_written(row.method) and (row.implementation not in peers or row.median < peers[row.implementation].median):
                peers[row.implementation] = row
        if ours is None or not peers:
            continue
        problem = problem_of_row(ours)
        ratios = [(name, speed_up(ours, row)) for name, row in peers.items()]
        points = [(name, ratio.value, ratio.low or ratio.value, ratio.high or ratio.value) for name, ratio in ratios]
        name = names.get((problem.widths, problem.batch)) or row_title(ours)
        scored.append((min(value for _, value, _, _ in points), name, points))
    if not scored:
        return None
    scored.sort(key=lambda item: -item[0])
    series: dict[str, list[tuple[float, float, float, float]]] = {}
    for index, (_, _, points) in enumerate(scored):
        for name, value, low, high in points:
            series.setdefault(name, []).append((index, value, low, high))
    least, most = scored[-1], scored[0]
    wins = sum(lead > 1 for lead, _, _ in scored)
    caption = (
        f"The best of ours is faster than every peer on {wins} of {len(scored)} problems. Against the best peer it is "
        f"{most[0]:.2f} times as fast on {most[1]} and {least[0]:.2f} times on {least[1]}."
    )
    return SpeedupChart(
        stem=stem,
        title="How many times faster than each peer",
        subtitle=hardware(rows),
        problems=tuple(name for _, name, _ in scored),
        series=tuple(make_trace(f"peer:{name}", series[name], label=name) for name in sorted(series)),
        caption=caption,
    )


def roofline(rows: Sequence[Row], stem: str, rates: Mapping[str, Ceilings]) -> Roofline | None:
    """Put every case under the ceilings of its machine.

    Args:
        rows: Rows of one machine and device.
        stem: File name.
        rates: Device to ceilings.

    Returns:
        The chart; `None` without ceilings or cases.
    """
    valid = [row for row in ok_rows(rows) if row.flops and row.bytes and row.dtype == "float32"]
    ceilings = rates.get(valid[0].device) if valid else None
    if ceilings is None:
        return None
    points: dict[str, list[tuple[float, float]]] = {}
    for row in valid:
        assert row.flops
        assert row.bytes
        owner = f"{row.mode}:{row.implementation}" if is_hand_written(row.method) else "peer:peers"
        points.setdefault(owner, []).append((row.flops / row.bytes, row.flops / row.median))
    best = max((row for row in valid if is_hand_written(row.method)), key=lambda row: (row.flops or 0) / row.median, default=valid[0])
    share = (best.flops or 0) / best.median / ceilings.flops
    sizes = [(size, rate) for size, rate in ceilings.read if size in {2**20, 2**28}] or [ceilings.read[0], ceilings.read[-1]]
    order = sorted(points, key=lambda name: (name.startswith("peer"), name))
    return Roofline(
        stem=stem,
        title="Roofline: every case under the machine's ceilings",
        subtitle=hardware(valid),
        flops=ceilings.flops,
        bandwidths=tuple((f"{_bytes(size)} read again and again", rate) for size, rate in sizes),
        points=tuple(_points(name, points[name]) for name in order),
        caption=(
            f"{len(valid)} cases. Operations over compulsory bytes across, operations per second up. The highest of ours, {best.method} on "
            f"{row_title(best)}, does {share:.0%} of the measured rate of matrix products."
        ),
    )


def _points(name: str, points: list[tuple[float, float]]) -> Trace:
    x, y = zip(*sorted(points), strict=True)
    return Trace(name, x, y, y, y, label="peers" if name.startswith("peer") else name)


def _bytes(size: int) -> str:
    return f"{size / 2**20:g} MB" if size >= 2**20 else f"{size / 2**10:g} KB"


def mixed_gain(rows: Sequence[Row], stem: str) -> ScatterChart | None:
    """Say what mixed mode gains over the better mode, against how narrow the narrowest layer is.

    Args:
        rows: Rows of one machine and device.
        stem: File name.

    Returns:
        The chart; `None` where the three modes were never measured together.
    """
    measured: list[tuple[float, float, float, float]] = []
    counted: list[tuple[float, float, float, float]] = []
    peak = (0.0, "")
    for group in groups(rows):
        best = best_by_mode(group)
        problem = problem_of_row(group[0])
        if not {"forward", "reverse", "mixed"} <= best.keys() or problem.L == 0 or problem.batch is not None:
            continue
        narrow = min(problem.widths[1:-1]) / min(problem.D, problem.P)
        gain = min(best["forward"].median, best["reverse"].median) / best["mixed"].median
        operations = min(cost(problem, mode).flops for mode in ("forward", "reverse")) / cost(problem, "mixed").flops
        if min(problem.D, problem.P) < 8:
            continue  # nothing is to be gained there, and times are those of a few calls
        measured.append((narrow, gain, gain, gain))
        counted.append((narrow, operations, operations, operations))
        peak = max(peak, (gain, row_title(group[0])))
    if not measured:
        return None
    return ScatterChart(
        stem=stem,
        title="What mixed mode gains over the better of forward and reverse",
        subtitle=hardware(rows),
        x_label="narrowest hidden layer / min(D, P)",
        y_label="time of the better mode / time of mixed mode",
        points=(
            make_trace("mixed:native", measured, label="measured, best of ours in each mode"),
            make_trace("peer:operations", counted, label="operations saved"),
        ),
        caption=f"{len(measured)} problems without batch and with D, P ≥ 8. The largest gain is {peak[0]:.2f} times, on {peak[1]}.",
    )


def regret_chart(rows: Sequence[Row], stem: str, rates: Mapping[str, Ceilings]) -> StepChart | None:
    """Show what choices cost: the planner's beside the rules in use.

    Args:
        rows: Rows of one machine.
        stem: File name.
        rates: Device to ceilings that the planner goes by.

    Returns:
        The chart; `None` where no problem has two measured methods of ours.
    """
    if not any(len([row for row in group if is_hand_written(row.method)]) >= 2 for group in groups(rows)):
        return None
    found = regrets(rows, rates=rates)
    planner = found[0]
    ours = f"The planner's choice takes {planner.median:.3f} times the best time in the median and {planner.ratios[-1]:.2f} at worst"
    others = "; ".join(f"{regret.chooser}: {regret.median:.3f} and {regret.ratios[-1]:.3g}" for regret in found[1:])
    return StepChart(
        stem=stem,
        title="Regret: what a choice costs beyond the best hand-written method",
        subtitle=hardware(rows),
        x_label="time lost by the choice (from 100 % on: how many times the best time)",
        y_label="share of problems",
        series=tuple((regret.chooser, regret.ratios) for regret in found),
        caption=f"{len(planner.ratios)} problems. {ours}. Rules, in the best implementation of the mode they name: {others}.",
    )

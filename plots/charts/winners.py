"""The fastest method over D × P, and where forward and reverse mode are equal: as predicted, and as measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from benchmarks.analysis.tables import winning_mode
from benchmarks.records.problems import best_by_mode, fastest, is_ours, problem_of
from benchmarks.records.rows import Row
from jacobians.planning.cost_model import estimate
from jacobians.planning.machine import Ceilings
from plots import style
from plots.axes import between, canvas, seconds
from plots.chart import Chart, Exhibit, Results, brief, draw, figure
from plots.charts.lines import NOT_ALONE
from plots.families import crossings, grids, lead, subtitle_of

LETTER = {"forward": "F", "reverse": "R", "mixed": "M"}


@dataclass(frozen=True, kw_only=True)
class WinnerMap(Chart):
    """The winner of each cell: a hand-written mode, or a library."""

    D: tuple[int, ...]
    P: tuple[int, ...]
    winner: tuple[tuple[str, ...], ...]  # [index of P][index of D]; empty where nothing was measured
    seconds: tuple[tuple[float, ...], ...]
    predicted: tuple[tuple[float, float], ...]  # (D, P), a line
    measured: tuple[tuple[float, float], ...]


@figure(20)
def winners(results: Results) -> Iterator[Exhibit]:
    """Make a map of every D × P grid."""
    for file in results.files:
        if file.name in NOT_ALONE:
            continue
        for chart in maps(results.rows(file.name), results.stem(file.name), results.rates):
            yield Exhibit("Which mode where", chart, (file.name,))


def maps(rows: Sequence[Row], stem: str, rates: Mapping[str, Ceilings]) -> list[WinnerMap]:
    """Map the fastest method over D × P, one map per hidden width."""
    found: list[WinnerMap] = []
    for grid in grids(rows):
        D, P = sorted({row.D for row in grid}), sorted({row.P for row in grid})
        cells = {(d, p): [row for row in grid if (row.D, row.P) == (d, p)] for d, p in product(D, P)}
        best = {cell: row for cell, here in cells.items() if (row := fastest(here))}
        ratio = {}
        for cell, here in cells.items():
            modes = best_by_mode(here)
            if {"forward", "reverse"} <= modes.keys():
                ratio[cell] = modes["forward"].median / modes["reverse"].median
        along_d = {(x, float(p)) for p in P for x in _crossings([(d, ratio[d, p]) for d in D if (d, p) in ratio])}
        along_p = {(float(d), y) for d in D for y in _crossings([(p, ratio[d, p]) for p in P if (d, p) in ratio])}
        first = grid[0]
        counts = Counter(_winner(row) for row in best.values())
        words = ", ".join(f"{name} {count}" for name, count in counts.most_common())
        off = sorted(d / p for d, p in along_d | along_p)
        where = f" Both modes take equal time at D/P from {off[0]:.2g} to {off[-1]:.2g} (dots)." if off else ""
        found.append(
            WinnerMap(
                stem=f"{stem}-K{first.K}",
                title=f"Hand-written is the fastest in {sum(is_ours(row) for row in best.values())} of {len(best)} cells; {words}",
                topic="The fastest method over input and output width",
                subtitle=subtitle_of(grid, "D", "P"),
                caption=brief(f"F forward, R reverse, M mixed mode.{where}", "Line: where the planner predicts them equal.", lead(grid)),
                D=tuple(D),
                P=tuple(P),
                winner=tuple(tuple(_winner(best[d, p]) if (d, p) in best else "" for d in D) for p in P),
                seconds=tuple(tuple(best[d, p].median if (d, p) in best else math.nan for d in D) for p in P),
                predicted=tuple(_predicted(first, D, P, rates.get(first.device))),
                measured=tuple(sorted(along_d | along_p)),
            )
        )
    return found


def _winner(row: Row) -> str:
    return winning_mode(row) if is_ours(row) else row.implementation


def _predicted(row: Row, D: list[int], P: list[int], rates: Ceilings | None) -> list[tuple[float, float]]:
    if rates is None:
        return []
    problem = problem_of(row)
    line: list[tuple[float, float]] = []
    for p in _spread(P[0], P[-1], 25):
        ratio: list[tuple[int, float]] = []
        for d in _spread(D[0], D[-1], 40):
            there = problem.with_(widths=(d, *problem.widths[1:-1], p))
            forward, reverse = (estimate(there, mode, "native", rates, row.threads) for mode in ("forward", "reverse"))
            ratio.append((d, forward / reverse))
        meet = _crossings(ratio)
        if meet:
            line.append((min(meet, key=lambda d: abs(math.log(d / p))), float(p)))
    return line


def _spread(low: int, high: int, count: int) -> list[int]:
    return sorted({round(low * (high / low) ** (i / (count - 1))) for i in range(count)})


def _crossings(points: list[tuple[int, float]]) -> tuple[float, ...]:
    return crossings([float(x) for x, _ in points], [ratio for _, ratio in points])


@draw.register
def _(chart: WinnerMap) -> Figure:
    drawing, axes = canvas(chart, height=5.4)
    shown: dict[str, Patch] = {}
    for i, row in enumerate(chart.winner):
        for j, name in enumerate(row):
            if not name:
                continue
            face = to_rgba(*style.CELL.get(name, (style.GREY, 0.25)))  # light, middle and dark: told apart in grey too
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=face, edgecolor=style.PAPER, linewidth=0.8))
            shown.setdefault(name, Patch(facecolor=face, label=f"{name}, hand-written" if name in LETTER else name))
            text = f"{LETTER[name]} " if name in LETTER else f"{name}\n"
            text += seconds(chart.seconds[i][j])  # in the corner: the line of equal cost goes through the middle of cells
            axes.text(j + 0.06, i + 0.92, text, ha="left", va="top", fontsize=8, color="black", zorder=6)
    if chart.predicted:
        places = [(between(chart.D, d), between(chart.P, p)) for d, p in chart.predicted]
        axes.plot(*zip(*places, strict=True), color="black", linewidth=1.6, zorder=4, label="equal, predicted")
    if chart.measured:
        places = [(between(chart.D, d), between(chart.P, p)) for d, p in chart.measured]
        axes.plot(*zip(*places, strict=True), "o", color="white", markeredgecolor="black", markersize=6, zorder=7, label="equal, measured")
    axes.set_xlim(0, len(chart.D))
    axes.set_ylim(0, len(chart.P))
    axes.set_xticks([j + 0.5 for j in range(len(chart.D))], [str(d) for d in chart.D])
    axes.set_yticks([i + 0.5 for i in range(len(chart.P))], [str(p) for p in chart.P])
    axes.grid(visible=False)
    axes.set_xlabel("input width D")
    axes.set_ylabel("output width P")
    handles, _ = axes.get_legend_handles_labels()
    axes.legend(handles=[*(shown[name] for name in sorted(shown)), *handles], loc="upper left", bbox_to_anchor=(0, -0.12), ncols=3)
    return drawing

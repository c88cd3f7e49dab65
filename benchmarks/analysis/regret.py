"""The planner's regret: what its choices cost beyond the best choice, beside the rules that people use today."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

import jacobians as jac
from benchmarks.analysis.tables import Table
from benchmarks.errors import BadInput
from benchmarks.measure.clock import limit_threads
from benchmarks.measure.oracle import network_and_inputs
from benchmarks.records.problems import groups, problem_of, ratio, title
from benchmarks.records.rows import Row
from benchmarks.run import environment, supervisor
from benchmarks.run.progress import SweepProgress
from benchmarks.run.worker import Settings
from benchmarks.workloads.cases import find_sweep
from jacobians.planning import planner
from jacobians.planning.machine import Ceilings
from jacobians.problem import Problem

# Of the rules in use: functorch's advice, the one of another library's documentation of its heuristics, and what most code does.
RULES: dict[str, Callable[[Problem], str]] = {
    "forward if D < P": lambda p: "forward" if p.D < p.P else "reverse",
    "forward if D < 100 or D ≤ 1.5 P": lambda p: "forward" if p.D < 100 or p.D <= 1.5 * p.P else "reverse",
    "always reverse": lambda p: "reverse",
}
PLANNER = "planner, estimate"


@dataclass(frozen=True, slots=True)
class Regret:
    """The regret of one rule of choice over a set of problems."""

    chooser: str
    ratios: tuple[float, ...]  # time of its choice over the time of the best method, from paired blocks, one per problem, ascending
    worst: str  # the problem with the largest one

    @property
    def median(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    def quantile(self, share: float) -> float:
        """Return the smallest ratio that at least a share of the problems does not exceed.

        Example:
            >>> Regret("a rule", (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9), "where").quantile(0.9)
            1.8
        """
        return self.ratios[max(0, math.ceil(share * len(self.ratios)) - 1)]


def chosen(rows: Sequence[Row], choice: str) -> Row | None:
    """Return the row of a choice, in the fastest implementation of a mode where only a mode is named."""
    named = [row for row in rows if choice in {row.method, row.mode}]
    return min(named, key=lambda row: row.median_s or math.inf, default=None)


def regret_of(choice: Row, best: Row) -> float:
    """Say how many times as long a choice takes as the best method."""
    return max(1.0, ratio(choice, best).value)


def regrets(
    rows: Sequence[Row], more: dict[str, Callable[[Problem], str]] | None = None, rates: Mapping[str, Ceilings] | None = None
) -> list[Regret]:
    """Compare the planner with the rules on measured rows of hand-written methods."""
    choosers = {PLANNER: lambda problem: "", **(more or {}), **RULES}
    ratios: dict[str, list[tuple[float, str]]] = {name: [] for name in choosers}
    for group in groups(rows):
        problem = problem_of(group[0])
        predicted = planner.candidates(problem, ceilings=(rates or {}).get(problem.device), threads=group[0].threads)
        known = {row.method: row for row in group if row.method in predicted and row.median_s}
        if len(known) < 2:
            continue
        best = min(known.values(), key=lambda row: row.median_s or math.inf)
        for name, choose in choosers.items():
            choice = choose(problem) or next(method for method in predicted if method in known)
            row = chosen(list(known.values()), choice)
            if row is not None:
                ratios[name].append((regret_of(row, best), f"{title(row)}: {choice}"))
    if not ratios[PLANNER]:
        raise BadInput("no problem has two measured hand-written methods; run `bench.py regret` without results, or another sweep")
    return [Regret(name, tuple(sorted(ratio for ratio, _ in found)), max(found)[1]) for name, found in ratios.items() if found]


def measure(out: Path | None = None, threads: int | None = None) -> list[Row]:
    """Run the sweep `regret` on the CPU."""
    settings = Settings(devices=("cpu",), threads=threads)
    limit_threads(settings.threads_asked)  # what the planner measures here is to be measured alike
    sweep = find_sweep("regret")
    with SweepProgress(sweep.name) as progress:
        result = supervisor.run(sweep, out or environment.own_results(), settings, progress.update)
    return [entry.row for entry in result.entries]


@lru_cache(maxsize=1024)
def by_measuring(problem: Problem) -> str:
    """Choose as `plan(effort="measure")` does, on a network of that shape."""
    mlp = network_and_inputs(problem, "xavier", 0)[0]
    x = torch.randn(problem.input_shape, generator=torch.Generator().manual_seed(0))
    return jac.plan(mlp, x, effort="measure").method


def table(found: Sequence[Regret]) -> Table:
    """Show regrets, the planner first."""
    rows = []
    for regret in found:
        figures = [f"{value:.3f}" for value in (regret.median, regret.quantile(0.9), regret.ratios[-1])]
        rows.append([regret.chooser, str(len(regret.ratios)), *figures, regret.worst])
    return ["choice by", "problems", "median", "90 %", "worst", "where"], rows

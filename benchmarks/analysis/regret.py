"""The planner's regret: what its choices cost beyond the best choice, beside the rules that people use today."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

import jacobians as jac
from benchmarks.analysis.tables import speed_up
from benchmarks.errors import BadInput
from benchmarks.measure.clock import limit_threads
from benchmarks.records import csv_file
from benchmarks.records.rows import Row, ok_rows
from benchmarks.run import environment, supervisor
from benchmarks.run.progress import SweepProgress
from benchmarks.run.worker import Settings
from benchmarks.workloads.cases import find_sweep
from jacobians import planner
from jacobians.machine import Ceilings
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
    """What one way of choosing cost over a set of problems.

    Attributes:
        chooser: Its name.
        ratios: Time of its choice over the time of the best method, from paired blocks, one per problem, ascending.
        worst: The problem with the largest one.
    """

    chooser: str
    ratios: tuple[float, ...]
    worst: str

    @property
    def median(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)


def problem_of_row(row: Row) -> Problem:
    """Describe the problem of a row.

    Args:
        row: Any row.

    Returns:
        The problem.
    """
    activation, _, output = row.activation.partition(" > ")
    return Problem(
        widths=tuple(int(width) for width in row.widths.split("-")),
        batch=None if row.N == 1 else row.N,
        activation=activation,
        output_activation=output or "identity",
        bias=" bias " in f" {row.problem_key} ",
        dtype=row.dtype,
        device=row.device,
    )


def groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Group the valid rows by problem and device.

    Args:
        rows: Any rows.

    Returns:
        One list per problem.
    """
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in ok_rows(rows):
        found.setdefault((row.sweep, row.problem_key, row.device), []).append(row)
    return list(found.values())


def chosen(rows: Sequence[Row], choice: str) -> Row | None:
    """Return the row of a choice, in the fastest implementation of a mode where only a mode is named.

    Args:
        rows: Rows of one problem.
        choice: A method, or a mode.

    Returns:
        The row, or `None` where it was not measured.
    """
    named = [row for row in rows if choice in {row.method, row.mode}]
    return min(named, key=lambda row: row.median_s or math.inf, default=None)


def regret_of(choice: Row, best: Row) -> float:
    """Say how many times as long a choice takes as the best method.

    Args:
        choice: Its row.
        best: The row with the shortest median.

    Returns:
        The ratio from paired blocks, in which what slowed both cancels; 1 at least.
    """
    return max(1.0, speed_up(best, choice).value)


def regrets(
    rows: Sequence[Row], more: dict[str, Callable[[Problem], str]] | None = None, rates: Mapping[str, Ceilings] | None = None
) -> list[Regret]:
    """Compare the planner with the rules on measured rows of hand-written methods.

    Args:
        rows: Rows of one or more sweeps, of one machine.
        more: Further ways of choosing: name to a function from a problem to a method.
        rates: Device to the ceilings that the planner goes by; those of the machine at hand by default.

    Returns:
        One regret per way of choosing, the planner first. All are judged on the same problems and the same implementations.

    Raises:
        BadInput: No problem has two measured hand-written methods.
    """
    choosers = {PLANNER: lambda problem: "", **(more or {}), **RULES}
    ratios: dict[str, list[tuple[float, str]]] = {name: [] for name in choosers}
    for group in groups(rows):
        problem = problem_of_row(group[0])
        predicted = planner.candidates(problem, ceilings=(rates or {}).get(problem.device), threads=group[0].threads)
        known = {row.method: row for row in group if row.method in predicted and row.median_s}
        if len(known) < 2:
            continue
        best = min(known.values(), key=lambda row: row.median_s or math.inf)
        for name, choose in choosers.items():
            choice = choose(problem) or next(method for method in predicted if method in known)
            row = chosen(list(known.values()), choice)
            if row is not None:
                ratios[name].append((regret_of(row, best), f"{row_title(row)}: {choice}"))
    if not ratios[PLANNER]:
        raise BadInput("no problem has two measured hand-written methods; run `bench.py regret` without results, or another sweep")
    return [Regret(name, tuple(sorted(ratio for ratio, _ in found)), max(found)[1]) for name, found in ratios.items() if found]


def measure(out: Path | None = None, threads: int | None = None) -> list[Row]:
    """Run the sweep `regret` on the CPU.

    Args:
        out: Output directory; the machine's under results/ by default.
        threads: Threads to use; all by default.

    Returns:
        Its rows.
    """
    settings = Settings(devices=("cpu",), threads=threads)
    limit_threads(settings.threads_asked)  # what the planner measures here is to be measured alike
    sweep = find_sweep("regret")
    with SweepProgress(sweep.name) as progress:
        result = supervisor.run(sweep, out or csv_file.RESULTS / environment.machine_slug(), settings, progress.update)
    return [entry.row for entry in result.entries]


@lru_cache(maxsize=1024)
def by_measuring(problem: Problem) -> str:
    """Choose as `plan(effort="measure")` does, on a network of that shape.

    Args:
        problem: The problem.

    Returns:
        The method's name.
    """
    mlp = jac.MLP.random(
        widths=problem.widths, activation=problem.activation, output_activation=problem.output_activation, bias=problem.bias
    )
    x = torch.randn(problem.input_shape, generator=torch.Generator().manual_seed(0))
    return jac.plan(mlp, x, effort="measure").method


def row_title(row: Row) -> str:
    """Name a problem in a few words.

    Args:
        row: One of its rows.

    Returns:
        Its sizes, or its widths where the hidden layers differ; and the samples of a batch.
    """
    sizes = row.widths if row.K is None else f"L={row.L} D={row.D} K={row.K} P={row.P}"
    return sizes if row.N == 1 else f"{sizes} N={row.N}"


def table(found: Sequence[Regret]) -> tuple[list[str], list[list[str]]]:
    """Show regrets, the planner first.

    Args:
        found: The regrets.

    Returns:
        Chooser, problems, median, 90th percentile, worst, and where that was.
    """
    rows = []
    for regret in found:
        ninth = regret.ratios[min(len(regret.ratios) - 1, round(0.9 * len(regret.ratios)))]
        figures = [f"{value:.3f}" for value in (regret.median, ninth, regret.ratios[-1])]
        rows.append([regret.chooser, str(len(regret.ratios)), *figures, regret.worst])
    return ["choice by", "problems", "median", "90 %", "worst", "where"], rows

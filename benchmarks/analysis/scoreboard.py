"""The scoreboard: each workload with the best hand-written method, the best peer, and what the planner would have chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.analysis.regret import chosen, regret_of
from benchmarks.analysis.tables import Table, duration
from benchmarks.measure.statistics import Ratio
from benchmarks.records.problems import best_baseline, best_of_ours, groups, problem_of, said, title
from benchmarks.records.problems import ratio as paired
from benchmarks.records.rows import Row
from benchmarks.workloads.cases import Sweep
from jacobians.planning import planner
from jacobians.planning.machine import Ceilings


@dataclass(frozen=True, slots=True)
class Score:
    """One workload."""

    name: str
    ours: Row
    peer: Row  # the fastest library's
    ratio: Ratio  # how many times faster ours is, with its interval
    choice: str  # what the planner chooses, by estimate
    regret: float | None  # time of that choice over the time of ours; `None` where it was not measured


def scores(rows: Sequence[Row], sweep: Sweep | None = None, rates: Mapping[str, Ceilings] | None = None) -> list[Score]:
    """Score every problem that has a hand-written method and a peer."""
    names = names_of(sweep)
    found: list[Score] = []
    for group in groups(rows):
        ours, peer = best_of_ours(group), best_baseline(group)
        if ours is None or peer is None:
            continue
        problem = problem_of(ours)
        choice = next(iter(planner.candidates(problem, ceilings=(rates or {}).get(problem.device), threads=ours.threads)))
        row = chosen(group, choice)
        regret = regret_of(row, ours) if row else None
        name = names.get((problem.widths, problem.batch, problem.asked)) or title(ours)
        found.append(Score(name, ours, peer, paired(peer, ours), choice, regret))
    return found


def names_of(sweep: Sweep | None) -> dict[tuple[tuple[int, ...], int | None, str | None], str]:
    """Return the names of a sweep's problems."""
    if sweep is None:
        return {}
    return {(p["widths"], p["batch"], p["asked"]): grid.name for grid in sweep.grid if grid.name for p in grid.problems(sweep.quantity)}


def table(found: Sequence[Score]) -> Table:
    rows = [
        [
            score.name,
            score.ours.method,
            duration(score.ours.median_s),
            score.peer.method,
            duration(score.peer.median_s),
            said(str(score.ratio), score.ours, score.peer),
            f"{score.ours.fraction_of_ceiling:.2f}" if score.ours.fraction_of_ceiling else "-",
            score.choice,
            f"{score.regret:.2f}" if score.regret else "-",
        ]
        for score in found
    ]
    return ["workload", "best hand-written", "time", "best library", "time", "faster by", "of ceiling", "auto", "regret"], rows

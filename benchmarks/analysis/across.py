"""One problem on every device that was measured: which to take, and the nearest shape at which that changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.analysis.recommend import Evidence, Recommendation, recommend
from benchmarks.analysis.tables import Table, duration
from benchmarks.records.csv_file import OWN_RESULTS, read_csv, result_files
from benchmarks.records.rows import Row
from benchmarks.run import environment
from benchmarks.run.provenance import read_provenance
from jacobians.planning import planner
from jacobians.planning.machine import Ceilings
from jacobians.planning.registry import split
from jacobians.problem import Problem

FARTHEST = 10  # doublings of a size
DEEPEST = 256  # layers
LARGEST = 2**33  # bytes of weights and of J that are thought about


@dataclass(frozen=True, slots=True)
class Place:
    """A device with its rows, its ceilings and its number of threads; `here` is the machine at hand."""

    name: str
    device: str
    threads: int | None
    known: Evidence
    rates: Ceilings | None
    here: bool


@dataclass(frozen=True, slots=True)
class Across:
    """The recommendation of each device, the fastest first, and where another device becomes the fastest."""

    found: tuple[tuple[Place, Recommendation], ...]
    change: str | None


def places() -> list[Place]:
    """Return the devices of the user's own and the committed results, one for each machine, device and number of threads."""
    rows: dict[tuple[str, str, int], list[Row]] = {}
    facts: dict[tuple[str, str, int], tuple[str, Ceilings, bool]] = {}
    here = environment.hardware_fingerprint()
    for path in (*result_files(OWN_RESULTS), *result_files()):
        origin = read_provenance(path)
        for device, rates in origin.rates.items():
            mine = [row for row in read_csv(path) if row.device == device]
            if mine:
                key = (origin.machine, device, origin.threads)
                rows.setdefault(key, []).extend(mine)
                facts.setdefault(key, (mine[0].device_name, rates, origin.fingerprint == here))
    return [
        Place(name, device, threads, Evidence(rows[machine, device, threads], {device: rates}), rates, local)
        for (machine, device, threads), (name, rates, local) in facts.items()
    ]


def across(problem: Problem, where: Sequence[Place]) -> Across:
    """Recommend a method on each device, and say where the fastest device changes."""
    found = [(place, recommend(problem.with_(device=place.device), place.known, place.rates, place.threads)) for place in where]
    found.sort(key=lambda pair: pair[1].best.seconds)
    return Across(tuple(found), _change(problem, where, found[0][0].name) if len(found) > 1 else None)


def _change(problem: Problem, where: Sequence[Place], first: str) -> str | None:
    if _fastest(problem, where) != first:  # measured, and against the model, which then cannot say where it ends
        return None
    for other, size in _around(problem):
        if (name := _fastest(other, where)) != first:
            return f"{size}: {name}"
    return None


def _fastest(problem: Problem, where: Sequence[Place]) -> str:
    def seconds(place: Place) -> float:
        return min(planner.candidates(problem.with_(device=place.device), ceilings=place.rates, threads=place.threads).values())

    return min(where, key=seconds).name


def _around(problem: Problem) -> Iterator[tuple[Problem, str]]:
    """Go through the problems with one size doubled or halved, once, then twice, and so on."""
    hidden, alike = problem.widths[1:-1], len(set(problem.widths[1:-1])) == 1
    for step in range(1, FARTHEST + 1):
        for factor in (2.0**step, 2.0**-step):
            D, P, N, K, L = (round(size * factor) for size in (problem.D, problem.P, problem.N, hidden[0] if alike else 0, len(hidden)))
            sizes = {
                "D": (D, problem.with_(widths=(max(1, D), *problem.widths[1:]))),
                "P": (P, problem.with_(widths=(*problem.widths[:-1], max(1, P)))),
                "N": (N, problem.with_(batch=N if N > 1 or problem.batch else None)),
            }
            if alike:
                sizes["K"] = (K, problem.with_(widths=(problem.D, *[max(1, K)] * len(hidden), problem.P)))
                sizes["L"] = (L, problem.with_(widths=(problem.D, *[hidden[0]] * min(L, DEEPEST), problem.P)))
            for name, (size, other) in sizes.items():
                weights = sum(i * o for i, o in zip(other.widths, other.widths[1:], strict=False))
                if 1 <= size and (name != "L" or size <= DEEPEST) and other.itemsize * max(weights, other.N * other.P * other.D) <= LARGEST:
                    yield other, f"{name} = {size}"


def table(found: Across) -> Table:
    """Show the devices, the fastest first."""
    first = found.found[0][1].best.seconds
    body: list[list[str]] = []
    for place, best in found.found:
        method, seconds = best.best.method, best.best.seconds
        mode = split(method)[1].partition(":")[0]
        where = f"{place.name}{', here' if place.here else ''}"
        body.append([where, mode, method, duration(seconds), best.confidence, f"{seconds / first:.2f}x"])
    return ["device", "mode", "method", "time", "known", "of the fastest"], body


def lines(found: Across) -> list[str]:
    """Say where another device becomes the fastest."""
    return [f"by the model the fastest device changes at {found.change}"] if found.change else []


def as_records(found: Across) -> list[dict[str, Any]]:
    """Return the devices for other programs."""
    return [
        {"name": p.name, "device": p.device, "here": p.here, "method": r.best.method, "seconds": r.best.seconds, "confidence": r.confidence}
        for p, r in found.found
    ]

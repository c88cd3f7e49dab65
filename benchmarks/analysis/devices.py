"""Devices beside each other: the best hand-written method on each machine and card, problem by problem."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.analysis.tables import Table, duration, place
from benchmarks.errors import BadInput
from benchmarks.records.problems import ProblemKey, best_of_ours, groups, key_of, ratio, title
from benchmarks.records.rows import Row

Beside = dict[str, Row]  # device -> its fastest hand-written row on one problem


def label(row: Row) -> str:
    """Name a device: the processor or card, and the threads."""
    return f"{row.device_name} ({place(row)})"


def beside(rows: Sequence[Row], at_least: int = 2) -> list[Beside]:
    """Match the problems that several devices measured, in the order of the rows; what a device measured again counts once, the last."""
    found: dict[ProblemKey, Beside] = {}
    for group in groups(rows):
        if ours := best_of_ours(group):
            found.setdefault(key_of(ours), {})[label(ours)] = ours
    return [times for times in found.values() if len(times) >= at_least]


def names(found: Sequence[Beside]) -> list[str]:
    """Return the devices of some problems, those with most of them first."""
    counts = [name for times in found for name in times]
    return sorted(dict.fromkeys(counts), key=counts.count, reverse=True)


def table(rows: Sequence[Row], *, everywhere: bool = False) -> Table:
    """Show the time on each device, the fastest, and what the slowest takes of its time; `everywhere`: problems of all of them alone."""
    found = beside(rows)
    columns = names(found)
    body: list[list[str]] = []
    for times in found:
        if everywhere and len(times) < len(columns):
            continue
        first, last = min(times, key=lambda n: times[n].median), max(times, key=lambda n: times[n].median)
        cells = [duration(times[name].median) if name in times else "-" for name in columns]
        what = next(iter(times.values()))
        problem = title(what) if what.quantity == "jacobian" else f"{what.quantity} {title(what)}"
        body.append([problem, *cells, first, f"{ratio(times[last], times[first])}"])
    return ["problem", *columns, "fastest", "against the slowest"], body


def compared(rows: Sequence[Row]) -> list[Row]:
    """Return rows that can be compared, or say why none can."""
    if not beside(rows):
        places = dict.fromkeys(label(group[0]) for group in groups(rows))
        raise BadInput(
            f"no problem was measured on two devices, only on {', '.join(places) or 'none'}; name results of several machines, "
            "or run a sweep with --device cpu,cuda"
        )
    return list(rows)


def fastest_from(sizes: dict[int, Beside]) -> dict[int, str]:
    """Return from which size on which device is the fastest; where intervals overlap, that of the size below stays so."""
    winners: dict[int, str] = {}
    for x, times in sorted(sizes.items()):
        first = min(times.values(), key=lambda row: row.median)
        before = next(reversed(winners.values()), None)
        clear = all((first.ci_high_s or first.median) < (row.ci_low_s or row.median) for row in times.values() if row is not first)
        if label(first) != before and (clear or before not in times):
            winners[x] = label(first)
    return winners

"""Tables for the terminal: what there is, and what a run gave. Each is `(columns, rows of text)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import jacobians as jac
from benchmarks.analysis.compare import Comparison
from benchmarks.errors import BadInput
from benchmarks.records import csv_file
from benchmarks.records.csv_file import read_csv, result_files
from benchmarks.records.problems import best_baseline, best_by_mode, best_of_ours, groups, problem_of, ratio, said, title
from benchmarks.records.rows import Row, ok_rows
from benchmarks.run import environment
from benchmarks.run.provenance import read_provenance
from benchmarks.workloads.cases import expand, load_sweeps
from jacobians.modes.bracketing import known_bracketing
from jacobians.planning.registry import JACOBIAN, MODES

Table = tuple[list[str], list[list[str]]]


def sweeps() -> Table:
    rows = [[sweep.name, sweep.title, str(len(expand(sweep, ["cpu"])))] for sweep in load_sweeps().values()]
    return ["sweep", "title", "cases"], rows


def methods() -> Table:
    rows: list[list[str]] = []
    for quantity in jac.quantities():
        small = jac.Problem(widths=(2, 3, 2), batch=2, quantity=quantity.name, loss="mse" if quantity.loss else None)
        for m in jac.methods(quantity=quantity.name):
            rows.append([m.name, "hand-written" if m.hand_written else "library", m.unsupported(small) or "available", m.summary])
    return ["method", "by", "here", "summary"], rows


def devices() -> Table:
    return ["device", "model"], [[name, environment.device_name(name)] for name in environment.available_devices()]


def results() -> Table:
    """List the result files of this project with where they come from."""
    rows: list[list[str]] = []
    for path in result_files():
        name = str(path.relative_to(csv_file.RESULTS.parent))
        try:
            table, origin = read_csv(path), read_provenance(path)
        except BadInput as error:
            rows.append([name, "-", "-", "-", "-", "-", str(error).removeprefix(f"{path}: ")])
            continue
        counts = [str(len(table)), str(len(ok_rows(table)))]
        rows.append([name, *counts, ", ".join(origin.devices), origin.commit, str(origin.seed), origin.command or "-"])
    return ["result", "rows", "ok", "devices", "commit", "seed", "command"], rows


LISTINGS: dict[str, Callable[[], Table]] = {"sweeps": sweeps, "methods": methods, "devices": devices, "results": results}


BY_MODE = ["problem", "forward", "reverse", "mixed", "winner", "best library", "faster by"]
BY_METHOD = ["problem", "best hand-written", "time", "best library", "time", "faster by"]


def by_mode(rows: Sequence[Row]) -> Table:
    """Show, per problem, our time in each mode, which mode wins, and the best library beside it."""
    table: list[list[str]] = []
    for name, group, ours, library, lead in _beside_libraries(row for row in rows if row.quantity == JACOBIAN):
        best = best_by_mode(group)
        times = [duration(best[mode].median_s) if mode in best else "-" for mode in MODES]
        beside = f"{library.implementation} {duration(library.median_s)}" if library else "-"
        table.append([name, *times, winning_mode(ours) if ours else "-", beside, lead])
    return BY_MODE, table


def by_method(rows: Sequence[Row]) -> Table:
    """Show, per problem of any quantity but the Jacobian, the best hand-written method beside the best library."""
    table: list[list[str]] = []
    for name, _, ours, library, lead in _beside_libraries(row for row in rows if row.quantity != JACOBIAN):
        both = [[f"{row.mode}:{row.implementation}", duration(row.median_s)] if row else ["-", "-"] for row in (ours, library)]
        table.append([name, *both[0], *both[1], lead])
    return BY_METHOD, table


def _beside_libraries(rows: Iterable[Row]) -> Iterator[tuple[str, list[Row], Row | None, Row | None, str]]:
    """Yield the name of each problem, its rows, the best of ours, the best library, and how many times as fast ours is."""
    found = groups(rows)
    places = {(group[0].machine, group[0].device, group[0].threads) for group in found}
    for group in found:
        ours, library = best_of_ours(group), best_baseline(group)
        name = title(group[0]) + (f" ({place(group[0])})" if len(places) > 1 else "")
        yield name, group, ours, library, said(ratio(library, ours).short(), library, ours) if ours and library else "-"


def winning_mode(row: Row) -> str:
    """Name the mode of a row; mixed mode by the mode that it is there, where it is one."""
    if row.mode != "mixed":
        return row.mode
    problem = problem_of(row)
    batched = problem.batch is not None and row.implementation == "eager"
    return known_bracketing(problem.widths, batched, problem.scaled).mode


def place(row: Row) -> str:
    """Name where a row was measured."""
    if row.device != "cpu" or row.threads is None:
        return row.device
    return f"cpu, {row.threads} thread{'' if row.threads == 1 else 's'}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(cells)} |" for cells in (columns, *rows))
    return "\n".join([head, "|---" * len(columns) + "|", *body])


def comparisons(found: Sequence[Comparison]) -> Table:
    """Show a comparison of two results, named by what they differ in."""
    names = [names_of_sides([getattr(c, side) for c in found]) for side in ("base", "other")]
    if names[0] == names[1]:
        names = [f"{name}, {which}" for name, which in zip(names, ("first", "second"), strict=True)]
    kind = "of paired blocks" if found and found[0].ratio.kind == "paired" else "of medians"
    rows = [[title(c.base), c.method, duration(c.base.median_s), duration(c.other.median_s), str(c.ratio), c.note] for c in found]
    return ["problem", "method", *names, f"second / first ({kind})", "verdict"], rows


def names_of_sides(rows: Sequence[Row]) -> str:
    """Name one side of a comparison by its device and threads."""
    return ", ".join(dict.fromkeys(f"{row.device_name}, {place(row)}" for row in rows))


def duration(seconds: float | None) -> str:
    """Write a time with three digits and a unit that fits.

    Example:
        >>> duration(0.0000123), duration(0.5), duration(None)
        ('12.3 µs', '500 ms', '-')
    """
    if seconds is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:#.3g} {unit}".replace(". ", " ")
    return f"{seconds / 1e-9:#.3g} ns".replace(". ", " ")


def byte_count(count: float, _: object = None) -> str:
    """Write a number of bytes with three digits and a unit that fits.

    Example:
        >>> byte_count(12_300_000), byte_count(4096), byte_count(12)
        ('12.3 MB', '4.1 kB', '12 B')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale * 0.9999:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.3g} B"

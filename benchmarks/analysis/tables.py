"""Tables for the terminal: what there is, and what a run gave. Each is `(columns, rows of text)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import jacobians as jac
from benchmarks.analysis.compare import Comparison
from benchmarks.analysis.statistics import Ratio, paired_ratio
from benchmarks.errors import BadInput
from benchmarks.records import csv_file
from benchmarks.records.csv_file import read_csv, result_files
from benchmarks.records.rows import Row, ok_rows
from benchmarks.run import environment
from benchmarks.run.provenance import read_provenance
from benchmarks.workloads.cases import expand, load_sweeps

Table = tuple[list[str], list[list[str]]]


def sweeps() -> Table:
    """List the named sweeps.

    Returns:
        Name, title and number of cases on one device.
    """
    rows = [[sweep.name, sweep.title, str(len(expand(sweep, ["cpu"])))] for sweep in load_sweeps().values()]
    return ["sweep", "title", "cases"], rows


def methods() -> Table:
    """List the registered methods.

    Returns:
        Name, whose it is, whether it can serve here, and a summary.
    """
    small = jac.Problem(widths=(2, 3, 2))
    rows = [[m.name, "ours" if m.hand_written else "peer", m.unsupported(small) or "available", m.summary] for m in jac.methods()]
    return ["method", "by", "here", "summary"], rows


def devices() -> Table:
    """List the devices found.

    Returns:
        Torch device and model.
    """
    return ["device", "model"], [[name, environment.device_name(name)] for name in environment.available_devices()]


def results() -> Table:
    """List the result files of this project with where they come from.

    Returns:
        File, number of rows and of valid ones, devices, commit, seed, command; for a file that cannot be read, what is wrong with it.
    """
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


def summary(rows: Sequence[Row]) -> Table:
    """Summarise a run: for each problem the best of ours beside the best peer.

    Args:
        rows: Rows of one or more sweeps, those of a problem next to each other.

    Returns:
        Problem, device, the two winners with their times, how many times faster ours is (with its interval), how
        many of the rows are valid, and what was noticed about any of them.
    """
    table: list[list[str]] = []
    for (problem, device), group in groupby(rows, key=lambda row: (row.problem_key, row.device)):
        cases = list(group)
        valid = ok_rows(cases)
        ours = _fastest([row for row in valid if jac.find_method(row.method).hand_written])
        peer = _fastest([row for row in valid if not jac.find_method(row.method).hand_written])
        ratio = str(speed_up(ours, peer)) if ours and peer else "-"
        flags = sorted({flag for row in valid for flag in (row.flags or "").split()})
        table.append([problem, device, *_named(ours), *_named(peer), ratio, f"{len(valid)}/{len(cases)}", " ".join(flags) or "-"])
    return ["problem", "device", "best of ours", "time", "best peer", "time", "ours faster by", "ok", "flags"], table


def comparisons(found: Sequence[Comparison]) -> Table:
    """Show a comparison of two results; of two devices where they differ.

    Args:
        found: The comparisons.

    Returns:
        Problem, method, both times, ratio with interval, verdict.
    """
    names = ("base", "other")
    if found and found[0].base.device_name != found[0].other.device_name:
        names = (found[0].base.device_name, found[0].other.device_name)
    rows = [
        [c.base.problem_key, c.base.method, duration(c.base.median_s), duration(c.other.median_s), str(c.ratio), c.verdict] for c in found
    ]
    return ["problem", "method", *names, "other / base", "verdict"], rows


def speed_up(ours: Row, peer: Row) -> Ratio:
    """Say how many times faster one row is than another of the same run, from their paired blocks.

    Args:
        ours: The faster one, hopefully.
        peer: The one it is compared with.

    Returns:
        The ratio with its interval.
    """
    if ours.block_medians and peer.block_medians:
        return paired_ratio(peer.block_medians, ours.block_medians)
    assert ours.median_s
    assert peer.median_s
    return Ratio(peer.median_s / ours.median_s, None, None)


def duration(seconds: float | None) -> str:
    """Write a time with three digits and a unit that fits.

    Args:
        seconds: The time.

    Returns:
        E.g. `12.3 µs`.

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

    Args:
        count: The bytes.

    Returns:
        E.g. `12.3 MB`.

    Example:
        >>> byte_count(12_300_000), byte_count(4096), byte_count(12)
        ('12.3 MB', '4.1 kB', '12 B')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale * 0.9999:
            return f"{count / scale:.3g} {unit}"
    return f"{count:.3g} B"


def _fastest(rows: Sequence[Row]) -> Row | None:
    return min(rows, key=lambda row: row.median_s or float("inf"), default=None)


def _named(row: Row | None) -> tuple[str, str]:
    return (row.method, duration(row.median_s)) if row else ("-", "-")

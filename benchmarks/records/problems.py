"""Rows grouped by problem, and who is the best of them: each of these is defined here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.measure.statistics import WORDS, Ratio, drifting_interval, paired_ratio, ratio_of_medians
from benchmarks.records.rows import Row, ok_rows
from benchmarks.records.rows import problem_of as problem_of
from jacobians.planning.registry import find_method

# Explicit diagonal matrices: what course notebooks write, and no library offers. Rows of "dense" start from an identity.
NAIVE = ("notebook", "notebook-no-grad", "dense")


class ProblemKey(NamedTuple):
    """The key on which rows of different methods, devices and thread counts are compared."""

    quantity: str
    widths: str
    N: int
    activation: str
    bias: bool | None
    init: str | None
    seed: int | None
    dtype: str
    loss: str | None
    asked: str | None


def key_of(row: Row) -> ProblemKey:
    """Return the problem of a row."""
    return ProblemKey(row.quantity, row.widths, row.N, row.activation, row.bias, row.init, row.seed, row.dtype, row.loss, row.asked)


def title(row: Row) -> str:
    """Name a problem in a few words: its sizes, and what differs from a tanh network without biases in float32."""
    sizes = row.widths if row.K is None else f"L={row.L} D={row.D} K={row.K} P={row.P}"
    more = [
        f"N={row.N}" if row.N != 1 else "",
        row.activation if row.activation != "tanh" else "",
        row.loss or row.asked or "",
        "biases" if row.bias else "",
        f"{row.init} weights" if row.init == "normal" else "",
        row.dtype if row.dtype != "float32" else "",
    ]
    return " ".join([sizes, *filter(None, more)])


def groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Group the valid rows by sweep, problem, machine, device and threads: those that were measured side by side."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in ok_rows(rows):
        found.setdefault((row.sweep, key_of(row), row.machine, row.device, row.threads), []).append(row)
    return list(found.values())


def is_ours(row: Row) -> bool:
    """Say whether a row is of a hand-written method; unknown names, of older results, are not."""
    try:
        return find_method(row.method).hand_written
    except ValueError:
        return False


def is_baseline(row: Row) -> bool:
    """Say whether a row is of what a user would pick instead: a library's method, not the naive one."""
    return not is_ours(row) and row.implementation not in NAIVE


def fastest(rows: Iterable[Row]) -> Row | None:
    """Return the row with the shortest median."""
    return min((row for row in rows if row.median_s), key=lambda row: row.median_s or math.inf, default=None)


def best_of_ours(rows: Iterable[Row]) -> Row | None:
    """Return the fastest hand-written row of a problem."""
    return fastest(row for row in rows if is_ours(row))


def best_baseline(rows: Iterable[Row]) -> Row | None:
    """Return the fastest row of a library's method on a problem."""
    return fastest(row for row in rows if is_baseline(row))


def against_libraries(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Return the fastest hand-written row and the fastest of a library of each problem that has both."""
    return [(ours, library) for group in groups(rows) if (ours := best_of_ours(group)) and (library := best_baseline(group))]


def best_by_mode(rows: Iterable[Row]) -> dict[str, Row]:
    """Return the fastest hand-written row of each mode."""
    best: dict[str, Row] = {}
    for row in rows:
        if is_ours(row) and row.median_s and (row.mode not in best or row.median < best[row.mode].median):
            best[row.mode] = row
    return best


def contenders(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the fastest hand-written row of each mode, and the fastest one of a library as `library`."""
    library = best_baseline(rows)
    return best_by_mode(rows) | ({"library": library} if library else {})


def ratio(over: Row, under: Row) -> Ratio:
    """Return how many times as long one row takes as another.

    Rows of one run were measured block by block in turn, so the median of the blocks' ratios is taken, in which what slowed both
    cancels; rows of different runs are compared by their medians. The ratio says which it is.
    """
    if together(over, under) and over.block_medians and under.block_medians:
        return paired_ratio(over.block_medians, under.block_medians)
    assert over.median_s
    assert under.median_s
    return ratio_of_medians((over.median_s, over.ci_low_s, over.ci_high_s), (under.median_s, under.ci_low_s, under.ci_high_s))


def together(one: Row, other: Row) -> bool:
    """Say whether two rows were measured side by side: one run of one problem on one device, whatever of it was computed."""
    facts = [(r.sweep, key_of(r)[1:], r.machine, r.device, r.threads, r.cache, r.commit, r.run) for r in (one, other)]
    return facts[0] == facts[1]


def ratio_in_cycles(over: Row, under: Row) -> Ratio | None:
    """Return the same ratio of times divided by the fixed loop beside each block; `None` where that was not measured."""
    blocks = [[m / loop for m, loop in zip(r.block_medians, r.block_loops, strict=False)] for r in (over, under)]
    if not all(blocks) or not all(len(b) == len(r.block_medians) for b, r in zip(blocks, (over, under), strict=True)):
        return None
    if together(over, under):
        return paired_ratio(*blocks)
    return ratio_of_medians(*((median(b), *(drifting_interval(b) or (None, None))) for b in blocks))  # pyright: ignore[reportArgumentType]


def certainty(*rows: Row) -> str | None:
    """Return the weakest of the words on the noise of rows; `None` where there is one of a schema without them."""
    words = [row.certainty for row in rows]
    return None if None in words else min(words, key=WORDS.index)  # pyright: ignore[reportCallIssue, reportArgumentType]


def said(ratio: str, *rows: Row) -> str:
    """Write a ratio with the weaker word of its rows, where they have one."""
    return f"{ratio}, {word}" if (word := certainty(*rows)) else ratio


def changed(one: Row, other: Row) -> str | None:
    """Say whether two rows of a method were computed, or judged, by other code: without a word they are not compared."""
    if one.method != other.method or one.sources == other.sources:
        return None
    if one.sources is None or other.sources is None:
        return "sources unknown"
    parts = zip(("method", "oracle"), one.sources.split("-"), other.sources.split("-"), strict=False)
    return f"{' and '.join(what for what, a, b in parts if a != b) or 'sources'} changed"


def certainties(rows: Sequence[Row]) -> str:
    """Say in three words how far measurements hold, for captions and summaries; of older rows how many carry a flag."""
    valid = ok_rows(rows)
    words = [row.certainty for row in valid]
    if None not in words and words:
        return ", ".join(f"{words.count(word)} {word}" for word in reversed(WORDS) if word in words) + f" of {len(words)} measurements"
    flags = [flag for row in valid for flag in (row.flags or "").split()]
    count = sum(bool(row.flags) for row in valid)
    if not count:
        return f"none of {len(valid)} measurements was disturbed"
    by_count = ", ".join(f"{flag} {flags.count(flag)}" for flag in sorted(set(flags), key=lambda flag: (-flags.count(flag), flag)))
    return f"{count} of {len(valid)} measurements were disturbed ({by_count})"

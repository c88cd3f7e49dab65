"""Summary of results in a few sentences computed from them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.analysis.tables import duration
from benchmarks.records.problems import best_baseline, best_by_mode, best_of_ours, certainties, groups, ratio, title
from benchmarks.records.rows import Row, ok_rows


def sentences(rows: Sequence[Row]) -> list[str]:
    """Summarise results."""
    valid = ok_rows(rows)
    wrong = sum(row.status == "invalid" for row in rows)
    measured = groups(rows)
    checked = (
        f"{len(valid)} measurements on {len(measured)} problems, each after its result was checked against float64 autograd"
        f" ({wrong} failed the check)."
    )
    leads: list[tuple[float, str]] = []
    forward = reverse = 0
    for group in measured:
        ours, library = best_of_ours(group), best_baseline(group)
        if ours and library:
            times = f"{duration(ours.median_s)} against {duration(library.median_s)}"
            leads.append((ratio(library, ours).value, f"{title(group[0])} ({times})"))
        best = best_by_mode(group)
        if {"forward", "reverse"} <= best.keys():
            ahead = best["forward"].median < best["reverse"].median
            forward, reverse = forward + ahead, reverse + (not ahead)
    if leads:
        most, least = max(leads), min(leads)
        wins = sum(lead > 1 for lead, _ in leads)
        beside = (
            f"The best hand-written method beats every library on {wins} of {len(leads)} problems where one was measured, in the median by "
            f"{statistics.median(lead for lead, _ in leads):.2f} times; most on {most[1]}, {most[0]:.3g} times, least on {least[1]}, "
            f"{least[0]:.2f} times."
        )
    else:
        beside = "No problem has both a hand-written method and a library's."
    modes = (
        f"Forward mode is the faster of the two on {forward} of {forward + reverse} problems where both were measured, reverse mode "
        f"on {reverse}."
    )
    noise = certainties(rows)
    return [modes, beside, checked, f"{noise[0].upper()}{noise[1:]}. Ratios are of paired blocks."]

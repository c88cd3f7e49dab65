"""What results say, in three sentences computed from them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.analysis.regret import groups, row_title
from benchmarks.analysis.tables import duration
from benchmarks.records.rows import Row, ok_rows
from plots.traces import best_by_mode, is_hand_written


def sentences(rows: Sequence[Row]) -> list[str]:
    """Summarise results.

    Args:
        rows: Rows of any sweeps, with at least one that is ok.

    Returns:
        What was checked; how ours stand to the best peer; where forward and where reverse mode wins.
    """
    valid = ok_rows(rows)
    wrong = sum(row.status == "invalid" for row in rows)
    measured = groups(rows)
    checked = (
        f"{len(valid)} measurements on {len(measured)} problems, each after its Jacobian was checked against float64 autograd"
        f" ({wrong} failed the check)."
    )
    leads: list[tuple[float, str]] = []
    forward = reverse = 0
    for group in measured:
        ours = min((row for row in group if is_hand_written(row.method)), key=lambda row: row.median, default=None)
        peer = min(
            (row for row in group if not is_hand_written(row.method) and row.implementation != "dense"),
            key=lambda row: row.median,
            default=None,
        )
        if ours and peer:
            leads.append((peer.median / ours.median, f"{row_title(ours)} ({duration(ours.median_s)} against {duration(peer.median_s)})"))
        best = best_by_mode(group)
        if {"forward", "reverse"} <= best.keys():
            ahead = best["forward"].median < best["reverse"].median
            forward, reverse = forward + ahead, reverse + (not ahead)
    if leads:
        most, least = max(leads), min(leads)
        wins = sum(lead > 1 for lead, _ in leads)
        beside = (
            f"The best hand-written method beats every library on {wins} of {len(leads)} of them, in the median by "
            f"{statistics.median(lead for lead, _ in leads):.2f} times; most on {most[1]}, {most[0]:.3g} times, least on {least[1]}, "
            f"{least[0]:.2f} times."
        )
    else:
        beside = "No problem has both a hand-written method and a library's."
    modes = (
        f"Forward mode is the faster of the two on {forward} of {forward + reverse} problems where both were measured, reverse mode "
        f"on {reverse}."
    )
    return [checked, beside, modes]

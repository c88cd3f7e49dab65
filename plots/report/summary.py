"""Summary of results in a few sentences computed from them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.analysis.tables import duration
from benchmarks.records.problems import against_libraries, best_by_mode, certainties, groups, ratio, title
from benchmarks.records.rows import Row, ok_rows
from jacobians.planning.registry import JACOBIAN
from plots.charts.headline import DEVICES


def sentences(rows: Sequence[Row]) -> list[str]:
    valid = ok_rows(rows)
    wrong = sum(row.status == "invalid" for row in rows)
    checked = (
        f"{len(valid)} measurements on {len(groups(rows))} problems, each after its result was checked against float64 autograd"
        f" ({wrong} failed the check)."
    )
    leads: list[tuple[float, str]] = []
    for ours, library in against_libraries(rows):
        times = f"{duration(ours.median_s)} against {duration(library.median_s)}"
        leads.append((ratio(library, ours).value, f"{title(ours)} ({times})"))
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
    noise = certainties(rows)
    return [smaller_side(valid), beside, checked, f"{noise[0].upper()}{noise[1:]}. Ratios are of paired blocks."]


CLOSE = 1.1  # times as long as the other mode


def smaller_side(rows: Sequence[Row]) -> str:
    """Answer the question of the project: how far the mode of the smaller side, inputs or outputs, is the faster one."""
    parts: list[str] = []
    worst: tuple[float, str] = (1.0, "")
    for device, name in DEVICES.items():
        costs: list[tuple[float, str]] = []
        for group in groups(row for row in rows if row.device == device and row.quantity == JACOBIAN):
            best = best_by_mode(group)
            if {"forward", "reverse"} <= best.keys():
                chosen, other = (best[mode] for mode in (("forward", "reverse") if group[0].D < group[0].P else ("reverse", "forward")))
                costs.append((max(1.0, ratio(chosen, other).value), title(group[0])))
        if costs:
            parts.append(f"{sum(cost <= CLOSE for cost, _ in costs)} of {len(costs)} {name} problems")
            worst = max(worst, *costs)
    if not parts:
        return "No problem has both modes."
    at_worst = f", {worst[0]:.2g} times at worst ({worst[1]})" if worst[1] else ""
    where = f"{' and '.join(parts)}{at_worst}"
    rule = "Take forward mode where there are fewer inputs than outputs (D < P), else reverse mode"
    return f"{rule}: at most {CLOSE} times the faster mode's time on {where}."

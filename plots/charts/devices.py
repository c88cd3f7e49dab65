"""Devices beside each other: the best hand-written method on each, over each size that alone varies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.analysis.devices import Beside, beside, fastest_from, names
from benchmarks.records.problems import key_of
from benchmarks.records.rows import Row, ok_rows
from jacobians.planning.registry import JACOBIAN
from plots.families import VARIABLES, families
from plots.panels import Panel, PanelsChart, Series


def devices(rows: Sequence[Row]) -> PanelsChart | None:
    """Make the chart from rows of any machines: a panel of each variable of which at least two devices share three sizes."""
    found = beside([row for row in ok_rows(rows) if row.quantity == JACOBIAN])
    shown = names(found)
    panels = [panel for variable in VARIABLES if (panel := _panel(found, variable, shown))]
    if not panels:
        return None
    wins = Counter(min(times, key=lambda name: times[name].median) for times in found)
    first, count = wins.most_common(1)[0]
    met = sum(first in times for times in found)
    return PanelsChart(
        stem="devices",
        title=f"{_short(first, shown)} is the fastest on {count} of {met} problems that it shares with others",
        topic="Time of one Jacobian by the best hand-written method of each device",
        caption="Above each panel: the fastest device, by the size from which on it is.",
        panels=tuple(panels),
        shared=True,
    )


def _panel(found: Sequence[Beside], variable: str, shown: Sequence[str]) -> Panel | None:
    alike = [next(iter(times.values())).model_copy(update={"threads": None, "sweep": ""}) for times in found]
    matched = {key_of(row): times for row, times in zip(alike, found, strict=True)}
    every = [{getattr(row, variable): matched[key_of(row)] for row in family} for family in families(alike, variable)]
    if not every:
        return None
    sizes = dict(sorted(max(every, key=lambda family: sum(map(len, family.values()))).items()))
    row = next(iter(next(iter(sizes.values())).values()))
    fixed = ", ".join(f"{name} = {getattr(row, name)}" for name in VARIABLES if name not in {variable, "N"})
    lines = [f"from {variable} = {x}: {_short(name, shown)}" for x, name in fastest_from(sizes).items()]
    return Panel(
        "\n".join(lines) if len(lines) <= 3 else f"the fastest device changes {len(lines) - 1} times",
        f"{VARIABLES[variable]}   ({fixed})",
        tuple(
            Series(_short(name, shown), tuple(map(float, here)), tuple(sizes[x][name].median for x in here))
            for name in shown
            if (here := [x for x in sizes if name in sizes[x]])
        ),
        "" if variable in {"D", "P"} else "time of one Jacobian",
        sizes=True,
    )


def _short(name: str, names: Sequence[str]) -> str:
    """Leave out where on the device, if that tells nothing apart."""
    short = name.partition(" (")[0]
    return short if sum(other.startswith(f"{short} (") for other in names) == 1 else name

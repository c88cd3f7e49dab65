"""The picture of the project: one Jacobian over L, D, K and P, forward and reverse, hand-written and library, on CPU and GPU."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.records.problems import best_baseline, best_by_mode, groups, is_baseline
from benchmarks.records.rows import Row, ok_rows
from jacobians.planning.registry import JACOBIAN
from plots import style
from plots.axes import WIDTH, clip, error, sizes_axis, time_axis
from plots.chart import Chart, ResultFile, Trace, draw
from plots.charts.speedups import LIBRARIES
from plots.families import VARIABLES, crossings, families, make_trace, point

SWEEPS = {"L": "depth", "D": "inputs", "K": "width", "P": "outputs"}
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
LINES = {"cpu": "-", "cuda": (0, (4, 1.6))}
BOTH = ("forward", "reverse")
CLEARLY = 1.25  # times as fast


class Crossover(NamedTuple):
    """Where forward and reverse mode take the same time on a device, and which of them is faster before."""

    device: str
    first: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One variable: what is fixed, what is found, and for each device the traces `forward`, `reverse` and `library`."""

    x_label: str
    fixed: str
    finding: str
    traces: dict[str, dict[str, Trace]]
    crossovers: tuple[Crossover, ...]


@dataclass(frozen=True, kw_only=True)
class HeadlineChart(Chart):
    """Panels of time against one variable each, and the libraries of each device."""

    panels: tuple[Panel, ...]
    libraries: dict[str, str]


def headline(files: Sequence[ResultFile]) -> HeadlineChart | None:
    """Make the chart from the four sweeps, of the machine with most of them for each device; `None` with fewer than two."""
    chosen = {device: found for device in DEVICES if (found := rows_of(files, device))}
    rows = [row for found in chosen.values() for family in found.values() for row in family]
    panels = tuple(
        _panel(variable, {device: found[variable] for device, found in chosen.items() if variable in found})
        for variable in SWEEPS
        if any(variable in found for found in chosen.values())
    )
    if len(panels) < 2:
        return None
    where = "; ".join(
        f"{DEVICES[device]}: {_origin(row for family in found.values() for row in family)}" for device, found in chosen.items()
    )
    return HeadlineChart(
        stem="headline",
        title=_gain(chosen),
        topic="Time of one Jacobian over depth, inputs, width and outputs",
        subtitle=f"One x, {rows[0].activation}, {rows[0].dtype}. {where}",
        caption=_lead(chosen),
        panels=panels,
        libraries={device: _libraries(row for family in found.values() for row in family) for device, found in chosen.items()},
    )


def rows_of(files: Sequence[ResultFile], device: str) -> dict[str, list[Row]]:
    """Return each variable's largest family on a device, from the machine that has most of them."""
    machines: dict[str, dict[str, list[Row]]] = {}
    for variable, sweep in SWEEPS.items():
        for file in sorted((file for file in files if file.name == sweep), key=lambda file: str(file.path)):
            rows = [row for row in ok_rows(file.rows) if row.device == device and row.quantity == JACOBIAN]
            found = [family for family in families(rows, variable) if all(any(mode == row.mode for row in family) for mode in BOTH)]
            if found:
                machines.setdefault(rows[0].machine, {})[variable] = max(found, key=len)
    return max(machines.values(), key=lambda found: (len(found), sum(map(len, found.values()))), default={})


def _panel(variable: str, rows: dict[str, list[Row]]) -> Panel:
    traces: dict[str, dict[str, Trace]] = {}
    crossovers: list[Crossover] = []
    for device, family in rows.items():
        best: dict[str, dict[int, Row]] = {}
        for group in groups(family):
            x = getattr(group[0], variable)
            library = best_baseline(group)
            for name, row in (*best_by_mode(group).items(), *([("library", library)] if library else [])):
                best.setdefault(name, {})[x] = row
        shown = [*BOTH, "library"]
        traces[device] = {name: make_trace(name, name, [point(x, row) for x, row in best[name].items()]) for name in shown if name in best}
        crossovers += _crossovers(device, best)
    first = next(iter(rows.values()))[0]
    fixed = ", ".join(f"{name} = {getattr(first, name)}" for name in SWEEPS if name != variable)
    return Panel(VARIABLES[variable], fixed, _finding(variable, traces, crossovers), traces, tuple(crossovers))


def _crossovers(device: str, best: dict[str, dict[int, Row]]) -> list[Crossover]:
    """Find where the modes are equal, between neighbours whose intervals are apart: what noise could turn is not marked."""
    forward, reverse = (best.get(mode, {}) for mode in BOTH)
    both = sorted(x for x in forward.keys() & reverse.keys() if x > 0)
    equal = crossings(both, [forward[x].median / reverse[x].median for x in both])
    sure = [x for x in both if _apart(forward[x], reverse[x])]
    found: list[Crossover] = []
    for before, after in pairwise(sure):
        first = BOTH[forward[before].median > reverse[before].median]
        if first == BOTH[forward[after].median > reverse[after].median]:
            continue
        here = [math.log(x) for x in equal if before <= x <= after]
        x = math.exp(sum(here) / len(here))  # several only where noise decides
        low, high = max(a for a in both if a <= x), min(a for a in both if a >= x)
        part = math.log(x / low) / math.log(high / low) if high > low else 0.0
        found.append(Crossover(device, first, x, forward[low].median ** (1 - part) * forward[high].median ** part))
    return found


def _apart(a: Row, b: Row) -> bool:
    (_, _, low_a, high_a), (_, _, low_b, high_b) = point(0, a), point(0, b)
    return high_a < low_b or high_b < low_a


def _finding(variable: str, traces: dict[str, dict[str, Trace]], crossovers: Sequence[Crossover]) -> str:
    parts: list[str] = []
    for device, found in traces.items():
        here = [crossover for crossover in crossovers if crossover.device == device]
        ahead = {first for first in BOTH if _leads(found[first], found[BOTH[first == "forward"]])}
        if len(here) == 1:
            parts.append(f"{DEVICES[device]}: {here[0].first} up to {variable} ≈ {float(f'{here[0].x:.2g}'):g}")
        elif len(ahead) == 1:
            parts.append(f"{DEVICES[device]}: {ahead.pop()}")
        else:
            parts.append(f"{DEVICES[device]}: {'it varies' if ahead else 'both alike'}")
    if len(traces) == 2:
        fastest = [
            {x: min(found[mode].y[i] for mode in BOTH) for i, x in enumerate(found["forward"].x)}
            for found in (traces["cpu"], traces["cuda"])
        ]
        wins = [x for x in sorted(fastest[0].keys() & fastest[1].keys()) if fastest[1][x] < fastest[0][x]]
        ends = wins and wins == [x for x in fastest[0] if x >= wins[0]]
        if ends:
            parts.append(f"GPU faster from {variable} = {wins[0]:g}")
        elif wins:
            parts.append(f"GPU faster at {len(wins)} of {len(fastest[0])} points")
        else:
            parts.append("GPU never faster")
    return "\n".join((", ".join(parts[:2]), *parts[2:]))


def _leads(ahead: Trace, behind: Trace) -> bool:
    """Say whether a mode is faster anywhere, clearly and by more than both intervals."""
    times = zip(ahead.y, behind.y, ahead.high, behind.low, strict=True)
    return any(CLEARLY * fast < slow and high < low for fast, slow, high, low in times)


def _gain(chosen: dict[str, dict[str, list[Row]]]) -> str:
    """Say what the right mode is worth on each device, at most."""
    parts: list[str] = []
    for device, found in chosen.items():
        gains: list[float] = []
        for group in groups(row for family in found.values() for row in family):
            best = best_by_mode(group)
            if all(mode in best for mode in BOTH):
                gains.append(abs(math.log(best["forward"].median / best["reverse"].median)))
        parts.append(f"{math.exp(max(gains)):.2g} times on the {DEVICES[device]}")
    return f"The wrong mode costs up to {', '.join(parts)}"


def _lead(chosen: dict[str, dict[str, list[Row]]]) -> str:
    """Say how the better mode stands to the best library that was measured."""
    parts: list[str] = []
    for device, found in chosen.items():
        leads: list[float] = []
        for group in groups(row for family in found.values() for row in family):
            library, best = best_baseline(group), [row.median for mode, row in best_by_mode(group).items() if mode in BOTH]
            if library and best:
                leads.append(library.median / min(best))
        if leads:
            mean = math.exp(sum(map(math.log, leads)) / len(leads))
            parts.append(f"{sum(lead > 1 for lead in leads)} of {len(leads)} {DEVICES[device]} points ({mean:.1f} times as fast)")
    return f"The better hand-written mode beats the best library measured at {' and '.join(parts)}." if parts else ""


def _origin(rows: Iterable[Row]) -> str:
    found = list(rows)
    commits = ", ".join(dict.fromkeys(row.commit[:7] for row in found if row.commit))
    return f"{found[0].device_name}" + (f" (at {commits})" if commits else "")


def _libraries(rows: Iterable[Row]) -> str:
    return ", ".join(dict.fromkeys(LIBRARIES.get(row.implementation, row.implementation) for row in rows if is_baseline(row)))


@draw.register
def _(chart: HeadlineChart) -> Figure:
    drawing = Figure(figsize=(WIDTH * 1.3, 6.6), layout="constrained")
    drawing.suptitle(chart.title, x=0.01, ha="left", fontsize=11.5, fontweight="bold", color=style.INK)
    libraries = "; ".join(f"{DEVICES[device]}: {names}" for device, names in chart.libraries.items())
    below = [f"{chart.subtitle}.", f"Libraries measured, of which the best is drawn: {libraries}.", chart.caption]
    drawing.text(0.01, 0.0, "\n".join(textwrap.fill(part, 150) for part in below if part), fontsize=7.5, color=style.MUTED, va="bottom")
    drawing.get_layout_engine().set(rect=(0, 0.125, 1, 0.875))  # pyright: ignore[reportOptionalMemberAccess, reportCallIssue]
    grid = drawing.subplots(-(-len(chart.panels) // 2), 2, sharey=True, squeeze=False)
    seen = [y for panel in chart.panels for found in panel.traces.values() for trace in found.values() for y in trace.y]
    for number, (axes, panel) in enumerate(zip(grid.flat, chart.panels, strict=False)):
        axes.set_yscale("log")
        sizes_axis(
            axes,
            sorted({x for found in panel.traces.values() for trace in found.values() for x in trace.x}),
            f"{panel.x_label}   ({panel.fixed})",
        )
        for device, found in panel.traces.items():
            for name, trace in found.items():
                axes.errorbar(
                    trace.x, trace.y, yerr=error(trace), capsize=1.5, elinewidth=0.7, zorder=2 + (name != "library"), **_look(name, device)
                )
        for crossover in panel.crossovers:
            axes.plot(crossover.x, crossover.y, marker="X", color=style.INK, markersize=8, linestyle="", zorder=5)
        axes.set_title(panel.finding, fontsize=8.5, loc="left", color=style.INK)
        clip(lambda low, high, axes=axes: axes.set_ylim(low, high), seen)
        time_axis(axes.yaxis, "time of one Jacobian" if number % 2 == 0 else "", axes.set_ylabel)
    for axes in list(grid.flat)[len(chart.panels) :]:
        axes.set_visible(False)
    handles = [
        Line2D([], [], label=f"{name if name in BOTH else 'best library'}, {DEVICES[device]}", **_look(name, device))  # pyright: ignore[reportArgumentType]
        for name in (*BOTH, "library")
        for device in chart.libraries
    ]
    handles.append(Line2D([], [], label="both modes equal", marker="X", color=style.INK, markersize=8, linestyle=""))
    drawing.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.0, 0.055), ncols=4, handlelength=3, fontsize=8.5)
    return drawing


def _look(name: str, device: str) -> dict[str, object]:
    look = style.of_trace(f"{name}:native" if name in BOTH else "library:best")
    return {
        "color": look.colour,
        "linestyle": LINES[device],
        "linewidth": 1.2 if name == "library" else 2.0,
        "marker": look.marker,
        "markersize": 3.5 if name == "library" else 5,
        "markerfacecolor": look.colour if device == "cpu" else style.PAPER,
    }

"""The picture of the project: one Jacobian over L, D, K and P, forward and reverse, hand-written and library, on CPU and GPU."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.records.problems import best_baseline, best_by_mode, fastest, groups, is_baseline, ratio
from benchmarks.records.rows import Row, ok_rows
from jacobians.planning.registry import JACOBIAN
from plots import style
from plots.axes import WIDTH, clip, error, sizes_axis, time_axis
from plots.chart import Chart, ResultFile, Trace, draw
from plots.charts.speedups import LIBRARIES
from plots.families import VARIABLES, ahead, best_over, families, make_trace, meetings, point

SWEEPS = {"L": "depth", "D": "inputs", "K": "width", "P": "outputs"}
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
LINES = {"cpu": "-", "cuda": (0, (4, 1.6))}
BOTH = ("forward", "reverse")
LINES_OF = (*BOTH, "library")
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


Best = dict[str, dict[float, Row]]  # forward, reverse, mixed, library -> size -> the fastest row


def headline(files: Sequence[ResultFile]) -> HeadlineChart | None:
    """Make the chart from the four sweeps, of the machine with most of them for each device; `None` with fewer than two."""
    chosen = rows_of(files)
    variables = [variable for variable in SWEEPS if any(variable in found for found in chosen.values())]
    if len(variables) < 2:
        return None
    every = {device: [row for family in found.values() for row in family] for device, found in chosen.items()}
    first = next(iter(every.values()))[0]
    return HeadlineChart(
        stem="headline",
        title=_gain(every),
        topic="Time of one Jacobian over depth, inputs, width and outputs",
        subtitle=f"One x, {first.activation}, {first.dtype}. "
        + "; ".join(f"{DEVICES[device]}: {_origin(rows)}" for device, rows in every.items()),
        caption=_lead(every),
        panels=tuple(_panel(v, {device: found[v] for device, found in chosen.items() if v in found}) for v in variables),
        libraries={device: _libraries(rows) for device, rows in every.items()},
    )


def rows_of(files: Sequence[ResultFile]) -> dict[str, dict[str, list[Row]]]:
    """Return device -> variable -> rows: of the machine that has most of the sweeps, and of the same problems on all devices."""
    chosen: dict[str, dict[str, list[Row]]] = {}
    for device in DEVICES:
        machines: dict[str, dict[str, list[Row]]] = {}
        for variable, sweep in SWEEPS.items():
            same = next((_fixed(found[variable][0], variable) for found in chosen.values() if variable in found), None)
            for file in sorted((file for file in files if file.name == sweep), key=lambda file: str(file.path)):
                rows = [row for row in ok_rows(file.rows) if row.device == device and row.quantity == JACOBIAN]
                found = [family for family in families(rows, variable) if same in {None, _fixed(family[0], variable)}]
                found = [family for family in found if best_by_mode(family).keys() >= set(BOTH)]
                if found:
                    machines.setdefault(rows[0].machine, {})[variable] = max(found, key=len)
        if machines:
            chosen[device] = max(machines.values(), key=lambda found: (len(found), sum(map(len, found.values()))))
    return chosen


def _fixed(row: Row, variable: str) -> tuple[object, ...]:
    return (*(getattr(row, name) for name in VARIABLES if name != variable), row.activation, row.bias, row.init, row.dtype)


def _panel(variable: str, rows: dict[str, list[Row]]) -> Panel:
    best = {device: best_over(family, variable) for device, family in rows.items()}
    first = next(iter(rows.values()))[0]
    crossovers = tuple(crossover for device, found in best.items() for crossover in _crossovers(device, found))
    return Panel(
        VARIABLES[variable],
        ", ".join(f"{name} = {getattr(first, name)}" for name in SWEEPS if name != variable),
        _finding(variable, best, crossovers),
        {
            device: {
                name: make_trace(name, name, [point(x, row) for x, row in found[name].items()]) for name in LINES_OF if found.get(name)
            }
            for device, found in best.items()
        },
        crossovers,
    )


def _crossovers(device: str, best: Best) -> Iterator[Crossover]:
    forward = best["forward"]
    for first, x, low, high in meetings(forward, best["reverse"]):
        part = math.log(x / low) / math.log(high / low) if high > low else 0.0
        yield Crossover(device, first, x, forward[low].median ** (1 - part) * forward[high].median ** part)


def _finding(variable: str, best: dict[str, Best], crossovers: Sequence[Crossover]) -> str:
    """Say which mode is faster where, on each device; and from where on the GPU is, with the better mode of each."""
    parts: list[str] = []
    for device, found in best.items():
        here = [crossover for crossover in crossovers if crossover.device == device]
        sizes = found["forward"].keys() & found["reverse"].keys()
        clear = {mode for mode, other in (BOTH, BOTH[::-1]) if any(ahead(found[mode][x], found[other][x], CLEARLY) for x in sizes)}
        if len(here) == 1:
            parts.append(f"{DEVICES[device]}: {here[0].first} up to {variable} ≈ {float(f'{here[0].x:.2g}'):g}")
        else:
            parts.append(f"{DEVICES[device]}: {clear.pop() if len(clear) == 1 else 'it varies' if clear else 'both alike'}")
    if len(best) < 2:
        return parts[0]
    cpu, gpu = (
        {x: fastest(found[mode][x] for mode in BOTH if x in found[mode]) for x in {*found["forward"], *found["reverse"]}}
        for found in best.values()
    )
    sizes = sorted(cpu.keys() & gpu.keys())
    wins = [x for x in sizes if (there := gpu[x]) and (here := cpu[x]) and ahead(there, here)]
    if wins and wins == [x for x in sizes if x >= wins[0]]:
        return f"{', '.join(parts)}\nGPU faster from {variable} = {wins[0]:g}"
    return f"{', '.join(parts)}\nGPU faster at {len(wins)} of {len(sizes)} points"


def _gain(every: dict[str, list[Row]]) -> str:
    """Say how far the modes are apart on each device, at most."""
    parts: list[str] = []
    for device, rows in every.items():
        times = [[best[mode].median for mode in BOTH] for group in groups(rows) if (best := best_by_mode(group)).keys() >= set(BOTH)]
        parts.append(f"{max(max(pair) / min(pair) for pair in times):.2g} times on the {DEVICES[device]}")
    return f"Forward and reverse mode differ by up to {', '.join(parts)}"


def _lead(every: dict[str, list[Row]]) -> str:
    """Say how the better mode stands to the best library that was measured."""
    parts: list[str] = []
    for device, rows in every.items():
        leads: list[float] = []
        for group in groups(rows):
            library, better = best_baseline(group), fastest(row for mode, row in best_by_mode(group).items() if mode in BOTH)
            if library and better:
                leads.append(ratio(library, better).value)
        if leads:
            mean = statistics.geometric_mean(leads)
            parts.append(f"{sum(lead > 1 for lead in leads)} of {len(leads)} {DEVICES[device]} points ({mean:.1f} times as fast)")
    return f"The better hand-written mode beats the best library measured at {' and '.join(parts)}." if parts else ""


def _origin(rows: Sequence[Row]) -> str:
    commits = ", ".join(dict.fromkeys(row.commit[:7] for row in rows if row.commit))
    return f"{rows[0].device_name}" + (f" (at {commits})" if commits else "")


def _libraries(rows: Sequence[Row]) -> str:
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
        clip(axes.set_ylim, seen)
        time_axis(axes.yaxis, "time of one Jacobian" if number % 2 == 0 else "")
    for axes in grid.flat[len(chart.panels) :]:
        axes.set_visible(False)
    handles = [
        Line2D([], [], label=f"{name if name in BOTH else 'best library'}, {DEVICES[device]}", **_look(name, device))  # pyright: ignore[reportArgumentType]
        for name in LINES_OF
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

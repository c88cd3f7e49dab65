"""The course notebook's published times beside ours."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.errors import BadInput
from benchmarks.records.csv_file import RESULTS
from benchmarks.records.problems import best_by_mode, fastest, is_baseline, is_ours, ratio
from benchmarks.records.rows import Row
from plots import style
from plots.axes import canvas, clip, legend, time_axis
from plots.chart import Chart, Exhibit, Results, Trace, brief, draw, figure
from plots.families import Point, by_size, families, make_trace, subtitle_of
from plots.panels import Panel, PanelsChart, Series

PUBLISHED = RESULTS / "published" / "notebook_times.csv"


@dataclass(frozen=True, kw_only=True)
class BesideChart(Chart):
    """Times at a few depths, one mark per series, the marks of a depth beside each other; x is the index of the depth."""

    depths: tuple[int, ...]
    traces: tuple[Trace, ...]


@figure(80)
def notebook(results: Results) -> Iterator[Exhibit]:
    """Make the charts of the notebook's shapes: times, and what depth does to the ratio of the modes."""
    rows = results.rows("notebook")
    for chart in (chart_of(rows, results.stem("notebook-times"), PUBLISHED), depth(rows, results.stem("notebook-depth"), PUBLISHED)):
        if chart:
            yield Exhibit("The course notebook", chart, ("notebook",))


def chart_of(rows: Sequence[Row], stem: str, published: Path) -> BesideChart | None:
    """Set published times beside ours, over depth."""
    family = next(iter(families(rows, "L")), None)
    if family is None or not published.exists():
        return None
    depths = list(by_size(family, "L"))
    kind, sizes = _kind_and_sizes(family)
    times = {
        (record["device"], record["mode"], *(int(record[name]) for name in "LDKP")): float(record["seconds"]) / float(record["jacobians"])
        for record in _read(published)
    }
    points: dict[tuple[str, str], list[Point]] = {}
    for (device, mode, L, *of), y in times.items():
        if tuple(of) == sizes and L in depths:
            points.setdefault((f"{mode}:published-{device}", f"{mode}, published, {device}"), []).append((depths.index(L), y, y, y))
    if not points:
        return None
    exact = any(row.implementation == "notebook" for row in family)
    naive_name, naive = ("notebook", "the notebook's method") if exact else ("dense", "diagonal matrices multiplied from an identity")
    gains: list[float] = []
    slower: list[bool] = []
    for index, here in enumerate(by_size(family, "L").values()):
        theirs = {row.mode: row for row in here if row.implementation == naive_name}
        for mode, row in best_by_mode(here).items():
            if mode in ("forward", "reverse"):
                points.setdefault((f"{mode}:native", f"{mode}, hand-written"), []).append((index, row.median, row.median, row.median))
                if mode in theirs:
                    gains.append(theirs[mode].median / row.median)
                if mode == "forward" and (printed := times.get((kind, mode, row.L, *sizes))):
                    slower.append(row.median > printed)
    span = f"{min(gains):.2g} to {max(gains):.2g} times" if gains else ""
    return BesideChart(
        stem=stem,
        title=f"Hand-written modes are {span} as fast as {naive} on the same machine" if gains else "",
        topic="Time of one Jacobian on the course notebook's shapes",
        subtitle=subtitle_of(family, "L"),
        caption=brief(
            "Published times are on unnamed hardware; its GPU was not synchronised, so those are lower bounds.",
            "The published forward on the CPU is faster than every forward here." if slower and all(slower) else "",
        ),
        depths=tuple(depths),
        traces=tuple(make_trace(method, label, points[method, label]) for method, label in sorted(points)),
    )


def _kind_and_sizes(family: Sequence[Row]) -> tuple[str, tuple[int, ...]]:
    """Return what the published table calls the device, and D, K and P."""
    first = family[0]
    return "cpu" if first.device == "cpu" else "gpu", tuple(getattr(first, name) for name in "DKP")


def ways(rows: Sequence[Row]) -> dict[str, tuple[Row, Row]]:
    """Return forward and reverse of one problem, way by way: the notebook's own method, ours, and the best library of each mode."""
    chosen: dict[str, Callable[[Row], bool]] = {
        "the notebook's method": lambda row: row.implementation == "notebook",
        "the same without recording": lambda row: row.implementation == "notebook-no-grad",
        "diagonal matrices from an identity": lambda row: row.implementation == "dense",
        "hand-written, in torch": lambda row: row.implementation == "eager",
        "hand-written, kernels": lambda row: is_ours(row) and row.implementation != "eager",
        "best library": is_baseline,
    }
    found: dict[str, tuple[Row, Row]] = {}
    for name, wanted in chosen.items():
        forward, reverse = (fastest(row for row in rows if row.mode == mode and wanted(row)) for mode in ("forward", "reverse"))
        if forward and reverse:
            found[name] = (forward, reverse)
    return found


def published_ratios(records: Sequence[dict[str, str]], device: str) -> dict[int, float]:
    """Return how many times as long the published forward takes as the reverse, depth by depth."""
    seconds = {(record["mode"], int(record["L"])): float(record["seconds"]) for record in records if record["device"] == device}
    return {L: value / seconds["reverse", L] for (mode, L), value in seconds.items() if mode == "forward"}


def depth(rows: Sequence[Row], stem: str, published: Path) -> PanelsChart | None:
    """Set forward / reverse over depth, way by way, beside the published ratio and that of the operations."""
    every = families(rows, "L")
    if not every or not published.exists():
        return None
    family, *others = every
    depths = list(by_size(family, "L"))
    device, sizes = _kind_and_sizes(family)
    records = [record for record in _read(published) if tuple(int(record[name]) for name in "DKP") == sizes]
    found = {f"published, {device}": published_ratios(records, device), **_over_depth(family)}
    lines = {name: values for name, values in found.items() if depths[0] in values}
    ends = {name: values[max(values)] / values[depths[0]] for name, values in lines.items()}
    counted = {L: (L - 1) / L / ((depths[0] - 1) / depths[0]) for L in depths}

    def panel(title: str, lines: dict[str, dict[int, float]], *more: Series, logarithmic: bool = True) -> Panel:
        series = (Series(name, tuple(map(float, values)), tuple(values.values())) for name, values in lines.items())
        return Panel(title, "hidden layers L", (*series, *more), logarithmic=logarithmic)

    operations = "operations"
    grey = [Series(operations, tuple(map(float, depths)), y, like=operations) for y in (tuple(counted.values()), (1.0,) * len(depths))]
    relative = {name: {L: value / values[depths[0]] for L, value in values.items()} for name, values in lines.items()}
    told = [f"{name} {ends[name]:.2f}" for name in lines if name.startswith(("published", "the notebook", "diagonal"))]
    unsynchronised = "The published GPU was read without synchronising, so its ratio says little." if device == "gpu" else ""
    panels = [
        panel("forward / reverse", lines),
        panel(f"the same, relative to L = {depths[0]}", relative, *grey, logarithmic=False),
        *(panel(f"D = {other[0].D}, K = {other[0].K}, P = {other[0].P}", _over_depth(other), logarithmic=False) for other in others),
    ]
    return PanelsChart(
        stem=stem,
        title=f"Forward / reverse from L = {depths[0]} to {depths[-1]}, times: {', '.join(told)}; operations {counted[depths[-1]]:.2f}",
        topic="Time of forward mode over that of reverse mode, by depth",
        subtitle=subtitle_of(family, "L"),
        caption=brief(
            "Dotted: operations, as (L - 1) / L where forward mode starts from W_1, flat where it starts from an identity.", unsynchronised
        ),
        panels=tuple(panels),
        shared=True,
    )


def _over_depth(family: Sequence[Row]) -> dict[str, dict[int, float]]:
    """Return the ratios of forward to reverse, way by way and depth by depth."""
    found: dict[str, dict[int, float]] = {}
    for L, here in by_size(family, "L").items():
        for name, pair in ways(here).items():
            found.setdefault(name, {})[L] = ratio(*pair).value
    return found


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            records = list(csv.DictReader(file))
        for record in records:
            _ = [float(record["seconds"]) / float(record["jacobians"]), *(int(record[name]) for name in "LDKP")]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise BadInput(f"{path}: not a table of published times ({error}); see results/README.md") from None
    return records


@draw.register
def _(chart: BesideChart) -> Figure:
    drawing, axes = canvas(chart, height=4.2)
    step = 0.8 / len(chart.traces)
    for number, trace in enumerate(chart.traces):
        look = style.of_trace(trace.method)
        x = [position - 0.4 + (number + 0.5) * step for position in trace.x]
        axes.bar(x, trace.y, width=0.9 * step, color=look.colour, alpha=0.9 if trace.method.endswith("native") else 0.45, label=trace.label)
    axes.set_yscale("log")
    clip(axes.set_ylim, [y for trace in chart.traces for y in trace.y])
    axes.set_xticks(range(len(chart.depths)), [f"L = {depth}" for depth in chart.depths])
    time_axis(axes.yaxis, "time of one Jacobian")
    legend(drawing, axes)
    return drawing

"""The figures of the report, from all results of a machine: what is drawn, from which file, and how to draw it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.analysis import saturation
from benchmarks.records.rows import Row, ok_rows
from benchmarks.workloads.cases import Sweep
from jacobians.machine import Ceilings
from plots.comparisons import mixed_gain, regret_chart, roofline, speedup_chart, winner_maps
from plots.data import Chart, PanelChart
from plots.growth import growth_charts, square_chart
from plots.memory import memory_charts
from plots.published import published_charts
from plots.traces import device_charts, make_trace

GROWTH = ("depth", "inputs", "width", "outputs", "batch")
MEMORY = ("outputs", "batch")


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A result and where it comes from."""

    path: Path
    rows: Sequence[Row]
    rates: dict[str, Ceilings]
    sweep: Sweep | None = None

    @property
    def name(self) -> str:
        """Name of its sweep."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A figure of the report.

    Attributes:
        section: Heading it stands under.
        chart: Its data.
        sources: The sweeps whose rows it shows.
    """

    section: str
    chart: Chart
    sources: tuple[str, ...]


def gallery(results: Sequence[ResultFile], published: Path, studied: Path = saturation.PATH) -> list[Exhibit]:
    """Make the data of every figure that the results give rise to.

    Args:
        results: Results of one machine.
        published: CSV of the course notebook's times.
        studied: CSV of `benchmarks.saturation`.

    Returns:
        The exhibits, in the order of the report.
    """
    found: list[Exhibit] = []

    def show(section: str, charts: Sequence[Chart | None], *sources: str) -> None:
        found.extend(Exhibit(section, chart, sources) for chart in charts if chart is not None)

    by_name = {result.name: result for result in results}
    rates = {device: ceilings for result in results for device, ceilings in result.rates.items()}
    everything = [row for result in results for row in result.rows]
    devices = list(dict.fromkeys(row.device for row in ok_rows(everything)))
    for device in devices:
        suffix = f"-{device}" if len(devices) > 1 else ""

        def of(name: str, device: str = device) -> list[Row]:
            return [row for row in by_name[name].rows if row.device == device] if name in by_name else []

        here = [row for row in everything if row.device == device]
        if "workloads" in by_name:
            show("Against every peer", [speedup_chart(of("workloads"), f"speedups{suffix}", by_name["workloads"].sweep)], "workloads")
        show("Which method where", winner_maps(of("aspect"), f"winners{suffix}", rates), "aspect")
        for name in GROWTH:
            show("Growth", growth_charts(of(name), f"growth{suffix}"), name)
        show("Growth", [square_chart(of("square"), f"growth{suffix}-M")], "square")
        show("Close to the machine", [roofline(here, f"roofline{suffix}", rates)], *by_name)
        for name in MEMORY:
            show("Memory", memory_charts(of(name), f"memory{suffix}"), name)
        mixed = [row for name in ("bottleneck", "workloads", "aspect") for row in of(name)]
        show("Mixed mode and the planner", [mixed_gain(mixed, f"mixed-gain{suffix}")], "bottleneck", "workloads", "aspect")
        chosen = [row for name in ("regret", "workloads") for row in of(name)]
        show("Mixed mode and the planner", [regret_chart(chosen, f"regret{suffix}", rates)], "regret", "workloads")
    for name in GROWTH if len(devices) > 1 else ():
        if name in by_name:
            show("Devices", device_charts(ok_rows(by_name[name].rows), f"devices-{name}"), name)
    if studied.exists():
        show("Why the weights are scaled", [saturation_chart(saturation.read(studied), "saturation")])
    if "notebook" in by_name and published.exists():
        show("The course notebook", published_charts(by_name["notebook"].rows, "notebook-times", published), "notebook")
    return found


def saturation_chart(records: Sequence[dict[str, str | float]], stem: str) -> PanelChart:
    """Show what the scale of the weights does to slopes and Jacobians with depth.

    Args:
        records: Of `benchmarks.saturation`.
        stem: File name.

    Returns:
        The chart.
    """
    inits = list(dict.fromkeys(str(record["init"]) for record in records))

    def lines(column: str) -> tuple:
        traces = []
        for init in inits:
            points = [(float(r["layer"]), max(1e-300, float(r[column]))) for r in records if r["init"] == init]
            traces.append(make_trace(f"init:{init}", [(x, y, y, y) for x, y in points], label=init))
        return tuple(traces)

    def last(init: str, column: str) -> float:
        return [float(record[column]) for record in records if record["init"] == init][-1]

    width, depth = float(records[0]["width"]), max(float(record["layer"]) for record in records)
    words = ", ".join(
        f"{init}: mean slope {last(init, 'mean_slope'):.2g}, largest singular value {last(init, 'largest_singular_value'):.2g}"
        for init in inits
    )
    return PanelChart(
        stem=stem,
        title="Saturation: slopes and Jacobians with depth, by the scale of the weights",
        subtitle=f"tanh, {width:g} wide, float64, one network per init at a standard normal x",
        x_label="layer l",
        panels=(
            ("mean slope φ'(z_l)", lines("mean_slope")),
            ("largest singular value of ∂h_l/∂x", lines("largest_singular_value")),
            ("median singular value of ∂h_l/∂x", lines("median_singular_value")),
        ),
        caption=f"After layer {depth:g}: {words}. With unscaled normal weights neurons saturate and what is left is amplified rounding, "
        "so times of such networks tell little of networks in use.",
    )

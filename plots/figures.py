"""From the data of a figure to a drawing, and to files."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import singledispatch
from pathlib import Path

from matplotlib import style as matplotlib_style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.errors import BadInput
from benchmarks.rows import Row
from benchmarks.store import RESULTS, result_files
from plots import style
from plots.data import Chart, DotChart, LineChart, RatioMap, Trace
from plots.published import published_charts
from plots.traces import charts, is_hand_written

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ("svg", "png", "pdf")
PUBLISHED = RESULTS / "published" / "notebook.csv"


def files_to_draw(given: Sequence[Path] | None) -> list[Path]:
    """Return the result files to draw.

    Args:
        given: Those the user named, if any.

    Returns:
        These, or every committed one.

    Raises:
        BadInput: None was given and none is committed.
    """
    found = list(given) if given else result_files()
    if not found:
        raise BadInput("no results yet; run `python bench.py run quick` first, or name result files")
    return found


def parse_formats(text: str) -> list[str]:
    """Read a comma-separated list of file formats.

    Args:
        text: E.g. `"svg,png"`.

    Returns:
        The formats.

    Raises:
        BadInput: One of them is unknown.
    """
    formats = [name.strip() for name in text.split(",")]
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise BadInput(f"unknown format {', '.join(unknown)}; choose from {', '.join(FORMATS)}")
    return formats


def draw_results(paths: Sequence[Path], out: Path | None, formats: Sequence[str], read: Callable[[Path], list[Row]]) -> list[Path]:
    """Draw every figure of some result files.

    Args:
        paths: Result CSVs.
        out: Directory for the figures; `plots/figures/<machine>` by default.
        formats: Any of svg, png, pdf.
        read: Reads and validates a result file.

    Returns:
        The files written.

    Raises:
        BadInput: A file is bad, nothing can be drawn, or the directory cannot be written.
    """
    written: list[Path] = []
    for path, rows in [(path, read(path)) for path in paths]:  # all are read before the first is drawn
        found: list[Chart] = charts(rows, path.stem)
        if path.stem == "notebook" and PUBLISHED.exists():
            found += published_charts(rows, f"{path.stem}-published", PUBLISHED)
        if not found:
            counts = ", ".join(sorted({row.status for row in rows})) or "no rows"
            raise BadInput(f"{path}: nothing to draw, it has no measured case ({counts}); run the sweep again")
        target = out or ROOT / "plots" / "figures" / _folder(rows)
        for chart in found:
            written += save(chart, target, formats)
    return written


def save(chart: Chart, out: Path, formats: Sequence[str]) -> list[Path]:
    """Draw a chart and write it. The same chart gives the same bytes.

    Args:
        chart: The data.
        out: Directory.
        formats: File formats.

    Returns:
        The files written.

    Raises:
        BadInput: The directory cannot be written.
    """
    written: list[Path] = []
    with matplotlib_style.context(["default", style.RC]):
        figure = draw(chart)
        for name in formats:
            path = out / f"{chart.stem}.{name}"
            metadata = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}[name]
            try:
                out.mkdir(parents=True, exist_ok=True)
                figure.savefig(path, format=name, metadata=metadata, dpi=150)  # pyright: ignore[reportArgumentType]
            except OSError as error:
                raise BadInput(f"{path}: cannot be written ({error.strerror}); give another directory with --out") from None
            written.append(path)
    return written


@singledispatch
def draw(chart: Chart) -> Figure:
    """Draw a chart: one drawing per kind of data, registered below."""
    raise TypeError(f"no drawing for {type(chart).__name__}")


@draw.register
def _(chart: LineChart) -> Figure:
    figure, axes = _canvas(chart.title, chart.subtitle, chart.caption, height=4.9)
    notes = list(dict.fromkeys(trace.note for trace in chart.traces))
    for trace in chart.traces:
        _plot(axes, trace, notes.index(trace.note), several=len(notes) > 1)
    for position in chart.crossovers:
        axes.axvline(position, color=style.GREY, linewidth=0.8, linestyle=":", zorder=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    positions = sorted({x for trace in chart.traces for x in trace.x})
    axes.xaxis.set_major_locator(FixedLocator(positions))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(chart.x_label)
    _time_axis(axes.yaxis, "time per call (median, 95 % interval)", axes.set_ylabel)
    _legend(figure, axes)
    return figure


@draw.register
def _(chart: DotChart) -> Figure:
    # One problem: a line per method, read like a table. Several: a line per problem, methods told apart by their looks.
    single = len(chart.problems) == 1
    lines = [trace.method for trace in chart.traces] if single else list(chart.problems)
    height = 1.7 + (0.26 * len(lines) if single else max(0.9 * len(lines), 0.2 * len(chart.traces)))
    figure, axes = _canvas(chart.title, f"{chart.problems[0]}\n{chart.subtitle}" if single else chart.subtitle, chart.caption, height)
    for index, trace in enumerate(chart.traces):
        look = style.style_of(trace.method, is_hand_written(trace.method))
        axes.errorbar(
            trace.y,
            [len(lines) - 1 - (index if single else x) for x in trace.x],
            xerr=_error(trace),
            fmt=look.marker,
            color=look.colour,
            markersize=look.size + 1,
            markerfacecolor=look.colour if look.filled else "white",
            label=trace.method,
            zorder=look.layer,
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(lines)), [name if single else textwrap.fill(name, 18) for name in reversed(lines)])
    axes.set_ylim(-0.6, len(lines) - 0.4)
    _time_axis(axes.xaxis, "time per call (median, 95 % interval); open marker: forward mode", axes.set_xlabel)
    if not single:
        _legend(figure, axes)
    return figure


@draw.register
def _(chart: RatioMap) -> Figure:
    figure, axes = _canvas(chart.title, chart.subtitle, chart.caption, height=5.4)
    finite = [value for row in chart.ratio for value in row if value == value]
    bound = max(1.2, *finite, *(1 / value for value in finite))
    image = axes.pcolormesh(
        range(len(chart.D) + 1),
        range(len(chart.P) + 1),
        chart.ratio,
        norm=LogNorm(1 / bound, bound),
        cmap="RdBu",
        edgecolors="white",
        linewidth=0.8,
    )
    for i, row in enumerate(chart.ratio):
        for j, value in enumerate(row):
            if value == value:
                strong = max(value, 1 / value) > bound**0.6
                axes.text(j + 0.5, i + 0.2, f"{value:.2g}", ha="center", va="center", fontsize=8, color="white" if strong else "black")
    if chart.crossover:
        x = [_between(chart.D, d) for d, _ in chart.crossover]
        y = [_between(chart.P, p) for _, p in chart.crossover]
        axes.plot(x, y, "D", color="black", markersize=5, markeredgecolor="white")
    axes.set_xticks([j + 0.5 for j in range(len(chart.D))], [str(d) for d in chart.D])
    axes.set_yticks([i + 0.5 for i in range(len(chart.P))], [str(p) for p in chart.P])
    axes.grid(visible=False)
    axes.set_xlabel("input width D")
    axes.set_ylabel("output width P")
    bar = figure.colorbar(image, ax=axes, label="forward time / reverse time")
    ticks = [value for value in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if 1 / bound <= value <= bound]
    bar.set_ticks(ticks, labels=[f"{value:g}" for value in ticks])
    bar.ax.yaxis.set_minor_locator(NullLocator())
    return figure


def _plot(axes: Axes, trace: Trace, note_index: int, several: bool) -> None:
    look = style.style_of(trace.method, is_hand_written(trace.method), published=trace.note.startswith("published"))
    line = style.device_line(note_index) if several else look.line
    label = f"{trace.method} ({trace.note})" if trace.note else trace.method
    axes.errorbar(
        trace.x,
        trace.y,
        yerr=_error(trace),
        label=label,
        color=look.colour,
        marker=look.marker,
        linestyle=line,
        linewidth=look.width,
        markersize=look.size,
        markerfacecolor=look.colour if look.filled else "white",
        capsize=2,
        elinewidth=0.8,
        alpha=look.alpha,
        zorder=look.layer,
    )


def _error(trace: Trace) -> list[list[float]]:
    below = [y - low for y, low in zip(trace.y, trace.low, strict=True)]
    return [below, [high - y for y, high in zip(trace.y, trace.high, strict=True)]]


def _canvas(title: str, subtitle: str, caption: str, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.6, height), layout="constrained")
    axes = figure.add_subplot()
    lines = textwrap.wrap(caption, 108)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes.set_title(subtitle, loc="left", fontsize=8, color="#444444", pad=8)
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=8, color="#222222")
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", handlelength=2.6)


def _time_axis(axis: Axis, label: str, set_label: Callable[[str], object]) -> None:
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0)))
    axis.set_major_formatter(FuncFormatter(_seconds))
    axis.set_minor_formatter(NullFormatter())
    set_label(label)


def _seconds(value: float, _: object = None) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale * 0.9999:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def _between(values: Sequence[int], position: float) -> float:
    """Place a number among equally spaced cells, logarithmically between their centres."""
    import math

    for i in range(len(values) - 1):
        if values[i] <= position <= values[i + 1]:
            step = math.log(values[i + 1]) - math.log(values[i])
            return i + 0.5 + (math.log(position) - math.log(values[i])) / step
    return 0.5


def _folder(rows: Sequence[Row]) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in rows[0].machine) or "results"

"""Figures of result files: which there are, and where they are written."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib import style as matplotlib_style

import plots.charts  # noqa: F401 - registers the figures
from benchmarks.errors import BadInput
from benchmarks.records.csv_file import beside, read_csv, result_files, study_directories
from benchmarks.records.rows import Row
from benchmarks.run.provenance import file_beside, read_provenance
from plots import style
from plots.chart import Chart, ResultFile, draw, exhibits
from plots.charts.devices import devices
from plots.charts.headline import headline

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "plots" / "figures"
METADATA = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}

Report = Callable[[Path], object]


def draw_files(paths: Sequence[Path], out: Path | None, formats: Sequence[str], report: Report = lambda path: None) -> list[Path]:
    """Draw every figure of some result files."""
    loaded = [load(path) for path in paths]  # all are read before the first is drawn
    written: list[Path] = []
    machines = dict.fromkeys(_folder(file.rows) for file in loaded)
    for machine in machines:
        mine = [file for file in loaded if _folder(file.rows) == machine]
        names = {file.name for file in mine}
        shown = [exhibit.chart for exhibit in exhibits(mine) if names & set(exhibit.sources)]
        if not shown:
            counts = ", ".join(sorted({row.status for file in mine for row in file.rows})) or "no rows"
            raise BadInput(f"{mine[0].path}: nothing to draw, it has no measured case ({counts}); run the sweep again")
        for chart in shown:
            written += save(chart, _target(out, machine, len(machines)), formats, report)
    for chart in across(loaded) if out else ():
        written += save(chart, out or FIGURES, formats, report)
    return written


def draw_committed(out: Path | None, formats: Sequence[str], report: Report = lambda path: None) -> list[Path]:
    """Draw the figures of all committed results, machine by machine."""
    files = result_files()
    if not files:
        raise BadInput("no results yet; run `python bench.py run quick` first, or name result files")
    written: list[Path] = []
    machines = sorted({*(path.parent for path in files), *study_directories()})
    for chart in across([load(path) for path in files]):
        written += save(chart, out or FIGURES, formats, report)
    for machine in machines:
        for exhibit in exhibits([load(path) for path in files if path.parent == machine], machine):
            written += save(exhibit.chart, _target(out, machine.name, len(machines)), formats, report)
    return written


def across(files: Sequence[ResultFile]) -> list[Chart]:
    """Make the figures of all machines together."""
    charts = (headline(files), devices([row for file in files for row in file.rows]))
    return [chart for chart in charts if chart]


def load(path: Path) -> ResultFile:
    rows = read_csv(path)
    origin = read_provenance(path) if file_beside(path).exists() else None
    return ResultFile(path, rows, origin.rates if origin else {}, origin.sweep if origin else None)


def save(chart: Chart, out: Path, formats: Sequence[str], report: Report = lambda path: None) -> list[Path]:
    """Draw a chart and write it beside its place, then rename. The same chart gives the same bytes."""
    written: list[Path] = []
    for name in formats:
        path = out / f"{chart.stem}.{name}"
        content = render(chart, name)
        try:
            out.mkdir(parents=True, exist_ok=True)
            with beside(path) as place:
                place.write_bytes(content)
        except OSError as error:
            raise BadInput(f"{path}: cannot be written ({error.strerror}); give another directory with --out") from None
        written.append(path)
        report(path)
    return written


def render(chart: Chart, kind: str, **settings: str) -> bytes:
    target = io.BytesIO()
    with matplotlib_style.context(["default", {**style.RC, **{key.replace("_", "."): value for key, value in settings.items()}}]):
        drawing = draw(chart)
        drawing.savefig(target, format=kind, metadata=METADATA[kind], dpi=150, bbox_inches="tight", pad_inches=0.08)  # pyright: ignore[reportArgumentType]
    content = target.getvalue()
    return style.themed(content.decode(), chart.title or chart.topic).encode() if kind == "svg" else content


def _target(out: Path | None, machine: str, machines: int) -> Path:
    if out is None:
        return FIGURES / machine
    return out / machine if machines > 1 else out  # figures of two machines have the same names


def _folder(rows: Sequence[Row]) -> str:
    machine = rows[0].machine if rows else ""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in machine) or "results"

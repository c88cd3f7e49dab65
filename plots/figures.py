"""Figures of result files: which there are, and where they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib import style as matplotlib_style

import plots.drawing_comparisons  # noqa: F401 - registers its drawings
from benchmarks.errors import BadInput
from benchmarks.records.csv_file import RESULTS, read_csv, result_files
from benchmarks.records.rows import Row
from benchmarks.run.provenance import read_provenance
from plots import style
from plots.data import Chart
from plots.drawing import draw
from plots.gallery import ResultFile, gallery
from plots.traces import charts

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ("svg", "png", "pdf")
PUBLISHED = RESULTS / "published" / "notebook.csv"
IN_GALLERY = ("regret", "square", "workloads")  # too many problems, or of too many kinds, for figures of their own


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
        if not found:
            counts = ", ".join(sorted({row.status for row in rows})) or "no rows"
            raise BadInput(f"{path}: nothing to draw, it has no measured case ({counts}); run the sweep again")
        target = out or ROOT / "plots" / "figures" / _folder(rows)
        for chart in found:
            written += save(chart, target, formats)
    return written


def draw_committed(out: Path | None, formats: Sequence[str]) -> list[Path]:
    """Draw the figures of all committed results: those of each sweep, and the gallery of each machine.

    Args:
        out: Directory for all of them; `plots/figures/<machine>` by default.
        formats: Any of svg, png, pdf.

    Returns:
        The files written.
    """
    files = files_to_draw(None)
    written = draw_results([path for path in files if path.stem not in IN_GALLERY], out, formats, read_csv)
    for machine in dict.fromkeys(path.parent for path in files):
        for exhibit in gallery(load(machine), PUBLISHED):
            written += save(exhibit.chart, out or ROOT / "plots" / "figures" / machine.name, formats)
    return written


def load(machine: Path) -> list[ResultFile]:
    """Read the results of a machine.

    Args:
        machine: Their directory.

    Returns:
        The results with where they come from.
    """
    origins = {path: read_provenance(path) for path in result_files() if path.parent == machine}
    return [ResultFile(path, read_csv(path), origin.rates, origin.sweep) for path, origin in origins.items()]


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


def _folder(rows: Sequence[Row]) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in rows[0].machine) or "results"

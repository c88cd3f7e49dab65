"""One self-contained HTML page of results: summary, scoreboard, figures, explorer, all rows, how it was measured."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import style as matplotlib_style

from benchmarks.analysis import scoreboard
from benchmarks.analysis.regret import groups, problem_of_row, row_title
from benchmarks.analysis.tables import duration
from benchmarks.errors import BadInput
from benchmarks.records.csv_file import read_csv, result_files, write_atomically
from benchmarks.records.rows import Row, ok_rows
from benchmarks.run.environment import ROOT
from benchmarks.run.provenance import Provenance, read_provenance
from jacobians.registry import methods
from plots import summary
from plots.drawing import draw
from plots.figures import PUBLISHED
from plots.gallery import Exhibit, ResultFile, gallery
from plots.style import RC
from plots.traces import is_hand_written

FORMULAS = {
    "forward": "T_1 = S_1 W_1,  T_l = S_l (W_l T_{l-1}),  J = W_{L+1} T_L",
    "reverse": "C = W_{L+1},  C ← (C S_l) W_l for l = L … 1,  J = C",
    "mixed": "J = W_{L+1} S_L W_L … S_1 W_1 in the order with the fewest operations",
}
COLUMNS = ("sweep", "problem", "device", "method", "status", "median", "low", "high", "ceiling", "error", "memory", "flags", "reason")


@dataclass(frozen=True, slots=True)
class _Loaded:
    path: Path
    rows: list[Row]
    origin: Provenance


def write(results: Sequence[Path] | None = None, out: Path | None = None) -> Path:
    """Write the report.

    Args:
        results: Result CSVs; all committed ones by default.
        out: The HTML file; `report.html` here by default.

    Returns:
        The file.

    Raises:
        BadInput: There are no results, one of them is bad, none has a measured case, or the file cannot be written.
    """
    target = out or Path("report.html")
    page = render(list(results) if results else result_files())
    try:
        write_atomically(target, page)
    except OSError as error:
        raise BadInput(f"{target}: cannot be written ({error.strerror}); give another file with --out") from None
    return target


def render(paths: Sequence[Path]) -> str:
    """Make the page; the same results give the same bytes.

    Args:
        paths: Result CSVs, of one or more machines.

    Returns:
        HTML.

    Raises:
        BadInput: There are no results, one of them is bad, or none has a measured case.
    """
    if not paths:
        raise BadInput("no results yet; run `python bench.py run quick` first, or name result files")
    loaded = [_Loaded(path, read_csv(path), read_provenance(path)) for path in paths]
    rows = [row for result in loaded for row in result.rows]
    if not ok_rows(rows):
        raise BadInput("nothing to report: the results have no measured case; run a sweep again")
    machines = list(dict.fromkeys(result.origin.machine for result in loaded))
    exhibits: list[tuple[str, Exhibit]] = []
    for machine in machines:
        mine = [ResultFile(r.path, r.rows, r.origin.rates, r.origin.sweep) for r in loaded if r.origin.machine == machine]
        exhibits += [(machine, exhibit) for exhibit in gallery(mine, PUBLISHED)]
    environment = Environment(
        loader=PackageLoader("plots"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates = Path(__file__).with_name("templates")
    return environment.get_template("report.html").render(
        style=Markup((templates / "report.css").read_text(encoding="utf-8")),
        model=Markup((templates / "model.js").read_text(encoding="utf-8")),
        script=Markup((templates / "report.js").read_text(encoding="utf-8")),
        sentences=summary.sentences(rows),
        measured_at=max((row.started_at or "" for row in rows), default="")[:10],
        boards=[board for machine in machines for board in _boards(loaded, machine)],
        sections=_sections(exhibits, several=len(machines) > 1),
        devices=_devices(rows),
        methods=_methods(rows),
        origins=[_origin(result) for result in loaded],
        table=_json({"columns": COLUMNS, "rows": [_cells(row) for row in rows]}),
        explorer=_json(explorer(loaded_rows=[(r.rows, r.origin) for r in loaded])),
        counts={"rows": len(rows), "ok": len(ok_rows(rows)), "files": len(loaded)},
    )


def explorer(loaded_rows: Sequence[tuple[Sequence[Row], Provenance]]) -> list[dict[str, Any]]:
    """Collect what the explorer computes from: per machine and device its ceilings, and the measured times of each problem.

    Args:
        loaded_rows: Rows and provenance of each result.

    Returns:
        One record per device that has ceilings, in the form that `templates/model.js` takes.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for rows, origin in loaded_rows:
        for device, rates in origin.rates.items():
            here = [row for row in ok_rows(rows) if row.device == device and row.dtype == "float32"]
            if not here:
                continue
            ours = [m.implementation for m in methods() if m.hand_written and m.unsupported(problem_of_row(here[0])) is None]
            record = found.setdefault(
                (origin.machine, device),
                {
                    "name": f"{here[0].device_name} ({device}, {origin.threads} threads)",
                    "device": device,
                    "threads": origin.threads,
                    "read": rates.read,
                    "flops": rates.flops,
                    "call_s": rates.call_s,
                    "ours": list(dict.fromkeys(ours)),
                    "problems": [],
                },
            )
            record["problems"] += [_measured(group) for group in groups(here)]
    return list(found.values())


def _measured(group: list[Row]) -> dict[str, Any]:
    problem = problem_of_row(group[0])
    return {
        "widths": problem.widths,
        "batch": problem.batch,
        "itemsize": problem.itemsize,
        "plain": (problem.activation, problem.output_activation, problem.bias) == ("tanh", "identity", False),
        "normal": " normal " in f" {group[0].problem_key} ",
        "times": [[row.method, float(f"{row.median_s:.6g}")] for row in group],
    }


def _boards(loaded: list[_Loaded], machine: str) -> list[dict[str, Any]]:
    boards: list[dict[str, Any]] = []
    for result in loaded:
        if result.origin.machine == machine and any(grid.name for grid in result.origin.sweep.grid):
            scores = scoreboard.scores(result.rows, result.origin.sweep, result.origin.rates)
            columns, rows = scoreboard.table(scores)
            if rows:
                boards.append({"title": result.rows[0].device_name, "columns": columns, "rows": rows})
    return boards


def _sections(exhibits: list[tuple[str, Exhibit]], several: bool) -> list[dict[str, Any]]:
    sections: dict[str, list[dict[str, Any]]] = {}
    for number, (machine, exhibit) in enumerate(exhibits, start=1):
        chart = exhibit.chart
        sources = " ".join(f"results/{machine}/{name}.csv" for name in exhibit.sources)
        figure = {
            "number": number,
            "title": f"{chart.title}{f' ({machine})' if several else ''}",
            "caption": chart.caption,
            "svg": Markup(_inline(exhibit, number)),
            "commands": [f"python bench.py run {' '.join(exhibit.sources)}", f"python bench.py report {sources}"]
            if sources
            else ["python -m benchmarks.analysis.saturation", "python bench.py report"],
        }
        sections.setdefault(exhibit.section, []).append(figure)
    return [{"title": title, "figures": figures} for title, figures in sections.items()]


def _inline(exhibit: Exhibit, number: int) -> str:
    """Draw a figure as SVG to stand in a page: text as text, ids of its own, no declaration."""
    text = io.StringIO()
    with matplotlib_style.context(["default", {**RC, "svg.fonttype": "none"}]):
        draw(replace(exhibit.chart, title="", caption="")).savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="f{number}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1f{number}-", svg)
    # In tags alone: a hundredth of a point is finer than any screen.
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d+\.\d\d)\d+", r"\1", tag[0]), svg)
    svg = re.sub(r">\s+<", "><", svg)
    return re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg \1 role="img" aria-labelledby="figure-{number}">', svg, count=1)


def _devices(rows: list[Row]) -> dict[str, Any] | None:
    """Set the best time of each problem on several devices or machines beside each other."""
    names: dict[tuple[str, str], str] = {}
    best: dict[str, dict[tuple[str, str], Row]] = {}
    for row in ok_rows(rows):
        if is_hand_written(row.method):
            device = (row.machine, row.device)
            names[device] = f"{row.device_name} ({row.device})"
            here = best.setdefault(row.problem_key, {})
            if device not in here or (row.median_s or 0) < (here[device].median_s or 0):
                here[device] = row
    if len(names) < 2:
        return None
    shared = {key: found for key, found in best.items() if len(found) == len(names)}
    order = list(names)
    body = []
    for key, found in shared.items():
        times = [found[device].median_s or 0.0 for device in order]
        body.append([key, *map(duration, times), names[order[times.index(min(times))]], f"{max(times) / min(times):.2f}x"])
    return {"columns": ["problem", *names.values(), "fastest", "by"], "rows": body}


def _methods(rows: list[Row]) -> list[dict[str, str]]:
    measured = {row.method for row in ok_rows(rows)}
    return [
        {
            "name": m.name,
            "by": "ours" if m.hand_written else "peer",
            "summary": m.summary,
            "formula": FORMULAS[m.mode],
            "measured": "yes" if m.name in measured else "no",
        }
        for m in methods()
    ]


def _origin(result: _Loaded) -> dict[str, Any]:
    origin = result.origin
    facts = {
        "machine": origin.machine,
        "rows": f"{len(result.rows)}, {len(ok_rows(result.rows))} of them ok",
        "commit": origin.commit,
        "command": origin.command or "-",
        "threads": origin.threads,
        "seed": origin.seed,
        "cache": origin.cache,
        "time": f"{origin.wall_s:.0f} s, {origin.busy_s / origin.wall_s:.0%} of it inside measured calls" if origin.wall_s else "-",
        **{f"{device}: {name}": f"{rate:.3g}" for device, record in origin.ceilings.items() for name, rate in record.items()},
        **{name: _fact(value) for name, value in origin.facts.items() if value is not None and name != "commit"},
    }
    name = result.path.resolve()
    shown = name.relative_to(ROOT) if name.is_relative_to(ROOT) else Path(name.name)
    return {"name": str(shown), "title": origin.sweep.title, "facts": facts}


def _fact(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cells(row: Row) -> list[Any]:
    def short(value: float | None, digits: int = 4) -> float | None:
        return None if value is None else float(f"{value:.{digits}g}")

    kind = row.problem_key.split(" ", 2)[2]
    title = f"{row_title(row)}" + ("" if kind == "tanh nobias xavier seed0 float32" else f", {kind}")
    return [
        row.sweep,
        title,
        row.device,
        row.method,
        row.status,
        short(row.median_s),
        short(row.ci_low_s, 3),
        short(row.ci_high_s, 3),
        short(row.fraction_of_ceiling, 3),
        short(row.rel_error, 2),
        row.peak_bytes,
        row.flags or "",
        row.reason or "",
    ]


def _json(data: object) -> Markup:
    """Embed data in a script element: nothing in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))

"""One HTML page of results that loads nothing: summary, scoreboard, figures, explorer, all rows, how it was measured."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from benchmarks.analysis import devices, scoreboard
from benchmarks.analysis.tables import by_method, by_mode, place
from benchmarks.errors import BadInput
from benchmarks.records.csv_file import check_output, read_csv, result_files, study_directories, write_atomically
from benchmarks.records.problems import title
from benchmarks.records.rows import Row, ok_rows
from benchmarks.run.environment import ROOT
from benchmarks.run.provenance import Provenance, read_provenance
from jacobians.planning.registry import methods, quantities
from plots import figures, style
from plots.chart import Exhibit, ResultFile, exhibits
from plots.report import explorer, summary

COLUMNS = ("sweep", "problem", "device", "method", "status", "median", "error", "flags", "reason")
OVER = {"depth": "depth L", "inputs": "inputs D", "width": "width K", "outputs": "outputs P", "batch": "batch size N"}
SMALL = 12_000  # bytes of a drawing that a folded part embeds though a file of the repository has it too


@dataclass(frozen=True, slots=True)
class _Loaded:
    path: Path
    rows: list[Row]
    origin: Provenance


def write(results: Sequence[Path] | None = None, out: Path | None = None) -> Path:
    target = out or Path("report.html")
    files = list(results) if results else result_files()
    check_output(target, files)
    page = render(files, target.parent)
    try:
        write_atomically(target, page)
    except OSError as error:
        raise BadInput(f"{target}: cannot be written ({error.strerror}); give another file with --out") from None
    return target


def render(paths: Sequence[Path], place: Path = ROOT / "docs") -> str:
    """Make the page for a directory, from which it links to figures; the same results give the same bytes."""
    if not paths:
        raise BadInput("no results yet; run `python bench.py run quick` first, or name result files")
    loaded = [_Loaded(path, read_csv(path), read_provenance(path)) for path in paths]
    rows = [row for result in loaded for row in result.rows]
    if not ok_rows(rows):
        raise BadInput("nothing to report: the results have no measured case; run a sweep again")
    machines = list(dict.fromkeys(result.origin.machine for result in loaded))
    shown: list[tuple[str, Exhibit]] = []
    for machine in machines:
        mine = [ResultFile(r.path, r.rows, r.origin.rates, r.origin.sweep) for r in loaded if r.origin.machine == machine]
        shown += [(machine, exhibit) for exhibit in exhibits(mine)]
    everything = set(result_files()) <= set(paths)  # and so machines that have studies alone too
    lone = [directory for directory in study_directories() if everything and directory not in {path.parent for path in paths}]
    shown += [(directory.name, exhibit) for directory in lone for exhibit in exhibits([], directory)]
    of_all = figures.across([ResultFile(r.path, r.rows, r.origin.rates, r.origin.sweep) for r in loaded])
    shown = [*(("", Exhibit("Devices" if chart.stem == "devices" else "Headline", chart)) for chart in of_all), *shown]
    environment = Environment(
        loader=PackageLoader("plots.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sentences = summary.sentences(rows)
    templates = Path(__file__).with_name("templates")
    return environment.get_template("report.html").render(
        style=Markup((templates / "report.css").read_text(encoding="utf-8") + style.DARK_SHEET),
        model=Markup(explorer.model()),
        script=Markup((templates / "report.js").read_text(encoding="utf-8")),
        sentences=sentences[:3],
        noise=sentences[3],
        measured_at=max((row.started_at or "" for row in rows), default="")[:10],
        modes=_modes(loaded),
        boards=[board for machine in machines for board in _boards(loaded, machine)],
        **_parts(shown, {r.origin.machine: r.rows[0].device_name for r in reversed(loaded) if r.rows}, place),
        devices=dict(zip(("columns", "rows"), beside, strict=True))
        if len((beside := devices.table(rows, everywhere=True))[0]) > 4
        else None,
        methods=_methods(rows),
        origins=[_origin(result) for result in loaded],
        table=_json(_coded([_cells(row) for row in rows])),
        explorer=_json(explorer.machines([(r.rows, r.origin) for r in loaded])),
        counts={"rows": len(rows), "ok": len(ok_rows(rows)), "files": len(loaded)},
    )


def _modes(loaded: list[_Loaded]) -> list[dict[str, Any]]:
    """Make the first tables: per sweep our modes beside the best library; the shortest first, which the page shows open."""
    tables = [
        {"title": f"{result.path.stem}, {result.rows[0].device_name}", "columns": columns, "rows": rows}
        for result in loaded
        for columns, rows in (by_mode(result.rows), by_method(result.rows))
        if rows
    ]
    return sorted(tables, key=lambda table: len(table["rows"]))


def _boards(loaded: list[_Loaded], machine: str) -> list[dict[str, Any]]:
    boards: list[dict[str, Any]] = []
    for result in loaded:
        sweep = result.origin.sweep
        if result.origin.machine == machine and any(grid.name for grid in sweep.grid):
            columns, rows = scoreboard.table(scoreboard.scores(result.rows, sweep, result.origin.rates))
            if rows:
                heading = f"{sweep.title}: hand-written against the best library, on {result.rows[0].device_name}"
                boards.append({"sweep": sweep.name, "title": heading, "columns": columns, "rows": rows})
    return boards


def _parts(shown: list[tuple[str, Exhibit]], names: dict[str, str], place: Path) -> dict[str, Any]:
    """Sort the figures into the parts of the page, and number them in its order: those in sight first, then the folded ones by section."""
    over: dict[str, list[tuple[str, Exhibit]]] = {sweep: [] for sweep in OVER}
    seen: dict[str, list[tuple[str, Exhibit]]] = {"Headline": [], "Devices": [], "Against every library": []}
    folded: dict[str, list[tuple[str, Exhibit]]] = {}
    for pair in shown:
        section, sweep = pair[1].section, next(iter(pair[1].sources), "")
        if section == "Growth" and sweep in OVER and not over[sweep]:
            over[sweep].append(pair)
        else:
            (seen if section in seen else folded).setdefault(section, []).append(pair)
    numbers = itertools.count(1)

    def record(pairs: list[tuple[str, Exhibit]], where: Path | None = None) -> list[dict[str, Any]]:
        return [_figure(exhibit, next(numbers), machine, names.get(machine, machine), where) for machine, exhibit in pairs]

    return {
        "headline": record(seen["Headline"]),
        "over": [
            {"heading": f"Forward or reverse over {OVER[sweep]}, on {names.get(machine, machine)}", **record([(machine, exhibit)])[0]}
            for sweep in OVER
            for machine, exhibit in over[sweep]
        ],
        "beside": record(seen["Devices"]),
        "libraries": record(seen["Against every library"]),
        "sections": [{"title": section, "figures": record(pairs, place)} for section, pairs in folded.items()],
    }


def _figure(exhibit: Exhibit, number: int, machine: str, name: str, place: Path | None = None) -> dict[str, Any]:
    """Record a figure; with a place, one that is large and drawn in the repository is linked to from there."""
    chart = exhibit.chart
    sources = " ".join(f"results/{machine}/{source}.csv" for source in exhibit.sources)
    drawn = ROOT / "plots" / "figures" / machine / f"{chart.stem}.svg"
    linked = place is not None and drawn.is_file() and drawn.stat().st_size > SMALL
    return {
        "number": number,
        "title": f"{chart.title or chart.topic}{f' ({name})' if name else ''}",
        "caption": chart.caption,
        "svg": "" if linked else Markup(_inline(exhibit, number)),
        "link": Path(os.path.relpath(drawn, place.resolve())).as_posix() if linked and place else "",
        "commands": [f"python bench.py run {' '.join(exhibit.sources)}", f"python bench.py report {sources}"]
        if sources
        else [f"python bench.py study {exhibit.study}"]
        if exhibit.study
        else [],
    }


def _inline(exhibit: Exhibit, number: int) -> str:
    """Draw a figure as SVG to stand in a page: text as text, ids of its own, no declaration, no style sheet but the page's."""
    svg = figures.render(replace(exhibit.chart, title="", caption=""), "svg", svg_fonttype="none").decode()
    svg = re.sub(r"<metadata>.*?</metadata>|<style>.*?</style>|<title>.*?</title>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="f{number}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1f{number}-", svg)
    svg = re.sub(r">\s+<", "><", svg)
    return re.sub(
        r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>",
        rf'<svg \1 stroke-linejoin="round" role="img" aria-labelledby="figure-{number}">',
        svg,
        count=1,
    )


def _methods(rows: list[Row]) -> list[dict[str, str]]:
    measured = {row.method for row in ok_rows(rows)}
    return [
        {
            "name": m.name,
            "by": "hand-written" if m.hand_written else "library",
            "summary": m.summary,
            "formula": quantity.modes[m.mode],
            "measured": "yes" if m.name in measured else "no",
        }
        for quantity in quantities()
        for m in methods(quantity=quantity.name)
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


def _coded(table: list[list[Any]]) -> dict[str, Any]:
    """Write each text once, and its number in the cells: a table of rows says the same a hundred times."""
    words: dict[str, int] = {}
    coded = [[words.setdefault(cell, len(words)) if isinstance(cell, str) else cell for cell in cells] for cells in table]
    return {"columns": COLUMNS, "numbers": ["median", "error"], "words": list(words), "rows": coded}


def _cells(row: Row) -> list[Any]:
    def short(value: float | None, digits: int = 4) -> float | None:
        return None if value is None else float(f"{value:.{digits}g}")

    return [
        row.sweep,
        title(row),
        place(row),
        row.method,
        row.status,
        short(row.median_s),
        short(row.rel_error, 2),
        row.flags or "",
        row.reason or "",
    ]


def _json(data: object) -> Markup:
    """Embed data in a script element: nothing in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))

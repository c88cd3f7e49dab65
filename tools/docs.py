"""Parts of the documentation that are written from the code and the committed results: `make docs`."""

from __future__ import annotations

import json
import math
import statistics
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.analysis import regret, scoreboard
from benchmarks.analysis.tables import by_mode, duration, markdown
from benchmarks.measure.statistics import Ratio
from benchmarks.records.csv_file import read_csv, result_files, write_atomically
from benchmarks.records.problems import NAIVE, against_libraries, best_baseline, best_by_mode, certainties, fastest, groups, ratio, title
from benchmarks.records.rows import Row, column_dictionary, ok_rows
from benchmarks.run.environment import ROOT
from benchmarks.run.provenance import Provenance, read_provenance
from benchmarks.workloads import names
from jacobians.network import activations, losses
from jacobians.planning.registry import JACOBIAN, MODES, find_quantity, methods, quantities
from plots.charts.headline import DEVICES, SWEEPS, headline, rows_of
from plots.figures import load
from plots.growth import sentence
from plots.report import summary
from studies import STUDIES, data
from tools import exercises

START, END = "<!-- results: written by make docs -->", "<!-- end of results -->"
GPU_START, GPU_END = "<!-- gpu results: written by make docs -->", "<!-- end of gpu results -->"
COLUMNS_START, COLUMNS_END = "<!-- columns: written by make docs -->", "<!-- end of columns -->"
SHOWN: dict[str, Callable[[Row], bool]] = {  # sweep -> which of its problems
    "notebook": lambda row: True,
    "batch": lambda row: row.N in {1, 64, 4096},
    "inputs": lambda row: row.D in {1, 1024},
    "outputs": lambda row: row.P in {1, 1024},
    "bottleneck": lambda row: row.K in {None, 50},
}
COLUMNS: dict[str, Callable[[Row], bool]] = {
    "hand-written, in C": lambda row: row.implementation == "native",
    "hand-written, in torch": lambda row: row.implementation == "eager",
    "torch.func": lambda row: row.implementation == "torch.func",
    "torch.autograd": lambda row: row.implementation.startswith("autograd") or row.implementation == "sum-trick",
    "JAX jit": lambda row: row.implementation == "jax",
    "diagonal matrices": lambda row: row.implementation in NAIVE,
}
TORCH = ("torch.func", "autograd-loop", "autograd-vectorized", "sum-trick", *NAIVE)
BOARD = ("workload", "best hand-written", "time", "best library", "time", "faster by", "of ceiling")
UNCHOSEN = {"random": "shapes drawn at random (seed {seed})", "wide-batches": "batches through wide networks"}


def scores(path: Path) -> str:
    """Write the scoreboard of a result, with the sizes of each shape."""
    origin = read_provenance(path)
    found = scoreboard.scores(read_csv(path), origin.sweep, origin.rates)
    columns, rows = scoreboard.table(found)
    sizes = {score.name: title(score.ours) for score in found}
    return markdown(["workload", "sizes", *columns[1:]], [[row[0], sizes[row[0]], *row[1:]] for row in rows])


def unchosen() -> str:
    """Say how the best hand-written method stands where the headline does not look: on drawn shapes, and in wide networks."""
    parts: list[str] = []
    for sweep, what in UNCHOSEN.items():
        for path in _newest(sweep):
            rows = [row for row in ok_rows(read_csv(path)) if row.device == "cpu"]
            leads = [ratio(library, ours).value for ours, library in against_libraries(rows)]
            parts.append(
                f"{sum(lead > 1 for lead in leads)} of {len(leads)} {what.format(seed=rows[0].seed)} "
                f"({statistics.geometric_mean(leads):.3g} times as fast, {min(leads):.2g} at worst)"
            )
    return f"On the CPU the best hand-written method beats the best library on {' and on '.join(parts)}." if parts else ""


def boards() -> str:
    """Write the scoreboards of sweeps that are not of one machine with the first; nothing where they were not measured."""
    parts: list[str] = []
    for sweep, what in (("wide-batches", "Batches through wide networks"), ("derivatives", "Derivatives by name")):
        for path in _newest(sweep):
            row = read_csv(path)[0]
            parts.append(f"{what}, on {row.device_name} ({row.threads} threads):\n\n{scores(path)}")
    return "\n\n".join(parts)


def _newest(sweep: str) -> list[Path]:
    """Return the newest result of a sweep on a CPU, if there is one."""
    found = [path for path in result_files() if path.stem == sweep and any(row.device == "cpu" for row in ok_rows(read_csv(path)))]
    return sorted(found, key=lambda path: max(row.started_at or "" for row in read_csv(path)))[-1:]


def _folder() -> Path:
    """Return the folder of the machine whose scoreboard is the newest of a CPU."""
    return _newest("workloads")[0].parent


def _files() -> list[Path]:
    """Return the results of that machine."""
    folder = _folder()
    return [path for path in result_files() if path.parent == folder]


def table() -> str:
    """Write the table: problems down, families of methods across, the fastest in bold."""
    body: list[list[str]] = []
    for sweep, shown in SHOWN.items():
        path = _folder() / f"{sweep}.csv"
        rows = [row for row in ok_rows(read_csv(path)) if row.device == "cpu" and shown(row)] if path.exists() else []
        body += [_cells(group) for group in groups(rows)]
    return markdown(["problem", *COLUMNS], body)


def _cells(rows: list[Row]) -> list[str]:
    times = [min((row.median_s for row in rows if row.median_s and wanted(row)), default=None) for wanted in COLUMNS.values()]
    best = min(time for time in times if time is not None)
    return [title(rows[0]), *(f"**{duration(time)}**" if time == best else duration(time) for time in times)]


def first_page() -> str:
    """Write the part of the README: what the headline figure says, and the ends of its lines as a table, both devices side by side."""
    files = [load(path) for path in result_files()]
    chart = headline(files)
    if chart is None:
        return ""
    chosen = rows_of(files)
    answer = summary.smaller_side([row for file in files for row in ok_rows(file.rows)])
    body: list[list[str]] = []
    for variable in SWEEPS:
        families = [found[variable] for found in chosen.values() if variable in found]
        sizes = {getattr(row, variable) for row in families[0]} if families else set()
        for size in sorted({min(sizes), max(sizes)}) if sizes else ():
            here = [[row for row in found.get(variable, []) if getattr(row, variable) == size] for found in chosen.values()]
            body.append([title(next(row for rows in here for row in rows)), *(cell for rows in here for cell in _modes_of(rows))])
    columns = [name for device in chosen for name in (f"{DEVICES[device]}: forward", "reverse", "mixed", "best library")]
    libraries = "; ".join(f"{DEVICES[device]}: {found}" for device, found in chart.libraries.items())
    parts = (
        textwrap.fill(" ".join(filter(None, (f"**{answer}** {chart.caption}", unchosen()))), 118),
        markdown(["one x", *columns], body),
        f"{chart.subtitle}.\n" + textwrap.fill(f"Libraries measured: {libraries}. The winner is in bold.", 118),
    )
    return "\n\n".join(parts)


def _modes_of(rows: list[Row]) -> list[str]:
    """Write the times of the three modes, the fastest in bold, and the best library."""
    best, library = best_by_mode(rows), best_baseline(rows)
    first = fastest([*best.values(), *([library] if library else [])])
    cells = [best.get(mode) for mode in MODES]
    written = [(f"**{duration(row.median)}**" if row is first else duration(row.median)) if row else "-" for row in cells]
    beside = f"{library.implementation} {duration(library.median)}" if library else "-"
    return [*written, f"**{beside}**" if library is first and library else beside]


def modes() -> str:
    """Write the first table: forward, reverse and mixed mode beside the best library."""
    return markdown(*by_mode(read_csv(_folder() / "quick.csv")))


def statements() -> str:
    """Say what the committed results say, counted from their rows."""
    files = _files()
    rows = [row for path in files for row in ok_rows(read_csv(path)) if row.device == "cpu" and row.quantity == JACOBIAN]
    wins = duels = 0
    gains: list[tuple[Ratio, Row]] = []
    for group in groups(rows):
        by_method = {row.method: row for row in group}
        for mode in ("forward", "reverse"):
            eager = by_method.get(f"{mode}:eager")
            others = [row for row in group if row.mode == mode and row.implementation in TORCH]
            if others and eager:
                duels, wins = duels + 1, wins + all(eager.median < row.median for row in others)
        best = best_by_mode(group)
        either = fastest([best[mode] for mode in ("forward", "reverse") if mode in best])
        if "mixed" in best and either:
            gains.append((ratio(either, best["mixed"]), group[0]))
    contested = against_libraries(rows)
    winners = Counter("ours" if ours.median <= library.median else library.implementation for ours, library in contested)
    ahead, behind = _certain([ratio(library, ours) for ours, library in contested])
    elsewhere = ", ".join(f"{name} on {count}" for name, count in winners.most_common() if name != "ours")
    gain, row = max(gains, key=lambda found: found[0].value)
    chosen = [row for path in files if path.stem in {"regret", "workloads"} for row in read_csv(path)]
    rates = {device: found for path in files for device, found in read_provenance(path).rates.items()}
    planner, *rules = regret.regrets(chosen, rates=rates)
    lines = [
        f"- The fastest of all is a hand-written method on {winners['ours']} of {len(contested)} problems where a library was measured "
        "beside it"
        + (f"; {elsewhere}." if elsewhere else ".")
        + f" The whole 95 % interval of the ratio is above 1 on {ahead}, and below 1 on {behind}.",
        "- In the same mode the readable torch implementation alone is faster than `torch.autograd`, `torch.func` and diagonal matrices in "
        f"{wins} of {duels} comparisons.",
        f"- Mixed mode is up to {gain} as fast as the better of the two modes ({title(row)}).",
        f"- What the planner chooses by estimate takes {planner.median:.3f} times the best time in the median of {len(planner.ratios)} "
        f"problems and {planner.ratios[-1]:.2f} at worst; "
        + "; ".join(f"“{rule.chooser}” {rule.median:.3f} and {rule.ratios[-1]:.3g}" for rule in rules)
        + ".",
        f"- Of these times, {certainties(rows)}; ratios are of paired blocks, so common slowdowns cancel.",
    ]
    return "\n".join(lines)


def _certain(leads: Sequence[Ratio]) -> tuple[int, int]:
    """Count the ratios whose whole interval is above 1, and below it."""
    return sum((lead.low or 0) > 1 for lead in leads), sum((lead.high or math.inf) < 1 for lead in leads)


def grown() -> str:
    """Say how forward and reverse mode grow with the width of square layers."""
    return " ".join(sentence(ok_rows(read_csv(path))) for path in _newest("square"))


def derivatives() -> str:
    """Write the shapes with names of every other quantity, and what all its problems say."""
    body: list[list[str]] = []
    every: list[Row] = []
    for path in _files():
        origin = read_provenance(path)
        quantity = origin.sweep.quantity
        if quantity == JACOBIAN:
            continue
        rows = ok_rows(read_csv(path))
        every += rows
        for cells in _named(rows, origin):
            body.append([find_quantity(quantity).title, *(cell.removeprefix(f"{quantity}/") for cell in cells)])
    if not every:
        return ""
    leads = [ratio(library, ours) for ours, library in against_libraries(every)]
    ahead, behind = _certain(leads)
    end = (
        f"Over all {len(leads)} problems of these sweeps, growth included, a hand-written method is the fastest on "
        f"{sum(lead.value > 1 for lead in leads)}; the whole 95 % interval of the ratio is above 1 on {ahead} and below 1 on {behind}. "
        f"{certainties(every).capitalize()}."
    )
    return f"### Derivatives that share the chain\n\n{markdown(['what', *BOARD], body)}\n\n{end}"


def _named(rows: list[Row], origin: Provenance) -> list[list[str]]:
    """Return the scoreboard of the shapes with names, without what the planner chooses."""
    named = set(scoreboard.names_of(origin.sweep).values())
    _, body = scoreboard.table([score for score in scoreboard.scores(rows, origin.sweep, origin.rates) if score.name in named])
    return [cells[: len(BOARD)] for cells in body]


def text() -> str:
    """Write all that stands between the markers of the page of results."""
    board = scores(_folder() / "workloads.csv")
    return "\n\n".join(filter(None, (modes(), statements(), grown(), board, boards(), table(), derivatives())))


def on_accelerators() -> str:
    """Write the shapes with names that were measured on accelerators."""
    body: list[list[str]] = []
    for path in result_files():
        rows = [row for row in ok_rows(read_csv(path)) if row.device != "cpu"]
        body += [[rows[0].device_name, *cells] for cells in _named(rows, read_provenance(path))]
    return markdown(["card", *BOARD], body)


def replace_between(path: Path, start: str, end: str, text: str) -> None:
    """Replace what stands between two markers of a file."""
    before, rest = path.read_text(encoding="utf-8").split(start)
    write_atomically(path, f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}")


def known_names() -> str:
    """Write the names that the command line suggests without importing torch."""
    known = {
        "methods": [method.name for quantity in quantities() for method in methods(quantity=quantity.name)],
        "activations": [*activations.RULES],
        "losses": [*losses.RULES],
        "studies": [*STUDIES],
        "data sets": [*data.SETS],
    }
    return json.dumps(known, indent=1) + "\n"


def main() -> None:
    """Write the results into README and docs, the columns beside the results, and the names that the command line knows."""
    if any(path.stem == "workloads" for path in result_files()):
        replace_between(ROOT / "README.md", START, END, first_page())
        replace_between(ROOT / "docs" / "results.md", START, END, text())
        replace_between(ROOT / "docs" / "gpu.md", GPU_START, GPU_END, on_accelerators())
    studies = ROOT / "docs" / "studies.md"
    replace_between(studies, exercises.START, exercises.END, exercises.text())
    write_atomically(studies, exercises.quoted(studies.read_text(encoding="utf-8")))
    replace_between(ROOT / "results" / "README.md", COLUMNS_START, COLUMNS_END, column_dictionary().rstrip())
    write_atomically(names.KNOWN, known_names())


if __name__ == "__main__":
    main()

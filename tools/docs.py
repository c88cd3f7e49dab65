"""Parts of the documentation that are written from the code and the committed results: `make docs`."""

from __future__ import annotations

import json
import math
import statistics
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.analysis import regret, scoreboard
from benchmarks.analysis.tables import by_mode, duration
from benchmarks.measure.statistics import Ratio
from benchmarks.records.csv_file import RESULTS, read_csv, result_files, write_atomically
from benchmarks.records.problems import NAIVE, best_baseline, best_by_mode, best_of_ours, certainties, fastest, groups, ratio, title
from benchmarks.records.rows import Row, column_dictionary, ok_rows
from benchmarks.run.environment import ROOT
from benchmarks.run.provenance import read_provenance
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


def scores(machine: str | None = None) -> str:
    """Write the scoreboard.

    Args:
        machine: Folder under `results/`; the committed one by default.

    Returns:
        Markdown.
    """
    return _scoreboard(_folder(machine) / "workloads.csv")


def _scoreboard(path: Path) -> str:
    origin = read_provenance(path)
    found = scoreboard.scores(read_csv(path), origin.sweep, origin.rates)
    columns, rows = scoreboard.table(found)
    sizes = {score.name: title(score.ours) for score in found}
    lines = [f"| workload | sizes | {' | '.join(columns[1:])} |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join([*lines, *(f"| {row[0]} | {sizes[row[0]]} | {' | '.join(row[1:])} |" for row in rows)])


UNCHOSEN = {"random": "shapes drawn at random (seed {seed})", "wide-batches": "batches through wide networks"}


def unchosen() -> str:
    """Say how the best hand-written method stands where the headline does not look: on drawn shapes, and in wide networks.

    Returns:
        A sentence.
    """
    parts: list[str] = []
    for sweep, what in UNCHOSEN.items():
        for path in _newest(sweep):
            rows = [row for row in ok_rows(read_csv(path)) if row.device == "cpu"]
            leads = [ratio(b, o).value for group in groups(rows) if (o := best_of_ours(group)) and (b := best_baseline(group))]
            parts.append(
                f"{sum(lead > 1 for lead in leads)} of {len(leads)} {what.format(seed=rows[0].seed)} "
                f"({statistics.geometric_mean(leads):.3g} times as fast, {min(leads):.2g} at worst)"
            )
    return f"On the CPU the best hand-written method beats the best library on {' and on '.join(parts)}." if parts else ""


def wide_batches() -> str:
    """Write the scoreboard of batches through wide networks.

    Returns:
        Markdown; empty where they were not measured.
    """
    for path in _newest("wide-batches"):
        row = read_csv(path)[0]
        return f"Batches through wide networks, on {row.device_name} ({row.threads} threads):\n\n{_scoreboard(path)}"
    return ""


def _newest(sweep: str) -> list[Path]:
    """Return the newest result of a sweep on a CPU, if there is one."""
    found = [path for path in result_files() if path.stem == sweep and any(row.device == "cpu" for row in ok_rows(read_csv(path)))]
    return sorted(found, key=lambda path: max(row.started_at or "" for row in read_csv(path)))[-1:]


def table(machine: str | None = None) -> str:
    """Write the table: problems down, families of methods across, the fastest in bold.

    Args:
        machine: Folder under `results/`; the committed one by default.

    Returns:
        Markdown.
    """
    lines = [f"| problem | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for sweep, shown in SHOWN.items():
        path = _folder(machine) / f"{sweep}.csv"
        rows = [row for row in ok_rows(read_csv(path)) if row.device == "cpu" and shown(row)] if path.exists() else []
        lines += [_line(group) for group in groups(rows)]
    return "\n".join(lines)


def first_page() -> str:
    """Write the part of the README: what the headline figure says, and the ends of its lines as a table, both devices side by side."""
    files = [load(path) for path in result_files()]
    chart = headline(files)
    if chart is None:
        return ""
    chosen = rows_of(files)
    answer = summary.smaller_side([row for file in files for row in ok_rows(file.rows)])
    lines = [textwrap.fill(" ".join(filter(None, (f"**{answer}** {chart.caption}", unchosen()))), 118), ""]
    names = [f"{DEVICES[device]}: forward | reverse | mixed | best library" for device in chosen]
    lines += [f"| one x | {' | '.join(names)} |", "|---" * (4 * len(names) + 1) + "|"]
    for variable in SWEEPS:
        families = [found[variable] for found in chosen.values() if variable in found]
        sizes = {getattr(row, variable) for row in families[0]} if families else set()
        for size in sorted({min(sizes), max(sizes)}) if sizes else ():
            here = [[row for row in found.get(variable, []) if getattr(row, variable) == size] for found in chosen.values()]
            lines.append(
                f"| {title(next(row for rows in here for row in rows))} | {' | '.join(cell for rows in here for cell in _modes_of(rows))} |"
            )
    libraries = "; ".join(f"{DEVICES[device]}: {found}" for device, found in chart.libraries.items())
    return "\n".join([*lines, "", f"{chart.subtitle}.", textwrap.fill(f"Libraries measured: {libraries}. The winner is in bold.", 118)])


def _modes_of(rows: list[Row]) -> list[str]:
    """Write the times of the three modes, the fastest in bold, and the best library."""
    best, library = best_by_mode(rows), best_baseline(rows)
    first = fastest([*best.values(), *([library] if library else [])])
    cells = [best.get(mode) for mode in MODES]
    written = [(f"**{duration(row.median)}**" if row is first else duration(row.median)) if row else "-" for row in cells]
    beside = f"{library.implementation} {duration(library.median)}" if library else "-"
    return [*written, f"**{beside}**" if library is first and library else beside]


def modes(machine: str | None = None) -> str:
    """Write the first table: forward, reverse and mixed mode beside the best library.

    Args:
        machine: Folder under `results/`; the committed one by default.

    Returns:
        Markdown.
    """
    path = _folder(machine) / "quick.csv"
    columns, rows = by_mode(read_csv(path))
    return "\n".join([f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in rows)])


def statements(machine: str | None = None) -> str:
    """Say what the committed results say, counted from their rows.

    Args:
        machine: Folder under `results/`; the committed one by default.

    Returns:
        Markdown, one point per line.
    """
    files = [path for path in result_files() if path.parent == _folder(machine)]
    rows = [row for path in files for row in ok_rows(read_csv(path)) if row.device == "cpu" and row.quantity == JACOBIAN]
    wins = duels = ahead = behind = 0
    winners: Counter[str] = Counter()
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
        ours, library = best_of_ours(group), best_baseline(group)
        if ours and library:
            lead = ratio(library, ours)
            winners["ours" if ours.median <= library.median else library.implementation] += 1
            ahead += (lead.low or 0) > 1
            behind += (lead.high or math.inf) < 1
    contested = sum(winners.values())
    elsewhere = ", ".join(f"{name} on {count}" for name, count in winners.most_common() if name != "ours")
    gain, row = max(gains, key=lambda found: found[0].value)
    chosen = [row for path in files if path.stem in {"regret", "workloads"} for row in read_csv(path)]
    rates = {device: found for path in files for device, found in read_provenance(path).rates.items()}
    planner, *rules = regret.regrets(chosen, rates=rates)
    lines = [
        f"- The fastest of all is a hand-written method on {winners['ours']} of {contested} problems where a library was measured beside it"
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


def grown() -> str:
    """Say how forward and reverse mode grow with the width of square layers.

    Returns:
        A sentence; empty where they were not measured.
    """
    return " ".join(sentence(ok_rows(read_csv(path))) for path in _newest("square"))


def derivatives(machine: str | None = None) -> str:
    """Write the shapes with names of every other quantity, and what all its problems say.

    Args:
        machine: Folder under `results/`; the committed one by default.

    Returns:
        Markdown; empty where no other quantity was measured.
    """
    lines = ["| what | workload | best hand-written | time | best library | time | faster by | of ceiling |", "|---" * 8 + "|"]
    every: list[Row] = []
    for path in [path for path in result_files() if path.parent == _folder(machine)]:
        origin = read_provenance(path)
        if origin.sweep.quantity == JACOBIAN:
            continue
        rows = ok_rows(read_csv(path))
        every += rows
        names = set(scoreboard.names_of(origin.sweep).values())
        columns, body = scoreboard.table([s for s in scoreboard.scores(rows, origin.sweep, origin.rates) if s.name in names])
        what = find_quantity(origin.sweep.quantity).title
        for row in body:
            cells = [cell.removeprefix(f"{origin.sweep.quantity}/") for cell in row[: len(columns) - 2]]
            lines.append(f"| {what} | {' | '.join(cells)} |")
    if not every:
        return ""
    leads = [ratio(library, ours) for group in groups(every) if (ours := best_of_ours(group)) and (library := best_baseline(group))]
    faster, sure = sum(lead.value > 1 for lead in leads), sum((lead.low or 0) > 1 for lead in leads)
    slower = sum((lead.high or math.inf) < 1 for lead in leads)
    end = (
        f"Over all {len(leads)} problems of these sweeps, growth included, a hand-written method is the fastest on {faster}; the whole "
        f"95 % interval of the ratio is above 1 on {sure} and below 1 on {slower}. {certainties(every).capitalize()}."
    )
    return "### Derivatives that share the chain\n\n" + "\n".join(lines) + f"\n\n{end}"


TORCH = ("torch.func", "autograd-loop", "autograd-vectorized", "sum-trick", *NAIVE)


def _line(rows: list[Row]) -> str:
    times = [min((row.median_s for row in rows if row.median_s and wanted(row)), default=None) for wanted in COLUMNS.values()]
    best = min(time for time in times if time is not None)
    cells = [f"**{duration(time)}**" if time == best else duration(time) for time in times]
    return f"| {title(rows[0])} | {' | '.join(cells)} |"


def _folder(machine: str | None) -> Path:
    """Return the folder of committed results: the named one, or that of the newest scoreboard of a CPU."""
    if machine is not None:
        return RESULTS / machine
    boards = [path for path in result_files() if path.stem == "workloads" and any(row.device == "cpu" for row in read_csv(path))]
    return max(boards, key=lambda path: max(row.started_at or "" for row in read_csv(path))).parent


def text() -> str:
    """Write all that stands between the markers.

    Returns:
        Markdown.
    """
    return "\n\n".join(filter(None, (modes(), statements(), grown(), scores(), wide_batches(), table(), derivatives())))


def on_accelerators() -> str:
    """Write the shapes with names that were measured on accelerators.

    Returns:
        Markdown.
    """
    lines = ["| card | workload | best hand-written | time | best library | time | faster by | of ceiling |", "|---" * 8 + "|"]
    for path in result_files():
        origin = read_provenance(path)
        rows = [row for row in ok_rows(read_csv(path)) if row.device != "cpu"]
        names = set(scoreboard.names_of(origin.sweep).values())
        _, body = scoreboard.table([s for s in scoreboard.scores(rows, origin.sweep, origin.rates) if s.name in names])
        lines += [f"| {rows[0].device_name} | {' | '.join(row[:7])} |" for row in body]
    return "\n".join(lines)


def replace_between(path: Path, start: str, end: str, text: str) -> None:
    """Replace what stands between two markers of a file.

    Args:
        path: The file.
        start: The first marker.
        end: The second one.
        text: What to put between them.
    """
    before, rest = path.read_text(encoding="utf-8").split(start)
    write_atomically(path, f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}")


def known_names() -> str:
    """Write the names that the command line suggests without importing torch.

    Returns:
        JSON.
    """
    every = [method.name for quantity in quantities() for method in methods(quantity=quantity.name)]
    known = {
        "methods": every,
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

"""The results of the README, written from the committed CSVs: `python -m benchmarks.analysis.readme` (part of `make figures`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.analysis import regret, scoreboard
from benchmarks.analysis.regret import row_title
from benchmarks.analysis.tables import duration, speed_up
from benchmarks.records.csv_file import read_csv, result_files, write_atomically
from benchmarks.records.rows import Row, ok_rows
from benchmarks.run.environment import ROOT
from benchmarks.run.provenance import read_provenance
from jacobians.registry import find_method

MACHINE = "amd-epyc-2-cores"
START, END = "<!-- results: written by python -m benchmarks.analysis.readme -->", "<!-- end of results -->"
SHOWN: dict[str, Callable[[Row], bool]] = {  # sweep -> which of its problems
    "notebook": lambda row: True,
    "batch": lambda row: row.N in {1, 64, 4096},
    "inputs": lambda row: row.D in {1, 1024},
    "outputs": lambda row: row.P in {1, 1024},
    "bottleneck": lambda row: row.K in {None, 50},
}
COLUMNS: dict[str, Callable[[Row], bool]] = {
    "ours, in C": lambda row: row.implementation == "native",
    "ours, in torch": lambda row: row.implementation == "eager",
    "torch.func": lambda row: row.implementation == "torch.func",
    "torch.autograd": lambda row: row.implementation.startswith("autograd") or row.implementation == "sum-trick",
    "JAX jit": lambda row: row.implementation == "jax",
    "diagonal matrices": lambda row: row.implementation == "dense",
}


def scores(machine: str = MACHINE) -> str:
    """Write the scoreboard.

    Args:
        machine: Folder under `results/`.

    Returns:
        Markdown.
    """
    path = ROOT / "results" / machine / "workloads.csv"
    origin = read_provenance(path)
    found = scoreboard.scores(read_csv(path), origin.sweep, origin.rates)
    columns, rows = scoreboard.table(found)
    sizes = {score.name: row_title(score.ours) for score in found}
    lines = [f"| workload | sizes | {' | '.join(columns[1:])} |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join([*lines, *(f"| {row[0]} | {sizes[row[0]]} | {' | '.join(row[1:])} |" for row in rows)])


def table(machine: str = MACHINE) -> str:
    """Write the table: problems down, families of methods across, the fastest in bold.

    Args:
        machine: Folder under `results/`.

    Returns:
        Markdown.
    """
    lines = [f"| L, D, K, P, N | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for sweep, shown in SHOWN.items():
        path = ROOT / "results" / machine / f"{sweep}.csv"
        rows = [row for row in ok_rows(read_csv(path)) if row.device == "cpu" and shown(row)] if path.exists() else []
        lines += [_line([row for row in rows if row.problem_key == problem]) for problem in dict.fromkeys(row.problem_key for row in rows)]
    return "\n".join(lines)


def statements(machine: str = MACHINE) -> str:
    """Say what the committed results say, counted from their rows.

    Args:
        machine: Folder under `results/`.

    Returns:
        Markdown, one point per line.
    """
    files = [path for path in result_files() if path.parent.name == machine]
    rows = [row for path in files for row in ok_rows(read_csv(path)) if row.device == "cpu"]
    by_problem: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_problem.setdefault((row.sweep, row.problem_key), []).append(row)
    wins = duels = ahead = behind = 0
    winners: Counter[str] = Counter()
    gains: list[tuple[float, Row]] = []
    for group in by_problem.values():
        time = {row.method: row.median_s or math.inf for row in group}
        ours = [row for row in group if find_method(row.method).hand_written]
        for mode in ("forward", "reverse"):
            eager = time.get(f"{mode}:eager")
            others = [row.median_s or math.inf for row in group if row.mode == mode and row not in ours and row.implementation in TORCH]
            if others and eager:
                duels, wins = duels + 1, wins + (eager < min(others))
        best = best_per_mode(ours)
        if {"forward", "reverse", "mixed"} <= best.keys():
            gains.append((min(best["forward"], best["reverse"]) / best["mixed"], group[0]))
        peers = [row for row in group if row not in ours and row.implementation != "dense"]
        if ours and peers:
            fastest = min((*ours, *peers), key=lambda row: row.median_s or math.inf)
            winners["ours" if fastest in ours else fastest.implementation] += 1
            ratio = speed_up(min(ours, key=lambda row: row.median_s or math.inf), min(peers, key=lambda row: row.median_s or math.inf))
            ahead += (ratio.low or 0) > 1
            behind += (ratio.high or math.inf) < 1
    contested = sum(winners.values())
    elsewhere = ", ".join(f"{name} on {count}" for name, count in winners.most_common() if name != "ours")
    gain, row = max(gains, key=lambda found: found[0])
    chosen = [row for path in files if path.stem in {"regret", "workloads"} for row in read_csv(path)]
    rates = {device: found for path in files for device, found in read_provenance(path).rates.items()}
    planner, *rules = regret.regrets(chosen, rates=rates)
    lines = [
        f"- The fastest of all is a hand-written method on {winners['ours']} of {contested} problems where a library was measured beside it"
        + (f"; {elsewhere}." if elsewhere else ".")
        + f" The whole 95 % interval of the ratio is above 1 on {ahead}, and below 1 on {behind}.",
        "- In the same mode the readable torch implementation alone is faster than `torch.autograd`, `torch.func` and diagonal matrices in "
        f"{wins} of {duels} comparisons.",
        f"- Mixed mode is up to {gain:.1f} times as fast as the better of the two modes ({row_title(row)}).",
        f"- What the planner chooses by estimate takes {planner.median:.3f} times the best time in the median of {len(planner.ratios)} "
        f"problems and {planner.ratios[-1]:.2f} at worst; "
        + "; ".join(f"“{rule.chooser}” {rule.median:.3f} and {rule.ratios[-1]:.3g}" for rule in rules)
        + ".",
    ]
    return "\n".join(lines)


TORCH = ("torch.func", "autograd-loop", "autograd-vectorized", "sum-trick", "dense")


def best_per_mode(rows: list[Row]) -> dict[str, float]:
    """Return the shortest median of each mode.

    Args:
        rows: Rows of one problem.

    Returns:
        Mode to seconds.
    """
    best: dict[str, float] = {}
    for row in rows:
        best[row.mode] = min(best.get(row.mode, math.inf), row.median_s or math.inf)
    return best


def _line(rows: list[Row]) -> str:
    times = [min((row.median_s for row in rows if row.median_s and wanted(row)), default=None) for wanted in COLUMNS.values()]
    best = min(time for time in times if time is not None)
    cells = [f"**{duration(time)}**" if time == best else duration(time) for time in times]
    first = rows[0]
    normal = ", normal weights" if " normal " in f" {first.problem_key} " else ""
    sizes = first.widths if first.K is None else f"{first.L}, {first.D}, {first.K}, {first.P}, {first.N}"
    return f"| {sizes}{normal} | {' | '.join(cells)} |"


def text() -> str:
    """Write all that stands between the markers.

    Returns:
        Markdown.
    """
    return f"{scores()}\n\n{statements()}\n\n{table()}"


def main(path: Path = ROOT / "README.md") -> None:
    """Replace the table between its markers.

    Args:
        path: The README.
    """
    before, rest = path.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    write_atomically(path, f"{before}{START}\n{text()}\n{END}{after}")


if __name__ == "__main__":
    main()

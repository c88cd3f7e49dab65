"""The results table of the README, written from the committed CSVs: `python -m benchmarks.readme` (part of `make figures`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.environment import ROOT
from benchmarks.listings import duration
from benchmarks.rows import Row, ok_rows
from benchmarks.store import read_csv, result_files, write_atomically

MACHINE = "intel-xeon-processor-2-cores"
START, END = "<!-- results: written by python -m benchmarks.readme -->", "<!-- end of results -->"
SHOWN: dict[str, Callable[[Row], bool]] = {  # sweep -> which of its problems
    "notebook": lambda row: True,
    "batch": lambda row: row.N in {1, 64, 4096},
    "inputs": lambda row: row.D in {1, 1024},
    "outputs": lambda row: row.P in {1, 1024},
    "bottleneck": lambda row: row.K in {None, 50},
}
COLUMNS: dict[str, Callable[[Row], bool]] = {
    "hand-written forward": lambda row: row.method == "forward:eager",
    "hand-written reverse": lambda row: row.method == "reverse:eager",
    "hand-written mixed": lambda row: row.method == "mixed:eager",
    "torch.func": lambda row: row.implementation == "torch.func",
    "torch.autograd": lambda row: row.implementation.startswith("autograd") or row.implementation == "sum-trick",
    "JAX jit": lambda row: row.implementation == "jax",
    "diagonal matrices": lambda row: row.implementation == "dense",
}


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
    rows = [row for path in result_files() if path.parent.name == machine for row in ok_rows(read_csv(path)) if row.device == "cpu"]
    by_problem: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_problem.setdefault((row.sweep, row.problem_key), []).append(row)
    torch_wins = torch_duels = 0
    winners: Counter[str] = Counter()
    gains: list[tuple[float, Row]] = []
    for group in by_problem.values():
        time = {row.method: row.median_s or math.inf for row in group}
        for mode in ("forward", "reverse"):
            others = [t for name, t in time.items() if name.startswith(mode) and not name.endswith((":eager", ":jax"))]
            torch_duels += bool(others)
            torch_wins += bool(others) and time[f"{mode}:eager"] < min(others)
        fastest = min(time, key=lambda name: time[name])
        winners[fastest.partition(":")[2]] += 1
        if "mixed:eager" in time:
            gains.append((min(time["forward:eager"], time["reverse:eager"]) / time["mixed:eager"], group[0]))
    ours = winners.pop("eager", 0)
    elsewhere = ", ".join(f"{name} on {count}" for name, count in winners.most_common())
    lines = [
        "- In the same mode the hand-written method is faster than every torch method and than diagonal matrices in "
        f"{torch_wins} of {torch_duels} comparisons, over all sweeps.",
        f"- The fastest of all is a hand-written method on {ours} of {len(by_problem)} problems"
        + (f"; {elsewhere}." if elsewhere else "."),
    ]
    if gains:
        gain, row = max(gains, key=lambda found: found[0])
        lines.append(f"- Mixed mode is up to {gain:.1f} times as fast as the better of the two modes (widths {row.widths}).")
    return "\n".join(lines)


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
    return f"{table()}\n\n{statements()}"


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

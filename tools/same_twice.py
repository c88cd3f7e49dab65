"""The instrument against itself: a sweep measured twice, pair by pair. How often are equal things called different, and a tenth found?

`python -m tools.same_twice --pairs 20`, on a machine that does nothing else: quick takes a minute or two a run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.analysis.compare import compare
from benchmarks.records.csv_file import read_csv
from benchmarks.records.problems import best_baseline, groups, is_ours, ratio
from benchmarks.records.rows import Row, ok_rows
from benchmarks.run.environment import ROOT

METHODS = ("*:native", "*:torch.func", "*:jax")


def slower(row: Row, factor: float) -> Row:
    """Return a row whose blocks took so many times as long."""
    times = ("min_s", "q1_s", "median_s", "q3_s", "max_s", "mean_s", "ci_low_s", "ci_high_s")
    changed = {name: factor * value for name in times if (value := getattr(row, name)) is not None}
    return row.model_copy(update={**changed, "block_medians_s": " ".join(f"{factor * m:.6g}" for m in row.block_medians)})


def counted(pairs: Sequence[tuple[Sequence[Row], Sequence[Row]]]) -> dict[str, float]:
    """Return the share of wrong verdicts, of a slowdown by a tenth that was found, across runs and within them, and of each word."""
    across, found, within, words = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for base, other in pairs:
        across.update(c.verdict for c in compare(base, other))
        found.update(c.verdict for c in compare(base, [slower(row, 1.1) if is_ours(row) else row for row in other]) if is_ours(c.base))
        words.update(row.certainty or "none" for row in ok_rows([*base, *other]))
        for group in groups(base):
            if library := best_baseline(group):
                late = ratio(slower(library, 1.1).model_copy(update={"method": "late"}), library)
                within["found" if (late.low or 0) > 1 else "missed"] += 1
    share = lambda counts, *names: sum(counts[name] for name in names) / max(1, counts.total())  # noqa: E731
    return {
        "wrong across runs": share(across, "faster", "slower"),
        "a tenth found across runs": share(found, "slower"),
        "a tenth found within a run": share(within, "found"),
        **{word: share(words, word) for word in ("confirmed", "corrected", "undecided")},
    }


def main() -> None:
    """Measure the pairs that are not there yet, and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--sweep", default="quick")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "same-twice")
    asked = parser.parse_args()
    pairs = []
    for number in range(asked.pairs):
        csvs = [asked.out / f"{number}-{side}" / f"{asked.sweep}.csv" for side in "ab"]
        for csv in csvs:
            if not csv.exists():
                methods = [part for glob in METHODS for part in ("--method", glob)]
                command = [sys.executable, "bench.py", "run", asked.sweep, "--device", "cpu", *methods, "--out", str(csv.parent)]
                subprocess.run(command, cwd=ROOT, check=True)
        pairs.append(tuple(read_csv(csv) for csv in csvs))
        print(f"{number + 1} pairs: " + ", ".join(f"{name} {value:.1%}" for name, value in counted(pairs).items()), flush=True)


if __name__ == "__main__":
    main()

"""The soak, run on request (`make soak`): hundreds of cases with faults at random, killed and resumed again and again.

At the end exactly the expected rows are there, none lost, none twice, none torn, and the parent's memory has stayed flat.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.records.journal import record_of

ROOT = Path(__file__).resolve().parents[2]
PARENT = "import sys, bench; from tests.faults.faulty import register_all; register_all(); sys.exit(bench.main())"
METHODS = ("reverse:toy-random", "reverse:eager", "forward:eager", "reverse:faulty-wrong", "reverse:faulty-raise")


def main() -> int:
    """Run the soak; the exit status says whether it held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would what we start
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="jacobians-soak-") as scratch:
        return soak(Path(scratch), options.cases, options.kills, rng)


def soak(scratch: Path, cases: int, kills: int, rng: random.Random) -> int:
    """Kill and resume a sweep, then count."""
    problems = cases // len(METHODS)
    widths = ", ".join(str(L) for L in range(1, problems + 1))
    (scratch / "sweeps.toml").write_text(f'[soak]\ntitle = "Soak"\nseconds = 0.02\ngrid = [{{ L = [{widths}], D = 2, K = 3, P = 2 }}]\n')
    out = scratch / "out"
    journal = out / "soak.journal.jsonl"
    command = [sys.executable, "-c", PARENT, "run", "soak", "--sweeps", str(scratch / "sweeps.toml"), "--out", str(out), "--device", "cpu"]
    command += ["--timeout", "20", *(part for method in METHODS for part in ("--method", method))]
    environment = {**os.environ, "PYTEST_PLUGINS": "tests.faults.faulty"}
    memory: list[tuple[float, int]] = []
    seen: dict[str, str] = {}
    total = problems * len(METHODS)
    for attempt in range(kills + 1):
        resume = ["--resume"] if attempt else []
        process = subprocess.Popen([*command, *resume], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        target = len(lines(journal)) + max(1, (total - len(lines(journal))) // (kills + 1 - attempt))
        while process.poll() is None:
            time.sleep(0.1)
            try:
                memory.append((time.monotonic(), psutil.Process(process.pid).memory_info().rss))
            except psutil.NoSuchProcess:
                break
            if attempt < kills and len(lines(journal)) >= target:
                process.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
                process.wait()
        if rng.random() < 0.5 and attempt < kills:
            with journal.open("a") as file:
                file.write('{"row": {"schema": 2, "torn')
        for line in lines(journal):
            key = record_of(line.encode())["row"]["case"]
            assert seen.setdefault(key, line) == line, f"{key}: a finished row changed"
        print(f"attempt {attempt + 1}/{kills + 1}: {len(seen)}/{total} rows, exit {process.returncode}", flush=True)
    return report(out, seen, total, memory)


def lines(journal: Path) -> list[str]:
    """The whole lines of a journal."""
    return [] if not journal.exists() else [line for line in journal.read_text().split("\n")[:-1] if line]


def report(out: Path, seen: dict[str, str], total: int, memory: list[tuple[float, int]]) -> int:
    """Count, and say what was found."""
    from benchmarks.records.csv_file import read_csv
    from benchmarks.records.journal import read_journal

    rows = read_csv(out / "soak.csv")
    _, torn = read_journal(out / "soak.journal.jsonl")
    statuses: dict[str, int] = {}
    for row in rows:
        statuses[row.status] = statuses.get(row.status, 0) + 1
    resident = [rss for _, rss in memory]
    settled = resident[len(resident) // 10 :]
    growth = max(settled[-len(settled) // 4 :]) / max(settled[: len(settled) // 4]) - 1
    print(f"{len(rows)} rows of {total} expected, {len({row.case for row in rows})} distinct, {torn} torn; {statuses}")
    print(f"parent: {max(resident) / 1e6:.0f} MB at most, last quarter against first {growth:+.1%}")
    whole = len(rows) == len({row.case for row in rows}) == len(seen) == total and not torn
    return 0 if whole and growth < 0.1 else 1


if __name__ == "__main__":
    sys.exit(main())

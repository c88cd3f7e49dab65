"""Rates of derivatives on the disk and of sweeps over a cluster, measured.

python -m tools.scaling --out results/<machine>    writes scaling.json
python -m tools.scaling --read results/<machine>/scaling.json    prints the table of docs/scaling.md
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

import jacobians as jac
from benchmarks.records.csv_file import write_atomically
from benchmarks.records.journal import line_of
from benchmarks.records.merge import Journal, Merger, write_rows
from benchmarks.records.rows import SCHEMA
from benchmarks.run import environment
from jacobians.store import outofcore, scheduling

WIDTHS = (30, 64, 64, 10)  # J of 1,200 bytes a sample
CHUNK = 4096


@dataclass(frozen=True)
class Rates:
    """Rates measured on one machine; times in seconds, rates in samples or bytes per second."""

    machine: str
    threads: int
    bytes_of_a_sample: int
    compute: float  # samples/s, into memory, all threads
    write: float  # bytes/s of this disk, for files of a chunk
    stored: float  # samples/s of `jac.compute_to_disk`, all threads
    two_tasks: float  # samples/s of two processes with half of the threads each
    share: float  # of what compute and disk allow: median of rounds in turn
    share_low: float
    share_high: float
    tasks_ratio: float  # two processes over one
    resident: dict[str, int]  # samples to the peak of the resident memory of a process
    files: float  # marks per second
    submit: float  # seconds to submit an array of 100 tasks
    merge: dict[str, dict[str, float]]  # rows to seconds and peak bytes


def measure(scratch: Path, samples: int = 400_000, rounds: int = 9) -> Rates:
    """Measure the rates of this machine and of the disk that a directory is on.

    Args:
        scratch: The directory; what is written there is removed.
        samples: N of a round.
        rounds: In turn: computing alone, writing alone, both, two tasks.

    Returns:
        The rates.
    """
    threads = torch.get_num_threads()
    mlp, size = jac.MLP.random(widths=WIDTHS), 4 * WIDTHS[0] * WIDTHS[-1]
    x = np.random.default_rng(0).standard_normal((samples, WIDTHS[0]), dtype=np.float32)
    np.save(scratch / "x.npy", x)
    pieces = torch.from_numpy(x).split(CHUNK)
    found: dict[str, list[float]] = {name: [] for name in ("compute", "write", "stored", "two")}
    for number in range(rounds + 1):
        seconds = {
            "compute": _timed(lambda: [jac.jacobian(mlp, piece) for piece in pieces]),
            "write": _timed(lambda: _write_alone(scratch / "raw", samples, size)),
            "stored": _timed(lambda: outofcore.compute_to_disk(mlp, scratch / "x.npy", scratch / "one", samples_per_chunk=CHUNK)),
            "two": _two_tasks(scratch, threads),
        }
        for name in ("one", "two"):  # without its marks every chunk is written anew, in the place of the old one: files come and go,
            shutil.rmtree(scratch / name / outofcore.DONE / "c")  # but a virtual machine has no new memory to fetch from its host
        for path in scratch.glob("two.warm*"):
            shutil.rmtree(path)
        for name in found if number else ():  # the first round warms up
            found[name].append(seconds[name])
    shares = sorted(max(a, w) / s for a, w, s in zip(found["compute"], found["write"], found["stored"], strict=True))
    middle = {name: samples / statistics.median(values) for name, values in found.items()}
    ratios = [one / two for one, two in zip(found["stored"], found["two"], strict=True)]
    return Rates(
        machine=environment.machine_slug(),
        threads=threads,
        bytes_of_a_sample=size,
        compute=middle["compute"],
        write=middle["write"] * size,
        stored=middle["stored"],
        two_tasks=middle["two"],
        share=statistics.median(shares),
        share_low=shares[0],
        share_high=shares[-1],
        tasks_ratio=statistics.median(ratios),
        resident={str(count): _resident(scratch, count) for count in (10**4, 10**5, 10**6)},
        files=_marks(scratch),
        submit=_submission(scratch),
        merge={str(count): _merging(scratch, count) for count in (10**4, 10**5, 10**6)},
    )


def peak_resident() -> int:
    """Return the peak of this process's resident memory: of itself alone, where `getrusage` goes by its parent's too.

    Returns:
        Bytes.
    """
    (line,) = [line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def _timed(call: Callable[[], object]) -> float:
    os.sync()  # pages that wait for the disk would slow the next measurement
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _write_alone(directory: Path, samples: int, size: int) -> None:
    """Write as many bytes in as many files, plainly: what the disk takes."""
    directory.mkdir(exist_ok=True)
    block = np.random.default_rng(1).bytes(CHUNK * size)
    for number in range(-(-samples // CHUNK)):
        (directory / "part").write_bytes(block)
        (directory / "part").replace(directory / str(number))


_PART = """
import sys, time, torch, jacobians as jac
from jacobians import outofcore
torch.set_num_threads(int(sys.argv[4]))
mlp = jac.MLP.random(widths=json_widths)
jac.jacobian(mlp, torch.zeros(4096, mlp.D))
outofcore.compute_to_disk(mlp, torch.zeros(8 * 4096, mlp.D), f"{sys.argv[2]}.warm{sys.argv[3]}")  # Zarr is imported, buffers are there
print("ready", flush=True)
sys.stdin.readline()
start = time.perf_counter()
outofcore.compute_to_disk(mlp, sys.argv[1], sys.argv[2], samples_per_chunk=4096, part=(int(sys.argv[3]), 2))
print(time.perf_counter() - start, flush=True)
"""


def _two_tasks(scratch: Path, threads: int) -> float:
    """Time two processes with half of the threads each, without their start."""
    code = _PART.replace("json_widths", repr(WIDTHS))
    outofcore.prepare(jac.MLP.random(widths=WIDTHS), scratch / "x.npy", scratch / "two", samples_per_chunk=CHUNK)
    command = [sys.executable, "-c", code, str(scratch / "x.npy"), str(scratch / "two")]
    parts = [
        subprocess.Popen(
            [*command, str(k), str(max(1, threads // 2))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=environment.ROOT
        )
        for k in range(2)
    ]
    for part in parts:
        assert part.stdout is not None
        part.stdout.readline()
    found = []
    os.sync()
    for part in parts:
        assert part.stdin is not None
        part.stdin.write("\n")
        part.stdin.flush()
    for part in parts:
        printed, _ = part.communicate()
        found.append(float(printed.split()[-1]))
    return max(found)


def _resident(scratch: Path, count: int) -> int:
    """Return the peak of the resident memory of a process that stores so many samples."""
    np.lib.format.open_memmap(scratch / "n.npy", mode="w+", dtype=np.float32, shape=(count, 4)).flush()
    code = (
        "import sys, jacobians as jac\n"
        "jac.compute_to_disk(jac.MLP.random(widths=[4, 32, 32, 2]), sys.argv[1], sys.argv[2], samples_per_chunk=1024)\n"
        "from tools.scaling import peak_resident\nprint(peak_resident())\n"
    )
    command = [sys.executable, "-c", code, str(scratch / "n.npy"), str(scratch / "n.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=environment.ROOT)
    for path in (scratch / "n.zarr", outofcore.beside(scratch / "n.zarr")):
        shutil.rmtree(path)
    return int(done.stdout)


def _marks(scratch: Path, count: int = 2000) -> float:
    """Return how many chunks a second are made where nothing is to be computed: the files alone."""
    mlp = jac.MLP.random(widths=[1, 1])
    seconds = _timed(lambda: outofcore.compute_to_disk(mlp, torch.zeros(count, 1), scratch / "m", samples_per_chunk=1))
    for path in (scratch / "m", outofcore.beside(scratch / "m")):
        shutil.rmtree(path)
    return count / seconds


def _submission(scratch: Path, count: int = 100) -> float:
    """Return the seconds to submit an array of jobs that do nothing, to a client that takes it at once: our own part of it."""
    client = scratch / "bin"
    client.mkdir(exist_ok=True)
    (client / "sbatch").write_text("#!/bin/sh\necho Submitted batch job 7\n")
    (client / "sbatch").chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{client}:{before}"
    try:
        arguments = [(str(number),) for number in range(count)]
        return _timed(lambda: scheduling.submit(print, arguments, [[str(n)] for n in range(count)], scratch, scheduling.Resources("slurm")))
    finally:
        os.environ["PATH"] = before


_MERGE = """
import sys, time
from pathlib import Path
from tools.scaling import merge_journal, peak_resident
base = peak_resident()
start = time.perf_counter()
merge_journal(Path(sys.argv[1]))
print(time.perf_counter() - start, peak_resident(), base)
"""


def merge_journal(path: Path) -> int:
    """Merge one journal into a CSV beside it.

    Args:
        path: The journal.

    Returns:
        Rows.
    """
    with Merger(path.parent) as merger:
        merger.add([Journal(path)])
        ((machine, sweep),) = merger.results()
        return write_rows(merger.rows(machine, sweep), path.with_suffix(".csv"))


def _merging(scratch: Path, count: int) -> dict[str, float]:
    """Merge so many rows in a process of their own."""
    line = _a_row()
    path = scratch / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            line["row"]["case"] = f"problem {number // 8}/cpu/method {number % 8}"
            file.write(line_of(line))
    done = subprocess.run([sys.executable, "-c", _MERGE, str(path)], capture_output=True, text=True, check=True, cwd=environment.ROOT)
    seconds, peak, base = map(float, done.stdout.split())
    return {"seconds": seconds, "peak_bytes": peak, "base_bytes": base}


def _a_row() -> dict[str, dict[str, object]]:
    row = next(path for path in sorted((environment.ROOT / "results").glob("*/quick.csv")))
    from benchmarks.records.csv_file import read_csv

    one = next(row for row in read_csv(row) if row.status == "ok").model_copy(update={"schema_version": SCHEMA})
    return {"row": one.model_dump(by_alias=True), "samples": {}}


def report(rates: Rates) -> list[str]:
    """Return what was measured as a table.

    Args:
        rates: The rates.

    Returns:
        Lines of Markdown.
    """
    resident = ", ".join(f"{value / 1e6:.0f} MB at N = {int(count):,}" for count, value in rates.resident.items())
    merged = [(int(count), one["seconds"], one["peak_bytes"] / 1e6) for count, one in rates.merge.items()]
    merging = ", ".join(f"{count:,} rows in {seconds:.1f} s with {peak:.0f} MB" for count, seconds, peak in merged)
    gigabytes = rates.compute * rates.bytes_of_a_sample / 1e9
    of_both = f"{rates.share:.2f} ({rates.share_low:.2f}-{rates.share_high:.2f}) of the slower of the two"
    return [
        f"| measured on {rates.machine}, {rates.threads} threads | |",
        "|---|---|",
        f"| computing into memory | {rates.compute:,.0f} samples/s of {rates.bytes_of_a_sample} bytes: {gigabytes:.2f} GB/s |",
        f"| writing files of a chunk | {rates.write / 1e9:.2f} GB/s |",
        f"| `jac.compute_to_disk` | {rates.stored:,.0f} samples/s: {of_both} |",
        f"| two tasks with half of the threads each | {rates.two_tasks:,.0f} samples/s: {rates.tasks_ratio:.2f} of one process |",
        f"| peak of the resident memory | {resident} |",
        f"| chunks without anything to compute | {rates.files:,.0f} a second |",
        f"| submitting 100 tasks, without the scheduler's own time | {rates.submit:.2f} s |",
        f"| merging | {merging} |",
    ]


def main() -> None:
    """Measure, or read what was measured, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, help="measure, and write scaling.json there")
    parser.add_argument("--read", type=Path, help="read a scaling.json instead")
    given = parser.parse_args()
    if given.read:
        rates = Rates(**json.loads(given.read.read_text(encoding="utf-8")))
    else:
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".scaling-") as scratch:
            rates = measure(Path(scratch))
        if given.out:
            write_atomically(given.out / "scaling.json", json.dumps(asdict(rates), indent=1) + "\n")
    print("\n".join(report(rates)))


if __name__ == "__main__":
    main()

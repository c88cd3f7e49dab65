"""One command for a machine with a GPU: check it, then measure what is worth most first, within a limit of time. `make gpu`.

    python -m tools.gpu --minutes 40 --out results/my-machine

It needs no registry where the packages of the extra `bench` are at hand, of any Python from 3.11 and torch from 2.6 on. Where a machine is
lent for minutes, call it several times with `--archive rows.tar.gz` and carry that away.

Each sweep is an ordinary run of `bench.py` with its own journal: a sweep that the limit cuts leaves its finished rows, and the same
command goes on with the rest.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import jacobians as jac
from benchmarks.analysis.scoreboard import scores, table
from benchmarks.analysis.tables import markdown
from benchmarks.errors import BadInput
from benchmarks.records.csv_file import read_csv
from benchmarks.records.problems import against_libraries, ratio
from benchmarks.records.rows import ok_rows
from benchmarks.run import environment
from benchmarks.run.environment import ROOT
from benchmarks.run.provenance import read_provenance
from benchmarks.workloads.cases import load_sweeps
from jacobians.planning.registry import JACOBIAN
from tools import fit_planner


@dataclass(frozen=True, slots=True)
class Stage:
    """One sweep of the plan."""

    sweep: str
    seconds: float  # measuring time of a case: kernels of microseconds need little
    implementations: tuple[str, ...] = ()  # what is measured of it, where there is a method of that kind; everything by default
    share: float = 0.35  # of the time that is left, at most: a library that compiles for minutes must not take that of what comes behind

    def methods(self) -> list[str]:
        """Return the globs of the methods that there are."""
        quantity = load_sweeps()[self.sweep].quantity
        there = {method.implementation for method in jac.methods(quantity=quantity)}
        prefix = "" if quantity == JACOBIAN else "*/"
        return [f"{prefix}*:{name}" for name in self.implementations if name in there]


FAST = ("eager", "cuda-graph", "triton", "triton-graph", "jax", "torch.func", "autograd", "sum-trick")
FIRST = (*FAST, "autograd-loop", "autograd-vectorized", "notebook")
# Most valuable first: what the headline shows, then what people use Jacobians for.
PLAN = (
    *(Stage(sweep, 0.08, FIRST) for sweep in ("width", "depth", "inputs", "outputs", "batch")),
    Stage("notebook", 0.08, (*FIRST, "notebook-no-grad")),
    *(Stage(sweep, 0.08, (*FIRST, "torch.compile")) for sweep in ("width", "depth", "inputs", "outputs", "batch")),
    Stage("workloads", 0.15, FAST),
    Stage("laplacian", 0.15, FAST),
    Stage("jacobian-training", 0.15, FAST),
    Stage("gradients", 0.15, FAST),
    Stage("regret", 0.06),
    Stage("gpu", 0.15, FAST),
    Stage("laplacian-training", 0.15, FAST),
    Stage("hessian", 0.15, FAST),
    Stage("aspect", 0.06, FAST),
    Stage("tangent-kernels", 0.1, FAST),
    Stage("gpu", 0.15, (*FAST, "torch.compile")),
    Stage("workloads", 0.15, (*FAST, "torch.compile"), share=1.0),
)

Run = Callable[[Sequence[str], float], int]


def run_until(command: Sequence[str], seconds: float) -> int:
    """Run a command; interrupt it as Ctrl-C does when its time is up, so that it writes what it has."""
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        return process.wait()


def measure(out: Path, device: str, minutes: float, plan: Sequence[Stage], run: Run, now: Callable[[], float]) -> list[str]:
    """Go through the plan until it is done or the time is up."""
    end, lines = now() + 60 * minutes, []
    for stage in plan:
        left = end - now()
        label = f"{stage.sweep}{' with torch.compile' if 'torch.compile' in stage.implementations else ''}"
        if left <= 0:
            lines.append(f"{label}: left out, the time was up")
            continue
        command = [sys.executable, "bench.py", "run", stage.sweep, "--device", device, "--out", str(out), "--seconds", str(stage.seconds)]
        command += ["--precision", "0.03", *(["--resume"] if (out / f"{stage.sweep}.csv").exists() else [])]
        for pattern in stage.methods():
            command += ["--method", pattern]
        status = run(command, left * stage.share)
        lines.append(
            f"{label}: {'cut, finished rows are kept' if status == 130 else 'done' if status in (0, 1) else f'failed, status {status}'}"
        )
    return lines


def summary(out: Path) -> str:
    """Write what the rows of a directory say, to paste into a report."""
    parts: list[str] = []
    for path in sorted(out.glob("*.csv")):
        origin = read_provenance(path)
        rows = [row for row in ok_rows(read_csv(path)) if row.device != "cpu"]
        if not rows:
            continue
        leads = sorted(ratio(library, ours).value for ours, library in against_libraries(rows))
        parts.append(f"## {path.stem}\n")
        parts.append(markdown(*table([s for s in scores(rows, origin.sweep, origin.rates) if s.ours.device != "cpu"])))
        if leads:
            parts.append(
                f"\nFaster than the best library on {sum(v > 1 for v in leads)} of {len(leads)}: {leads[0]:.3g} to {leads[-1]:.3g} times.\n"
            )
    return "\n".join(parts)


def main(
    minutes: Annotated[float, typer.Option(help="Limit of the whole.")] = 40.0,
    out: Annotated[Path | None, typer.Option(help="Results directory; results/<machine> by default.")] = None,
    device: Annotated[str, typer.Option(help="Torch device; the CPU rehearses.")] = "cuda",
    archive: Annotated[Path | None, typer.Option(help="A .tar.gz of all results, written after each stage, to carry away.")] = None,
) -> None:
    """Check the device, measure the sweeps in the order of their worth, print a summary."""
    start, target = time.monotonic(), out or ROOT / "results" / environment.machine_slug()
    if run_until([sys.executable, "bench.py", "check", "--device", device], 60 * minutes / 4) not in (0, 1):
        raise typer.Exit(1)
    left = minutes - (time.monotonic() - start) / 60

    def run_and_keep(command: Sequence[str], seconds: float) -> int:
        status = run_until(command, seconds)
        if archive is not None:
            with tarfile.open(archive, "w:gz") as file:
                file.add(target, arcname=target.name)
        return status

    for line in measure(target, device, left, PLAN, run_and_keep, time.monotonic):
        typer.echo(line)
    typer.echo(summary(target))
    try:
        for found in fit_planner.of_directory(target):
            typer.echo("\n".join(fit_planner.lines(found)))
    except BadInput as error:
        typer.echo(f"the planner's constants were not fitted: {error}")


if __name__ == "__main__":
    typer.run(main)

"""The command line: parses, calls, prints. No logic of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import TyperException

from benchmarks.errors import BadInput

if TYPE_CHECKING:
    from benchmarks.run.supervisor import Result
    from benchmarks.workloads.cases import Sweep

# Everything heavy is imported by the command that needs it, so that --help answers at once.

app = typer.Typer(
    help="Which way to compute the Jacobian of an MLP is the fastest correct one? Measure it.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Output directory.")]
Force = Annotated[bool, typer.Option("--force", help="Compare although dtype, threads, cache, machine or schema differ.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]
Results = Annotated[list[Path] | None, typer.Argument(metavar="[RESULT]...", help="Result CSVs; the committed ones by default.")]


@app.command("list")
def list_(what: Annotated[str, typer.Argument(metavar="[sweeps|methods|devices|results]", help="What to list.")] = "sweeps") -> None:
    """List the sweeps, methods, devices or results there are."""
    from benchmarks.analysis import tables

    if what not in tables.LISTINGS:
        raise BadInput(f"cannot list {what!r}; choose from {', '.join(tables.LISTINGS)}")
    _print_table(*tables.LISTINGS[what]())


@app.command()
def run(
    sweeps: Annotated[list[str], typer.Argument(metavar="SWEEP...", help="Names of sweeps: see `list sweeps`.")],
    device: Annotated[str | None, typer.Option(metavar="cpu,cuda", help="Devices; every device found by default.")] = None,
    method: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Methods, e.g. 'reverse:*'; may be repeated.")] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the finished cases of the last run here, run the rest.")] = False,
    timeout: Annotated[float, typer.Option(metavar="S", min=0.1, help="Seconds a case may take before its worker is killed.")] = 120.0,
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="Threads each library may use.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of weights and inputs.")] = 0,
    seconds: Annotated[float | None, typer.Option(metavar="S", min=0.001, help="Measuring time of a case, instead of its sweep's.")] = None,
    precision: Annotated[float, typer.Option(metavar="R", min=0.0, help="Half-width of the median's 95 % interval to stop at.")] = 0.01,
    cache: Annotated[str, typer.Option(metavar="hot|cold", help="cold: flush the caches before each call.")] = "hot",
    sweeps_file: Annotated[
        Path | None, typer.Option("--sweeps", metavar="FILE", help="Your own sweeps, in the form of benchmarks/sweeps.toml.")
    ] = None,
) -> None:
    """Run sweeps: check every Jacobian against the float64 oracle, time it, write CSVs."""
    from benchmarks.records import csv_file
    from benchmarks.run import environment, supervisor
    from benchmarks.run.progress import SweepProgress
    from benchmarks.run.worker import Settings
    from benchmarks.workloads import cases

    known = cases.load_sweeps(sweeps_file or cases.SWEEPS_FILE)
    chosen = [cases.find_sweep(name, known) for name in sweeps]
    cases.select_methods(method or [])
    if cache not in {"hot", "cold"}:
        raise BadInput(f"unknown cache {cache!r}; choose from hot, cold")
    settings = Settings(
        devices=environment.parse_devices(device),
        methods=tuple(method or ()),
        resume=resume,
        timeout_s=timeout,
        threads=threads,
        seed=seed,
        seconds=seconds,
        precision=precision,
        cache=cache,
        sweeps_file=sweeps_file or cases.SWEEPS_FILE,
    )
    target = out or csv_file.RESULTS / environment.machine_slug()
    failed = False
    for sweep in chosen:
        with SweepProgress(sweep.name) as progress:
            result = supervisor.run(sweep, target, settings, progress.update)
        failed |= _print_result(result, sweep)
        if result.interrupted:
            raise typer.Exit(130)
    raise typer.Exit(1 if failed else 0)


@app.command()
def plot(
    results: Results = None,
    out: Out = None,
    formats: Annotated[str, typer.Option("--format", metavar="svg,png,pdf", help="Formats to write.")] = "svg",
) -> None:
    """Draw the figures of results; of all committed ones by default."""
    from benchmarks.records.csv_file import read_csv
    from plots import figures

    wanted = figures.parse_formats(formats)
    drawn = figures.draw_results(results, out, wanted, read_csv) if results else figures.draw_committed(out, wanted)
    for path in drawn:
        typer.echo(f"wrote {path}")


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Result CSV to compare with.")],
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Result CSV to judge.")],
    fail_on: Annotated[float | None, typer.Option(metavar="RATIO", min=1.0, help="Exit 1 where a median is slower beyond this.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compare two results case by case: ratio of the medians, its interval, a verdict."""
    from benchmarks.analysis import tables
    from benchmarks.analysis.compare import as_records
    from benchmarks.analysis.compare import compare as compare_rows
    from benchmarks.records.csv_file import read_csv

    comparisons = compare_rows(read_csv(base), read_csv(other), force=force)
    if as_json:
        _print_json(as_records(comparisons))
    else:
        _print_table(*tables.comparisons(comparisons))
    if fail_on is not None and any(comparison.worse_than(fail_on) for comparison in comparisons):
        raise typer.Exit(1)


@app.command()
def history(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Result CSVs of one machine, in any order.")],
    force: Force = False,
) -> None:
    """Follow one machine over time: what became faster or slower beyond noise from one result to the next."""
    from benchmarks.analysis import history as histories
    from benchmarks.records.csv_file import read_csv

    found = histories.history([(path, read_csv(path)) for path in results], force=force)
    if found.changes:
        _print_table(*histories.table(found))
    for line in histories.summary(found):
        typer.echo(line)


@app.command()
def recommend(
    L: Annotated[int | None, typer.Option("--L", metavar="N", min=0, help="Hidden layers.")] = None,
    D: Annotated[int | None, typer.Option("--D", metavar="N", min=1, help="Input width.")] = None,
    K: Annotated[int | None, typer.Option("--K", metavar="N", min=1, help="Hidden width.")] = None,
    P: Annotated[int | None, typer.Option("--P", metavar="N", min=1, help="Output width.")] = None,
    N: Annotated[int, typer.Option("--N", metavar="N", min=1, help="Samples; 1 is a single x of shape (D,).")] = 1,
    widths: Annotated[str | None, typer.Option(metavar="784,50,10", help="All widths instead, input first.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(metavar="FILE", help="Take the network from a .safetensors, .pt or .pth file.")] = None,
    module: Annotated[str | None, typer.Option(metavar="package:attribute", help="Take the network from Python; runs the module.")] = None,
    activation: Annotated[str, typer.Option(metavar="NAME", help="Hidden activation of sizes and checkpoints.")] = "tanh",
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Device.")] = "cpu",
    dtype: Annotated[str | None, typer.Option(metavar="NAME", help="Floating-point type; float32, or the network's own.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Time the first three now.")] = False,
    as_json: Json = False,
) -> None:
    """Say which method to use for a network, with predicted and, where known, measured times, and the lines to paste."""
    from benchmarks.analysis import answer

    asked = answer.Question(L, D, K, P, N, widths, checkpoint, module, activation, device, dtype)
    found = answer.answer(asked, measure)
    if as_json:
        _print_json(answer.as_record(found))
        return
    _print_table(*answer.table(found))
    for line in answer.lines(found):
        typer.echo(line)


@app.command()
def report(
    results: Results = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.html", help="Where to write it; report.html by default.")] = None,
) -> None:
    """Write one self-contained HTML page of results: figures, scoreboard, all rows, and an explorer of shapes."""
    from plots import report as reports

    typer.echo(f"wrote {reports.write(results, out)}")


@app.command()
def regret(
    results: Results = None,
    out: Out = None,
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="Threads each library may use.")] = None,
) -> None:
    """Say what the planner's choices cost beyond the best ones, beside common rules. Without results, measure the sweep `regret`."""
    from benchmarks.analysis import regret as regrets
    from benchmarks.records.csv_file import read_csv
    from benchmarks.run.provenance import read_provenance

    if results:
        rows = [row for path in results for row in read_csv(path)]
        found = regrets.regrets(rows, rates=read_provenance(results[0]).rates)
    else:
        rows = regrets.measure(out, threads)
        found = regrets.regrets(rows, {"planner, measure": regrets.by_measuring})
    _print_table(*regrets.table(found))


def _print_result(result: Result, sweep: Sweep) -> bool:
    """Print what a run gave; return whether a Jacobian was wrong or a case was lost."""
    from benchmarks.analysis import scoreboard, tables

    rows = [entry.row for entry in result.entries]
    if result.torn:
        typer.echo("dropped a torn last line of the journal; its case ran again", err=True)
    if any(grid.name for grid in sweep.grid):
        _print_table(*scoreboard.table(scoreboard.scores(rows, sweep)))
    else:
        _print_table(*tables.summary(rows))
    for row in rows:
        if row.status in {"invalid", "crashed", "oom", "timeout"}:
            typer.echo(f"{row.status}: {row.case}: {row.reason}", err=True)
    if result.interrupted:
        typer.echo("interrupted; the finished rows are kept, go on with --resume", err=True)
    typer.echo(f"{result.busy_s / result.wall_s:.0%} of {result.wall_s:.0f} s were spent inside measured and warm-up calls")
    typer.echo(f"wrote {result.csv}")
    return any(row.status in {"invalid", "crashed"} for row in rows)


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    from benchmarks.run.progress import print_table

    print_table(columns, rows)


def _print_json(record: object) -> None:
    import json

    typer.echo(json.dumps(record, indent=2, ensure_ascii=False))


def main() -> int:
    """Run the command line; a user's mistake is one line and status 2, never a traceback.

    Returns:
        The exit status.
    """
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except typer.Abort:
        return 130
    except (BadInput, TyperException) as error:
        message = error.format_message() if isinstance(error, TyperException) else str(error)
        typer.echo(f"error: {message}", err=True)
        return 2
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())

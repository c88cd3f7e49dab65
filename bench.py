"""The command line: parses, calls, prints. No logic of its own."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

try:
    import typer
    from typer.exceptions import TyperException
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing.name} is not installed here; run `make bench` once, then `source .venv/bin/activate`")

from benchmarks.errors import BadInput, printable
from benchmarks.workloads import names

if TYPE_CHECKING:
    from benchmarks.run.cluster import Plan
    from benchmarks.run.items import Item
    from benchmarks.run.supervisor import Result
    from benchmarks.workloads.cases import Sweep

# Everything heavy is imported by the command that needs it, after its input was checked: a mistake is answered at once.

app = typer.Typer(
    help="Which way to compute the Jacobian of an MLP is the fastest correct one? Measure it.",
    epilog="First: python bench.py recommend --L 10 --D 2 --K 30 --P 10",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Output directory; build/results/<machine> by default.")]
Force = Annotated[bool, typer.Option("--force", help="Compare although dtype, cache, machine or schema differ.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]
Results = Annotated[
    list[Path] | None, typer.Argument(metavar="[RESULT]...", help="Result CSVs or directories; the committed ones by default.")
]
Threads = Annotated[int | None, typer.Option(metavar="N", min=1, help="Threads each library may use; all cores by default.")]
LISTS = ("sweeps", "methods", "devices", "results", "studies")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"jacobians {version('jacobians')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command("list", epilog="Example: python bench.py list methods")
def list_(
    what: Annotated[str, typer.Argument(metavar="[sweeps|methods|devices|results|studies]", help="What to list.")] = "sweeps",
) -> None:
    """List the sweeps, methods, devices, results or studies there are."""
    if names.one_of("list", what, LISTS) == "studies":
        from studies import STUDIES

        _print_table(["study", "title", "question"], [[study.name, study.title, study.question] for study in STUDIES.values()])
        return
    from benchmarks.analysis import tables

    _print_table(*tables.LISTINGS[what]())


@app.command(epilog="Example: python bench.py run quick,depth --device cpu --method reverse --method '*:native'")
def run(
    sweeps: Annotated[list[str], typer.Argument(metavar="SWEEP...", help="Names of sweeps: see `list sweeps`.")],
    device: Annotated[str | None, typer.Option(metavar="cpu,cuda", help="Devices; every device found by default.")] = None,
    method: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Methods, e.g. 'reverse:*', a mode, or a list.")] = None,
    out: Out = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the finished cases of the last run here, run the rest.")] = False,
    timeout: Annotated[float, typer.Option(metavar="S", min=0.1, help="Seconds a case may take before its worker is killed.")] = 120.0,
    threads: Threads = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=2**63 - 1, help="Seed of weights and inputs, 0 by default; of drawn problems a new one."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", min=0.001, max=86400, help="Measuring time of a case, not its sweep's.")
    ] = None,
    precision: Annotated[float, typer.Option(metavar="R", min=0.0, max=1.0, help="Half-width of the 95 % interval to stop at.")] = 0.01,
    cache: Annotated[str, typer.Option(metavar="hot|cold", help="cold: flush the caches before each call.")] = "hot",
    sweeps_file: Annotated[
        Path | None, typer.Option("--sweeps", metavar="FILE", help="Your own sweeps, in the form of benchmarks/sweeps.toml.")
    ] = None,
    on: Annotated[
        str | None, typer.Option(metavar="local|slurm", help="As tasks of a scheduler; --out is a directory that all share.")
    ] = None,
    constraint: Annotated[str | None, typer.Option(metavar="A,B", help="Kinds of nodes; the sweep is measured on each.")] = None,
    partition: Annotated[str | None, typer.Option(metavar="NAME", help="Partition of SLURM.")] = None,
    minutes: Annotated[int, typer.Option("--time", metavar="MIN", min=1, help="Limit of a task.")] = 60,
    shared: Annotated[bool, typer.Option("--shared", help="Nodes may have other work; its rows are flagged.")] = False,
    tasks: Annotated[int, typer.Option(metavar="N", min=1, help="Tasks at least; as few as fit in --time by default.")] = 1,
) -> None:
    """Run sweeps: check every Jacobian against the float64 oracle, time it, write CSVs."""
    names.scheduler(on, [("--constraint", constraint), ("--partition", partition), ("--shared", shared)], out)
    wanted = names.sweeps(sweeps, sweeps_file or names.SWEEPS_FILE)
    patterns = names.methods(method or [])
    names.devices(device)
    names.one_of("cache", cache, ("hot", "cold"))
    from benchmarks.measure import conditions
    from benchmarks.run import environment, supervisor
    from benchmarks.run.progress import SweepProgress
    from benchmarks.run.worker import Settings
    from benchmarks.workloads import cases

    file = sweeps_file or cases.SWEEPS_FILE
    known = cases.load_sweeps(file)
    settings = Settings(
        devices=environment.parse_devices(device),
        methods=patterns,
        resume=resume,
        timeout_s=timeout,
        threads=threads,
        seed=seed or 0,
        seconds=seconds,
        precision=precision,
        cache=cache,
        sweeps_file=file,
    )
    if on is not None:
        assert out is not None
        from benchmarks.run import cluster

        if seed is None and (drawn := [name for name in wanted if known[name].drawn]):
            raise BadInput(f"{drawn[0]}: its problems are drawn by a seed, and every task must draw the same; give --seed N")
        kinds = tuple(names.split([constraint])) if constraint else (None,)
        asked = cluster.plan(known, wanted, settings, cluster.Wanted(on, partition, kinds, minutes, shared, tasks))
        raise typer.Exit(_run_on_cluster(out, asked, file, resume))
    target = out or environment.own_results()
    supervisor.check_writable(target)
    busy = conditions.load_before()
    if busy:
        typer.echo(busy, err=True)
    failed = False
    for name in wanted:
        with SweepProgress(name) as progress:
            result = supervisor.run(known[name], target, supervisor.with_seed(settings, known[name], target, seed), progress.update)
        failed |= _print_result(result, known[name])
        if result.interrupted:
            raise typer.Exit(130)
    raise typer.Exit(1 if failed else 0)


def _run_on_cluster(out: Path, asked: Plan, sweeps_file: Path, resume: bool) -> int:
    """Submit the tasks, follow them, merge what they wrote. Tasks continue after Ctrl-C."""
    from benchmarks.run import cluster
    from jacobians.store import scheduling

    again = f"look again with `python bench.py status {out}`"
    jobs = cluster.start(out, asked, sweeps_file, resume)
    if jobs is not None:
        cancel = scheduling.cancel_command(jobs)
        typer.echo(f"submitted {len(jobs.ids)} tasks; {again}, cancel with `{cancel}`", err=True)
        try:
            found = cluster.follow(out, jobs, lambda line: typer.echo(line, err=True))
        except KeyboardInterrupt:
            typer.echo(f"interrupted; the tasks go on: {again}, cancel with `{cancel}`", err=True)
            return 130
        for line in cluster.failures(out):
            typer.echo(line, err=True)
        if found.rows < found.cases:
            typer.echo("not all is done: the same command with --resume submits the rest", err=True)
    for csv in cluster.merge([out], out):
        typer.echo(f"wrote {csv}")
    return 0 if set(cluster.status(out).states.values()) == {"done"} else 1


@app.command(epilog="Example: python bench.py status shared/run1")
def status(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of a run over a cluster.")],
    as_json: Json = False,
) -> None:
    """Say how far a run over a cluster is: tasks by state, and rows. Exit 1 while it is not done."""
    from benchmarks.run import cluster

    found = cluster.status(run)
    if as_json:
        _print_json({"tasks": found.states, "rows": found.rows, "cases": found.cases})
    else:
        for line in [*found.lines(), *cluster.failures(run)]:
            typer.echo(line)
    raise typer.Exit(0 if set(found.states.values()) == {"done"} else 1)


@app.command(epilog="Example: python bench.py merge shared/run1 shared/run2 --out shared/both")
def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="DIR...", help="The --out of runs over a cluster.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Output directory; the first run's by default.")] = None,
) -> None:
    """Merge the rows of runs over a cluster: one CSV a machine and sweep, each case once. Merging again gives the same."""
    from benchmarks.run import cluster

    for csv in cluster.merge(runs, out or runs[0]):
        typer.echo(f"wrote {csv}")


@app.command(epilog="Example: python bench.py study from-scratch --data mnist")
def study(
    studies: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of studies, see `list studies`, or all.")],
    epochs: Annotated[int | None, typer.Option(metavar="N", min=1, help="Length of the training; the study's own by default.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of every draw.")] = 0,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="Data set, e.g. fashion-mnist, mnist, digits; the first that is there by default.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", metavar="DIR", help="Directory of its files.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Output directory; build/results/<machine>/studies by default.")
    ] = None,
) -> None:
    """Run studies: what derivatives show, as tables and figures. Exit 1 where something that a study checks is wrong."""
    asked = names.split(studies)
    wanted = names.studies(asked)
    names.data_set(data)
    names.directory(data_dir)
    from benchmarks.run import environment
    from benchmarks.run.progress import StudyProgress
    from plots.chart import study_charts
    from plots.figures import save
    from studies import Options, find_study, run

    target, failed = out or environment.own_results() / "studies", False
    for name in wanted:
        known = find_study(name).data  # of all studies, those that can use the data get them
        given = (None, None) if names.ALL in asked and (data not in known if data else not known) else (data, data_dir)
        with StudyProgress(name) as progress:
            try:
                tables = run(find_study(name), target, Options(epochs, seed, *given, progress.update))
            except (ArithmeticError, ValueError, OSError, ModuleNotFoundError) as error:
                raise BadInput(f"{name}: {error}; what was computed is in {target}") from None
            except KeyboardInterrupt:
                typer.echo(f"interrupted; what was computed is in {target}", err=True)
                raise typer.Exit(130) from None
        for line, passed in find_study(name).checks(tables):
            typer.echo(f"{'passed' if passed else 'FAILED'}  {line}")
            failed |= not passed
        typer.echo(find_study(name).conclude(tables))
        for table in tables:
            typer.echo(f"wrote {target / table}.csv")
        for chart in study_charts(name, tables):
            for path in save(chart, target, ["svg"]):
                typer.echo(f"wrote {path}")
    raise typer.Exit(1 if failed else 0)


@app.command(epilog="Example: python bench.py check --device cpu")
def check(
    device: Annotated[str | None, typer.Option(metavar="cpu,cuda", help="Devices; every device found by default.")] = None,
    module: Annotated[
        str | None, typer.Option(metavar="package:function", help="A Jacobian function (mlp, x) -> J of yours; runs the module.")
    ] = None,
) -> None:
    """Check this machine: every method against the oracle, compiler, cache, threads, clock, memory, libraries. Exit 1 where not right."""
    names.devices(device)
    from benchmarks.run import check as checks
    from benchmarks.run import environment
    from benchmarks.run.progress import CheckProgress

    with CheckProgress() as progress:
        found = checks.check(environment.parse_devices(device), module, progress.update)
    _print_items("checked", found, checks.verdict(found))


@app.command("check-results", epilog="Example: python bench.py check-results results/my-machine")
def check_results(results: Results = None) -> None:
    """Check results: schema, verdicts, environment, and nothing faster than the machine can be. Exit 1 where not right."""
    files = names.results(results or [])
    from benchmarks.analysis import check_results as checks
    from benchmarks.records.csv_file import result_files

    found = checks.check_results(files or result_files())
    _print_items("file", found, checks.verdict(found))


@app.command(epilog="Example: python bench.py plot build/results/my-machine/quick.csv --format svg,png")
def plot(
    results: Results = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Output directory; plots/figures/<machine> by default.")] = None,
    formats: Annotated[str, typer.Option("--format", metavar="svg,png,pdf", help="Formats to write.")] = "svg",
) -> None:
    """Draw the figures of results; of all committed ones by default."""
    kinds = [names.one_of("format", name, ("svg", "png", "pdf")) for name in names.split([formats])]
    files = names.results(results or [])
    from plots import figures

    def say(path: Path) -> None:
        typer.echo(f"wrote {path}")
        sys.stdout.flush()

    if files:
        figures.draw_files(files, out, kinds, say)
    else:
        figures.draw_committed(out, kinds, say)


@app.command(epilog="Example: python bench.py compare before/quick.csv after/quick.csv --fail-on 1.1")
def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Result CSV to compare with.")],
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Result CSV to judge.")],
    fail_on: Annotated[float | None, typer.Option(metavar="RATIO", min=1.0, help="Exit 1 where a median is slower beyond this.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compare two results case by case: ratio of the medians, its interval, a verdict."""
    names.results([base, other])
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


@app.command(epilog="Example: python bench.py devices results build/results")
def devices(results: Results = None, out: Out = None, as_json: Json = False) -> None:
    """Set machines and cards beside each other: the best hand-written method of each, in one table and one figure."""
    files = names.results(results or [])
    from benchmarks.analysis import devices as analysis
    from benchmarks.records.csv_file import read_csv, result_files
    from plots import figures
    from plots.charts.devices import devices as chart_of

    rows = analysis.compared([row for path in files or result_files() for row in read_csv(path)])
    columns, body = analysis.table(rows)
    if as_json:
        _print_json([dict(zip(columns, cells, strict=True)) for cells in body])
    else:
        _print_table(columns, body)
    if chart := chart_of(rows):
        typer.echo(chart.title, err=as_json)
        for path in figures.save(chart, out or Path("build/devices"), ["svg"]):
            typer.echo(f"wrote {path}", err=as_json)


@app.command(epilog="Example: python bench.py history 2026-01/quick.csv 2026-02/quick.csv")
def history(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="Result CSVs of one machine, in any order.")],
    force: Force = False,
) -> None:
    """Follow one machine over time: what became faster or slower beyond noise from one result to the next."""
    files = names.results(results)
    from benchmarks.analysis import history as histories
    from benchmarks.records.csv_file import read_csv

    found = histories.history([(path, read_csv(path)) for path in files], force=force)
    if found.changes:
        _print_table(*histories.table(found))
    for line in histories.summary(found):
        typer.echo(line)


@app.command(epilog="Example: python bench.py recommend --widths 784,512,10 --N 128 --measure")
def recommend(
    L: Annotated[int | None, typer.Option("--L", metavar="N", min=0, help="Hidden layers.")] = None,
    D: Annotated[int | None, typer.Option("--D", metavar="N", min=1, help="Input width.")] = None,
    K: Annotated[int | None, typer.Option("--K", metavar="N", min=1, help="Hidden width.")] = None,
    P: Annotated[int | None, typer.Option("--P", metavar="N", min=1, help="Output width.")] = None,
    N: Annotated[int, typer.Option("--N", metavar="N", min=1, help="Samples; 1 is a single x of shape (D,).")] = 1,
    widths: Annotated[str | None, typer.Option(metavar="784,50,10", help="All widths instead, input first.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(metavar="FILE", help="Take the network from a .safetensors, .pt or .pth file.")] = None,
    module: Annotated[
        str | None, typer.Option(metavar="package:attribute", help="Take the network from Python; this runs the module, with your rights.")
    ] = None,
    activation: Annotated[str, typer.Option(metavar="NAME", help="Hidden activation of sizes and checkpoints.")] = "tanh",
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda", help="Device; by default all that were measured are set beside each other.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(metavar="NAME", help="Floating-point type; float32, or the network's own.")] = None,
    quantity: Annotated[str, typer.Option(metavar="NAME", help="What to compute: jacobian, gradient, ntk, ggn, …")] = "jacobian",
    loss: Annotated[str | None, typer.Option(metavar="NAME", help="Loss, of quantities that have one; mse by default.")] = None,
    create_graph: Annotated[bool, typer.Option("--create-graph", help="For training through it: a loss of it, and its gradient.")] = False,
    measure: Annotated[
        bool | None,
        typer.Option("--measure/--no-measure", help="Time the first three now; by default where no measured problem is near."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which method to use for a network, with predicted and, where known, measured times, and the lines to paste."""
    names.activation(activation)
    names.devices(device)
    names.quantity(quantity)
    if create_graph:
        names.quantity(f"{quantity}_gradient", f"--create-graph goes with jacobian and laplacian, not with {quantity}")
        quantity = f"{quantity}_gradient"
    if loss is not None:
        names.loss(loss)
    sizes = names.widths(widths) if widths is not None else None
    from benchmarks.analysis import across, answer

    asked = answer.Question(L, D, K, P, N, sizes, checkpoint, module, activation, device, dtype, quantity, loss)
    found = answer.answer(asked, measure)
    beside = across.across(found.problem, where) if device is None and (where := across.places()) else None
    if as_json:
        more = {"devices": across.as_records(beside), "changes_at": beside.change} if beside else {}
        _print_json(answer.as_record(found) | more)
        return
    _print_table(*answer.table(found))
    for line in answer.lines(found):
        typer.echo(line)
    if beside:
        typer.echo()
        _print_table(*across.table(beside))
        for line in across.lines(beside):
            typer.echo(line)


@app.command(epilog="Example: python bench.py report build/results/my-machine --out report.html")
def report(
    results: Results = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.html", help="Where to write it; report.html by default.")] = None,
) -> None:
    """Write one HTML page of results that loads nothing: figures, scoreboard, all rows, and an explorer of shapes."""
    files = names.results(results or [])
    from plots.report import page

    typer.echo(f"wrote {page.write(files, out)}")


@app.command(epilog="Example: python bench.py regret results/my-machine/regret.csv")
def regret(results: Results = None, out: Out = None, threads: Threads = None) -> None:
    """Say what the planner's choices cost beyond the best ones, beside common rules. Without results, measure the sweep `regret`."""
    files = names.results(results or [])
    from benchmarks.analysis import regret as regrets
    from benchmarks.records.csv_file import read_csv
    from benchmarks.run.provenance import read_provenance

    if files:
        rows = [row for path in files for row in read_csv(path)]
        found = regrets.regrets(rows, rates=read_provenance(files[0]).rates)
    else:
        rows = regrets.measure(out, threads)
        found = regrets.regrets(rows, {"planner, measure": regrets.by_measuring})
    _print_table(*regrets.table(found))


def _print_result(result: Result, sweep: Sweep) -> bool:
    """Print what a run gave; return whether a result was wrong, a case was lost, or nothing was measured."""
    from benchmarks.analysis import scoreboard, tables
    from benchmarks.records.problems import certainties
    from benchmarks.records.rows import ok_rows

    rows = [entry.row for entry in result.entries]
    if result.torn:
        typer.echo(f"{result.torn} lines of the journal were not whole; their cases ran again", err=True)
    if result.changed:
        typer.echo(f"{result.changed} finished cases ran again: their method or its oracle has changed since", err=True)
    for columns, body in (tables.by_mode(rows), tables.by_method(rows)):
        if body:
            _print_table(columns, body)
    if any(grid.name for grid in sweep.grid):
        _print_table(*scoreboard.table(scoreboard.scores(rows, sweep)))
    for row in rows:
        if row.status in {"invalid", "crashed", "oom", "timeout"}:
            typer.echo(f"{row.status}: {row.case}: {row.reason}", err=True)
    if result.interrupted:
        typer.echo("interrupted; the finished rows are kept, go on with --resume", err=True)
    if not ok_rows(rows):
        reasons = ", ".join(dict.fromkeys(f"{row.status}: {row.reason}" for row in rows)) or "no case was selected"
        typer.echo(f"nothing was measured ({reasons[:300]})", err=True)
    else:
        typer.echo("L hidden layers, D inputs, K neurons a layer, P outputs, N samples; ratios are of paired blocks")
        share = f"{result.busy_s / result.wall_s:.0%} of {result.wall_s:.0f} s"
        typer.echo(f"{certainties(rows)}; {share} were spent inside measured and warm-up calls")
    typer.echo(f"wrote {result.csv}")
    return not ok_rows(rows) or any(row.status in {"invalid", "crashed"} for row in rows)


def _print_items(what: str, found: list[Item], verdict: str) -> NoReturn:
    """Print what a check found, and exit."""
    _print_table([what, "answer", "detail"], [[item.what, item.answer, item.detail] for item in found])
    typer.echo(verdict)
    raise typer.Exit(1 if any(item.failed for item in found) else 0)


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    from benchmarks.run.progress import print_table

    print_table(columns, rows)


def _print_json(record: object) -> None:
    import json

    typer.echo(json.dumps(record, indent=2, ensure_ascii=False))


def _explain(error: Any) -> str:
    """Say what was wrong with an option, and suggest the closest one."""
    message = error.format_message()
    if hasattr(error, "possibilities") and getattr(error, "ctx", None) is not None:  # an option that there is none of
        known = [option for parameter in error.ctx.command.params for option in parameter.opts if option.startswith("--")]
        return names.suggest("option", error.option_name, known)
    if "Got unexpected extra argument" in message:
        return f"{message} Quote a pattern, so that the shell leaves it alone: 'reverse:*'."
    return message


def _usable_streams() -> None:
    """Open nothing in place of what was closed (2>&-), and let no character fail that a terminal or a file's name lacks or has."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None and (null := os.open(os.devnull, os.O_RDWR)) == number:  # the lowest that is free
            setattr(sys, name, os.fdopen(null, "w" if number else "r"))
        if number and isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> int:
    """Run the command line; a user's mistake is one line and status 2, never a traceback."""
    _usable_streams()
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except typer.Abort:
        return 130
    except (BadInput, TyperException, OSError) as error:  # OSError: of the system, e.g. that there is no temporary directory
        message = _explain(error) if isinstance(error, TyperException) else str(error)
        typer.echo(f"error: {printable(message)}", err=True)
        return 2
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())

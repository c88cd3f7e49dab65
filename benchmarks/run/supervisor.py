"""The parent of the workers: it owns the clock, grants the turns, and makes a row of whatever happens to a worker."""

from __future__ import annotations

import contextlib
import secrets
import selectors
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.errors import BadInput
from benchmarks.measure import ceilings
from benchmarks.records.csv_file import read_csv, write_csv
from benchmarks.records.journal import Entry, Journal, Lock, read_journal
from benchmarks.records.problems import problem_of
from benchmarks.run import environment
from benchmarks.run import worker as worker_module
from benchmarks.run.provenance import Provenance, describe_run, file_beside, read_provenance, with_ceilings_of_now, write_provenance
from benchmarks.run.session import in_turn, make_row
from benchmarks.run.sources import sources_of
from benchmarks.run.worker import Settings, Worker
from benchmarks.workloads.cases import Case, Sweep, expand
from jacobians.kernels.native import runner
from jacobians.planning.machine import Ceilings
from jacobians.planning.registry import find_method

LOOK_S = 5.0  # between looks at the clock while nothing happens
LEAST_FREE_BYTES = 20_000_000  # a long sweep's journal takes a few megabytes


@dataclass(frozen=True, slots=True)
class Progress:
    """News of a run: a case started, or ended with a status."""

    case: Case
    done: int
    total: int
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run: its file, its rows, and its time."""

    csv: Path
    entries: tuple[Entry, ...]
    torn: int
    changed: int
    interrupted: bool
    wall_s: float
    busy_s: float


Report = Callable[[Progress], None]


def run(
    sweep: Sweep,
    out: Path,
    settings: Settings,
    report: Report = lambda progress: None,
    provenance: Callable[[str], object] = lambda text: None,
) -> Result:
    """Run a sweep, writing `<sweep>.csv` and `<sweep>.environment.json` into `out`."""
    check_writable(out)
    lock = Lock(out / f".{sweep.name}.lock", settings.looks_at_lock)
    start = time.monotonic()
    try:
        everything = expand(sweep, settings.devices, settings.methods, settings.seed)
        cases = [case for case in everything if settings.only is None or case.group in settings.only]
        journal, csv = out / f"{sweep.name}.journal.jsonl", out / f"{sweep.name}.csv"
        if settings.resume:
            _check_alike(csv, settings, sweep)
        else:
            for path, before in ((journal, journal.with_suffix(".previous.jsonl")), (csv, csv.with_suffix(".previous.csv"))):
                if path.exists():
                    path.replace(before)  # one generation back, nothing is lost
        kept = {row.case: Entry(row) for row in read_csv(csv)} if csv.exists() else {}
        finished, torn = read_journal(journal)
        finished = {**kept, **finished}
        changed = {case.key for case in cases if case.key in finished and _of_other_code(finished[case.key])}
        done = {key for key, entry in finished.items() if _alike(entry, settings)} - changed
        if settings.whole_problems:
            partial = {case.group for case in cases if case.key not in done}
            done -= {case.key for case in cases if case.group in partial}
        stage = _Stage(sweep, journal, settings, cases, done, report, left_out=[case.key for case in everything if case not in cases])
        origin = describe_run(sweep, settings)
        provenance(origin.as_text())
        if not settings.resume:  # what a resumed run is held to, should this one be killed
            write_provenance(csv, origin)
        runner.available()  # compiled once, before the workers start, and not by each of them
        interrupted = False
        try:
            for device in settings.devices:
                stage.run_device(device)
        except KeyboardInterrupt:
            interrupted = True
        finished = {**kept, **read_journal(journal)[0]}
        if lost := [case for case in cases if case.key in stage.done and case.key not in finished]:
            stage.settle(lost, "crashed", "the worker said that it had ended, and left no whole row in the journal")
            finished = {**kept, **read_journal(journal)[0]}
        entries = tuple(finished[case.key] for case in cases if case.key in finished)
        selected = {case.key for case in cases}
        others = tuple(entry for key, entry in finished.items() if key not in selected)  # of methods not asked for this time
        origin = with_ceilings_of_now(origin, settings, any("ceiling" in (entry.row.flags or "") for entry in entries))
        entries, others = (tuple(under(entry, origin.rates) for entry in some) for some in (entries, others))
        wall_s = time.monotonic() - start
        _write_results(csv, [*entries, *others], origin.model_copy(update={"wall_s": wall_s, "busy_s": stage.busy_s}))
        return Result(csv, entries, torn, len(changed), interrupted, wall_s, stage.busy_s)
    finally:
        lock.release()


def with_seed(settings: Settings, sweep: Sweep, out: Path, seed: int | None) -> Settings:
    """Give a sweep of drawn problems a new seed where none was asked for; with `resume`, that of the run before."""
    if seed is not None or not sweep.drawn:
        return settings
    csv = out / f"{sweep.name}.csv"
    rows = [entry.row for entry in read_journal(out / f"{sweep.name}.journal.jsonl")[0].values()] if settings.resume else []
    rows += read_csv(csv) if settings.resume and csv.exists() else []
    before = next((row.seed for row in rows if row.seed is not None), None)
    return replace(settings, seed=secrets.randbelow(2**31) if before is None else before)


@dataclass
class _Stage:
    """One sweep on its way: what is done, what is pending, who is at work."""

    sweep: Sweep
    journal: Path
    settings: Settings
    cases: list[Case]
    done: set[str]
    report: Report
    left_out: list[str] = field(default_factory=list)  # keys of cases that are others' business
    busy_s: float = 0.0
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Number the turns once: they are looked up before each block, while everybody waits."""
        self._by_key = {case.key: case for case in self.cases}
        self._order = {(turn.case.key, turn.block): index for index, turn in enumerate(in_turn(self.cases))}

    def run_device(self, device: str) -> None:
        """Run the pending cases of a device, one worker per runtime, until each has a row."""
        pending = self._pending(device)
        if device not in environment.available_devices():
            self.settle(pending, "skipped", f"torch finds no {device} device here")
            return
        try:
            for runtime in dict.fromkeys(_runtime(case) for case in pending):
                self._start(device, runtime)
            while self.workers:
                self._step(device)
        finally:
            for worker in self.workers:
                worker.kill()
                worker.end()
            self.workers.clear()

    def _step(self, device: str) -> None:
        """Grant the earliest turn once everybody waits for one, then handle what the workers tell."""
        if all(worker.turn is not None for worker in self.workers):
            worker = min(self.workers, key=lambda w: self._order[w.turn])  # pyright: ignore[reportArgumentType]
            key = worker.grant()
            self.report(Progress(self._by_key[key], len(self.done), len(self.cases)))
        with selectors.DefaultSelector() as selector:
            busy = [worker for worker in self.workers if worker.turn is None]
            for worker in self.workers:
                selector.register(worker.events, selectors.EVENT_READ, worker)
            patience = min(worker.deadline for worker in busy) - worker_module.now()
            ready = [key.data for key, _ in selector.select(max(0.0, min(patience, LOOK_S)))]
        for worker in ready:
            self._listen(worker, device)
        for worker in busy:
            if worker not in ready and worker in self.workers and worker_module.now() >= worker.deadline:
                worker.kill()
                limit = f"no answer within {self.settings.timeout_s:g} s, the worker was killed"
                self._replace(worker, device, ("timeout", limit))

    def _listen(self, worker: Worker, device: str) -> None:
        try:
            for event in worker.read(lambda case, block: (case, block) in self._order and case not in self.done):
                if event.event == "end":
                    self.busy_s += event.busy_s
                    self._count(event.case, event.status)
                elif event.event == "journal":
                    raise self._full(event.reason)
        except EOFError:
            self._replace(worker, device, None)
        except BadInput:
            raise
        except ValueError as error:
            worker.kill()
            self._replace(worker, device, ("crashed", str(error)))

    def _replace(self, worker: Worker, device: str, known: tuple[str, str] | None) -> None:
        """Record the case a dead worker was running, and start another worker for the rest."""
        ended = worker.end()
        status, reason = known or ended
        self.workers.remove(worker)
        left = [case for case in self._pending(device) if _runtime(case) == worker.runtime]
        if worker.in_flight is not None:
            self.settle([self._by_key[worker.in_flight]], status, reason)
        elif left and not worker.progressed:
            self.settle(left, "crashed", f"the worker did not start: {reason}")
        if any(case.key not in self.done for case in left):
            self._start(device, worker.runtime)

    def _start(self, device: str, runtime: str) -> None:
        done = sorted(case.key for case in self.cases if case.key in self.done) + self.left_out
        self.workers.append(Worker(self.sweep.name, device, runtime, done, self.journal, self.settings))

    def _pending(self, device: str) -> list[Case]:
        return [case for case in self.cases if case.problem.device == device and case.key not in self.done]

    def _count(self, key: str, status: str) -> None:
        self.done.add(key)
        self.report(Progress(self._by_key[key], len(self.done), len(self.cases), status))

    def settle(self, cases: Sequence[Case], status: str, reason: str) -> None:
        """Write rows for cases that can no longer do it themselves."""
        try:
            with contextlib.closing(Journal(self.journal)) as writer:
                for case in cases:
                    writer.append(make_row(case, status, reason))
                    self._count(case.key, status)
        except OSError as error:
            raise self._full(error.strerror) from None

    def _full(self, why: str | None) -> BadInput:
        return BadInput(f"{self.journal}: cannot be written ({why}); what it holds is kept, make room and go on with --resume")


def _check_alike(csv: Path, settings: Settings, sweep: Sweep) -> None:
    """Refuse to go on with a result that was measured otherwise."""
    if not file_beside(csv).exists():
        return
    before = read_provenance(csv)
    for name in ("seconds", "precision", "seed"):
        was, now = getattr(before, name), getattr(settings, name)
        if was != now:
            words = "the sweep's own" if was is None else f"{was:g}"
            remedy = f"leave out --{name}" if was is None else f"give --{name} {was:g}"
            raise BadInput(f"{csv} was measured with --{name} {words}, not {now}; {remedy}, or start anew without --resume")
    if settings.seconds is None and (was := before.sweep.seconds) != sweep.seconds:
        raise BadInput(f"{csv} was measured with seconds = {was:g}, and the sweep has {sweep.seconds:g} now; start anew without --resume")


def _alike(entry: Entry, settings: Settings) -> bool:
    """Say whether a finished row was measured as this run measures; else its case runs again."""
    return entry.row.threads in {None, settings.threads_asked} and entry.row.cache in {None, settings.cache}


def _of_other_code(entry: Entry) -> bool:
    """Say whether a finished row is of a method or an oracle that has changed since; of older rows nobody knows."""
    return entry.row.sources is not None and entry.row.sources != sources_of(find_method(entry.row.method))


def under(entry: Entry, rates: Mapping[str, Ceilings]) -> Entry:
    """Recompute fraction_of_ceiling with the ceilings known at the end of the run."""
    row = entry.row
    if row.status != "ok" or row.device not in rates:
        return entry
    share = ceilings.fraction(problem_of(row), row.mode, row.median, rates[row.device])
    flags = [flag for flag in (row.flags or "").split() if flag != "ceiling"] + (["ceiling"] if share > ceilings.MOST else [])
    return Entry(row.model_copy(update={"fraction_of_ceiling": share, "flags": " ".join(flags) or None}), entry.samples)


def _runtime(case: Case) -> str:
    return find_method(case.method).runtime


def _write_results(csv: Path, entries: list[Entry], provenance: Provenance) -> None:
    try:
        write_csv((entry.row for entry in entries), csv)
        write_provenance(csv, provenance)
    except OSError as error:
        raise BadInput(
            f"{csv}: cannot be written ({error.strerror}); the journal keeps every row, make room and go on with --resume"
        ) from None


def check_writable(out: Path) -> None:
    """Refuse an output directory that cannot take the results."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
        free = shutil.disk_usage(out).free
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror}); give a writable directory with --out") from None
    if free < LEAST_FREE_BYTES:
        raise BadInput(
            f"{out}: only {free / 1e6:.1f} MB free, a run needs {LEAST_FREE_BYTES / 1e6:.0f} MB; make room or give another --out"
        )

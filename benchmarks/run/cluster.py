"""Sweeps over a cluster: problems in groups, a task each, which is the suite's own `run` with its own journal in a shared directory.

    <out>/run.json                      what was asked for, and the tasks
    <out>/jobs.json                     the jobs of the scheduler
    <out>/sweeps.toml                   the sweeps as they were
    <out>/tasks/<task>/<sweep>.*        journal, CSV and environment of a task, as of any run
    <out>/tasks/<task>/attempts/        the environment of each node that worked on it
    <out>/<machine>/<sweep>.csv         merged

All methods of a problem are measured by one task, one after the other on one node; a task that is called again measures problems anew of
which it has only a part, so that their ratios hold.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.errors import BadInput
from benchmarks.measure import ceilings
from benchmarks.records.csv_file import write_atomically, write_csv
from benchmarks.records.journal import Entry, read_journal
from benchmarks.records.merge import Journal, Merger
from benchmarks.records.rows import describe
from benchmarks.run import supervisor
from benchmarks.run.provenance import Provenance, file_beside, write_provenance
from benchmarks.run.worker import ASKED, Settings
from benchmarks.workloads.cases import Case, Sweep, expand, load_sweeps
from jacobians.planning.machine import Ceilings
from jacobians.store import scheduling

VERSION = 1
OVERHEAD_S = 1.5  # of a case beside its measuring time: oracle, first call, judging again
START_S = 30.0  # of a task: the ceilings, a worker of each library
FILLED = 0.6  # of a task's limit, by these estimates
LOOK_S = 2.0
DYING_S = 120  # a task that is called again waits so long for its predecessor, which the scheduler is killing
STATES = ("done", "running", "pending", "failed", "not submitted")


class Task(BaseModel):
    """Some problems of a sweep, for one kind of node."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sweep: str
    constraint: str | None
    problems: list[str]
    cases: int


class Plan(BaseModel):
    """The plan of a run: enough for a task to do its part, and for anybody to go on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = VERSION
    on: str
    partition: str | None
    minutes: int
    shared: bool
    devices: tuple[str, ...]
    methods: tuple[str, ...]
    timeout_s: float
    threads: int | None
    seed: int
    seconds: float | None
    precision: float
    cache: str
    tasks: list[Task]

    def settings(self, out: Path) -> Settings:
        """Return how a task runs."""
        return Settings(**{name: getattr(self, name) for name in ASKED}, sweeps_file=out / "sweeps.toml")

    def resources(self, constraint: str | None) -> scheduling.Resources:
        """Return what is asked of the scheduler."""
        return scheduling.Resources(self.on, self.partition, constraint, self.minutes, not self.shared)


@dataclass(frozen=True)
class Wanted:
    """Options of a run over a cluster, beside the settings of any run."""

    on: str
    partition: str | None = None
    constraints: tuple[str | None, ...] = (None,)
    minutes: int = 60
    shared: bool = False
    tasks: int = 1


def group(cases: Sequence[Case], settings: Settings, minutes: int, least: int = 1) -> list[list[str]]:
    """Put problems into groups that a task can finish."""
    seconds: dict[str, float] = {}
    for case in cases:
        seconds[case.group] = seconds.get(case.group, 0.0) + (settings.seconds or case.seconds) + OVERHEAD_S
    room = FILLED * minutes * 60 - START_S
    longest = max(seconds.values(), default=0.0)
    if longest > room:
        needed = int((longest + START_S) / FILLED / 60) + 1
        raise BadInput(f"a problem takes about {longest:.0f} s, more than fits in {minutes} minutes; give --time {needed} or more")
    room = min(room, sum(seconds.values()) / max(1, least))
    groups: list[list[str]] = []
    filled = room
    for key, cost in seconds.items():
        if filled + cost / 2 > room or not groups:
            groups.append([])
            filled = 0.0
        groups[-1].append(key)
        filled += cost
    return groups


def plan(known: dict[str, Sweep], wanted_sweeps: Sequence[str], settings: Settings, wanted: Wanted) -> Plan:
    """Make the tasks of some sweeps."""
    tasks = []
    for constraint in wanted.constraints:
        for name in wanted_sweeps:
            cases = expand(known[name], settings.devices, settings.methods, settings.seed)
            for number, problems in enumerate(group(cases, settings, wanted.minutes, wanted.tasks)):
                own = sum(case.group in set(problems) for case in cases)
                label = f"{name}-{constraint}-{number}" if constraint else f"{name}-{number}"
                tasks.append(Task(name=label, sweep=name, constraint=constraint, problems=problems, cases=own))
    if not tasks:
        raise BadInput("nothing is to be measured: no method fits these sweeps and devices")
    where = {name: getattr(wanted, name) for name in ("on", "partition", "minutes", "shared")}
    return Plan(**where, **settings.asked(), tasks=tasks)


def read_plan(out: Path) -> Plan:
    path = out / "run.json"
    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{out}: no run over a cluster was started there; name the --out of `bench.py run --on`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({type(error).__name__})") from None
    except ValidationError as error:
        raise BadInput(f"{path}: {describe(error)}; it was written by another version, start anew in another directory") from None


def start(out: Path, asked: Plan, sweeps_file: Path, resume: bool, wait: Callable[[float], object] = time.sleep) -> scheduling.Jobs | None:
    """Check everything, then submit the tasks that have not all their rows."""
    try:
        for constraint in dict.fromkeys(task.constraint for task in asked.tasks):
            scheduling.check(asked.resources(constraint))
    except (ValueError, RuntimeError, ModuleNotFoundError) as error:
        raise BadInput(f"{error}; nothing was submitted") from None
    supervisor.check_writable(out)
    text = sweeps_file.read_text(encoding="utf-8")
    if (out / "run.json").exists():
        if not resume:
            raise BadInput(f"{out}: holds a run already; go on with --resume, or name another --out")
        before = read_plan(out)
        _check_alike(out, before, asked, text)
        asked = before  # with its groups, whose journals are there
        if scheduling_jobs := scheduling.Jobs.load(out):
            alive = [name for name, state in scheduling_jobs.states().items() if state != "ended"]
            if alive:
                raise BadInput(f"{out}: {len(alive)} of its tasks still wait or run; look with `python bench.py status {out}`")
    elif resume:
        raise BadInput(f"{out}: there is no run to go on with; leave out --resume")
    states = {task.name: state_of(out, task, "ended") for task in asked.tasks}
    left = [task for task in asked.tasks if states[task.name] != "done"]
    if not left:
        return None
    try:
        scheduling.probe(out, asked.resources(left[0].constraint), wait)
        write_atomically(out / "sweeps.toml", text)
        write_atomically(out / "run.json", asked.model_dump_json(indent=1) + "\n")
        jobs = None
        for constraint in dict.fromkeys(task.constraint for task in left):
            own = [task for task in left if task.constraint == constraint]
            # On one machine they take turns: side by side they would measure each other.
            together = [own] if asked.on == "local" and not asked.shared else [[task] for task in own]
            jobs_of = [[task.name for task in some] for some in together]
            jobs = scheduling.submit(run_tasks, [(str(out.resolve()), some) for some in jobs_of], jobs_of, out, asked.resources(constraint))
    except (RuntimeError, OSError) as error:
        raise BadInput(f"{error}; nothing was submitted" if "submitted" not in str(error) else str(error)) from None
    return jobs


def _check_alike(out: Path, before: Plan, asked: Plan, text: str) -> None:
    there, here = (one.model_dump(mode="json", exclude={"minutes", "partition", "on"}) for one in (before, asked))
    differ = [key for key in there if key != "tasks" and there[key] != here[key]]
    problems = [{(task.sweep, task.constraint, key) for task in one.tasks for key in task.problems} for one in (before, asked)]
    differ += ["sweeps"] if problems[0] != problems[1] or (out / "sweeps.toml").read_text(encoding="utf-8") != text else []
    if differ:
        words = "; ".join(f"{key} {there.get(key)!r} there, {here.get(key)!r} asked for" if key in there else key for key in differ)
        raise BadInput(f"{out}: the run there is another one ({words}); give what it was started with, or another --out")


def run_tasks(out: str, names: list[str]) -> None:
    """Do tasks one after the other, until one is interrupted: what a job runs."""
    for name in names:
        if run_task(out, name):
            break


def run_task(out: str, name: str) -> bool:
    """Do a task, or the rest of it; say whether it was interrupted."""
    directory = Path(out)
    asked = read_plan(directory)
    task = next(one for one in asked.tasks if one.name == name)
    own = directory / "tasks" / name
    sweep = load_sweeps(directory / "sweeps.toml")[task.sweep]
    settings = replace(asked.settings(directory), resume=True, only=frozenset(task.problems), whole_problems=True, looks_at_lock=DYING_S)
    attempt = next(number for number in count() if not (own / "attempts" / f"{number}.environment.json").exists())

    def keep(text: str) -> None:
        write_atomically(own / "attempts" / f"{attempt}.environment.json", text)

    result = supervisor.run(sweep, own, settings, provenance=keep)
    keep(file_beside(result.csv).read_text(encoding="utf-8"))
    if not result.interrupted and len(result.entries) == task.cases:
        write_atomically(own / "done", f"{len(result.entries)}\n")
    return result.interrupted


def state_of(out: Path, task: Task, scheduled: str | None) -> str:
    """Say what a task does."""
    if (out / "tasks" / task.name / "done").exists():
        return "done"
    if scheduled == "running" and not (out / "tasks" / task.name).exists():
        return "pending"  # behind another one of its job
    return {"pending": "pending", "running": "running", "ended": "failed", None: "not submitted"}[scheduled]


@dataclass(frozen=True)
class Status:
    """Progress of a run: task to state, and rows."""

    states: dict[str, str]
    rows: int
    cases: int

    @property
    def over(self) -> bool:
        """Whether nothing waits or runs."""
        return not {"pending", "running"} & set(self.states.values())

    def lines(self) -> list[str]:
        """Write a line per state, and the rows."""
        found = []
        for state in STATES:
            names = [name for name, own in self.states.items() if own == state]
            if names:
                found.append(f"{state:<13} {len(names):>4} {'task' if len(names) == 1 else 'tasks'}  {_shortened(names)}")
        return [*found, f"{self.rows} of {self.cases} rows are on the disk"]


def _shortened(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def status(out: Path, jobs: scheduling.Jobs | None = None) -> Status:
    """Look at a run: at its files, and at the scheduler."""
    asked = read_plan(out)
    jobs = jobs or scheduling.Jobs.load(out)
    try:
        scheduled = jobs.states() if jobs else {}
    except RuntimeError as error:
        raise BadInput(str(error)) from None
    states = {task.name: state_of(out, task, scheduled.get(task.name)) for task in asked.tasks}
    rows = sum(_lines_of(out / "tasks" / task.name / f"{task.sweep}.journal.jsonl") for task in asked.tasks)
    return Status(states, rows, sum(task.cases for task in asked.tasks))


def _lines_of(path: Path) -> int:
    """Count the cases of a journal; rows that were measured anew count once."""
    with contextlib.suppress(BadInput):
        return len(read_journal(path)[0])
    return 0


def follow(out: Path, jobs: scheduling.Jobs, say: Callable[[str], object], wait: Callable[[float], object] = time.sleep) -> Status:
    """Tell how a run goes until nothing waits or runs."""
    said = ""
    while True:
        now = status(out, jobs)
        line = f"{scheduling.counted(list(now.states.values()))}; {now.rows} of {now.cases} rows"
        if line != said:
            say(line)
            said = line
        if now.over and set(jobs.states().values()) <= {"ended"}:
            return now
        wait(LOOK_S)


def failures(out: Path) -> list[str]:
    """Say why tasks have failed, from the last lines of their logs."""
    jobs = scheduling.Jobs.load(out)
    found = []
    for name, state in status(out, jobs).states.items():
        if state == "failed" and jobs is not None:
            logs = sorted((out / "logs").glob(f"{jobs.ids[name]}_*_log.err"))
            last = [line for line in (logs[-1].read_text(errors="replace").splitlines() if logs else []) if line.strip()]
            found.append(f"{name}: {last[-1].strip() if last else 'exited without output: cancelled, out of time, or its node failed'}")
    return found


def merge(directories: Sequence[Path], out: Path) -> list[Path]:
    """Merge the rows of runs: one CSV a machine and sweep, with its environment, and that of every node beside it."""
    plans = [(directory, read_plan(directory)) for directory in directories]
    _check_mergeable(plans)
    tasks = [(directory, asked, task) for directory, asked in plans for task in asked.tasks]
    attempts = [path for directory, _, task in tasks for path in sorted((directory / "tasks" / task.name / "attempts").glob("*.json"))]
    origins = [(path, _read_origin(path)) for path in attempts]
    written = []
    with Merger() as merger:
        merger.add([Journal(directory / "tasks" / t.name / f"{t.sweep}.journal.jsonl", asked.shared) for directory, asked, t in tasks])
        for machine, sweep in merger.results():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", machine):
                raise BadInput(f"{directories[0]}: {machine!r} is the name of no machine, and no directory is made of it")
            own = [(path, origin) for path, origin in origins if (origin.machine, origin.sweep.name) == (machine, sweep)]
            if not own:
                raise BadInput(f"{directories[0]}: rows of {machine} without its environment; the directory is not whole")
            best = _together([origin for _, origin in own])
            csv = out / machine / f"{sweep}.csv"
            write_csv((supervisor.under(Entry(row), best.rates).row for row in merger.rows(machine, sweep)), csv)
            write_provenance(csv, best)
            nodes = csv.parent / "nodes"
            for path, origin in own:
                write_atomically(nodes / f"{sweep}.{path.parents[1].name}.{path.name}", origin.as_text())
            written.append(csv)
    if not written:
        raise BadInput(f"{directories[0]}: no rows yet; look with `python bench.py status {directories[0]}`")
    return written


def _check_mergeable(plans: Sequence[tuple[Path, Plan]]) -> None:
    sweeps: dict[str, tuple[Path, Sweep]] = {}
    (first, reference), *others = plans
    for directory, asked in others:
        differ = [key for key in ("seed", "seconds", "precision", "cache", "threads") if getattr(asked, key) != getattr(reference, key)]
        if differ:
            raise BadInput(f"{first} and {directory} were not measured alike: {', '.join(differ)} differ; merge those that were")
    for directory, asked in plans:
        known = load_sweeps(directory / "sweeps.toml")
        for name in dict.fromkeys(task.sweep for task in asked.tasks):
            where, before = sweeps.setdefault(name, (directory, known[name]))
            if before != known[name]:
                raise BadInput(f"{where} and {directory} have different sweeps of the name {name!r}; rename one, or merge them apart")


def _read_origin(path: Path) -> Provenance:
    try:
        return Provenance.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not an environment file ({type(error).__name__}); restore it") from None


def _together(origins: Sequence[Provenance]) -> Provenance:
    """Describe a machine of several nodes: the last description, the best ceilings, the sum of the times."""
    last = max(origins, key=lambda origin: origin.wall_s)
    rates: dict[str, Ceilings] = {}
    for origin in origins:
        for device, found in origin.rates.items():
            rates[device] = ceilings.best(rates[device], found) if device in rates else found
    known = {device: ceilings.as_record(one) for device, one in rates.items()}
    times = {"wall_s": sum(origin.wall_s for origin in origins), "busy_s": sum(origin.busy_s for origin in origins)}
    return last.model_copy(update={"ceilings": last.ceilings | known, **times})

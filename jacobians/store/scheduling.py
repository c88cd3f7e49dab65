"""Tasks on a cluster by SLURM, or on this machine by processes: submitit submits them, the scheduler runs and requeues them.

A task is a function that leaves what it found in files and can be called again: whatever ends it early (a limit of time, a node that fails,
a requeue), the next call goes on.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

SCHEDULERS = ("local", "slurm")
INSTALL = "install it with: pip install 'jacobians[cluster]'"
JOBS = "jobs.json"
PROBE_S = 60  # timeout of the shared-directory probe


@dataclass(frozen=True)
class Resources:
    """The request to the scheduler."""

    on: str = "local"  # or `"slurm"`
    partition: str | None = None  # of SLURM; its default where `None`
    constraint: str | None = None  # feature that nodes must have
    minutes: int = 60  # limit of a task
    exclusive: bool = True  # whether a task has its node alone


@dataclass
class Jobs:
    """Tasks that were submitted: the scheduler, and the job of each task. Kept in the directory, so that anybody can look again."""

    on: str
    ids: dict[str, str] = field(default_factory=dict)  # name of the task to its job
    handles: list[Any] = field(default_factory=list, repr=False, compare=False)  # of processes that are this one's children

    def save(self, folder: Path) -> None:
        """Write them, beside and then renamed."""
        beside = folder / f".{JOBS}.{os.getpid()}"
        beside.write_text(json.dumps({"on": self.on, "ids": self.ids}, indent=1) + "\n", encoding="utf-8")
        beside.replace(folder / JOBS)

    @staticmethod
    def load(folder: Path) -> Jobs | None:
        path = folder / JOBS
        return Jobs(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def states(self) -> dict[str, str]:
        """Ask the scheduler."""
        alive = _alive_of_slurm(self.ids.values()) if self.on == "slurm" else _alive_here(self.ids.values())
        for handle in self.handles:
            handle.done()  # reaps a child that has ended; after the question, lest one that ended in between is left
        return {task: alive.get(job, "ended") for task, job in self.ids.items()}


def check(resources: Resources) -> None:
    """Refuse what the scheduler cannot do, before anything is submitted."""
    if resources.on not in SCHEDULERS:
        raise ValueError(f"unknown scheduler {resources.on!r}; choose from {', '.join(SCHEDULERS)}")
    _submitit()
    if resources.minutes < 1:
        raise ValueError(f"the limit of a task must be at least a minute, got {resources.minutes}")
    if resources.on == "local":
        if resources.partition or resources.constraint:
            raise ValueError("partitions and constraints are SLURM's; leave them out with --on local")
        return
    if missing := [command for command in ("sinfo", "sbatch", "squeue", "srun") if shutil.which(command) is None]:
        raise RuntimeError(f"no SLURM client here ({', '.join(missing)} not found); log in to a node that has it, or use --on local")
    partitions, features = set(), set()
    for line in _ask("sinfo", "-h", "-o", "%R|%f").splitlines():
        partition, _, listed = line.partition("|")
        partitions.add(partition)
        if resources.partition in {None, partition}:
            features |= set(listed.strip().split(","))
    if resources.partition and resources.partition not in partitions:
        raise ValueError(f"SLURM has no partition {resources.partition!r}; choose from {', '.join(sorted(partitions))}")
    if resources.constraint and not set(resources.constraint.replace("|", "&").split("&")) <= features:
        known = ", ".join(sorted(features - {"(null)"})) or "none"
        raise ValueError(f"no node has the feature {resources.constraint!r}; the nodes have: {known}")


def submit(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], names: Sequence[Sequence[str]], folder: Path, resources: Resources
) -> Jobs:
    """Submit jobs, as one array."""
    submitit = _submitit()
    executor = submitit.AutoExecutor(folder=str(folder / "logs"), cluster=resources.on)
    options: dict[str, Any] = {"timeout_min": resources.minutes, "name": "jacobians"}
    if resources.on == "slurm":
        extra = {"requeue": True}
        options |= {"slurm_additional_parameters": extra, "slurm_use_srun": False}
        options |= {"slurm_partition": resources.partition} if resources.partition else {}
        options |= {"slurm_constraint": resources.constraint} if resources.constraint else {}
        options |= {"slurm_exclusive": True} if resources.exclusive else {}
    executor.update_parameters(**options)
    try:
        with _importable(function):
            wanted = functools.partial(interruptible, function) if resources.on == "local" else function
            found = executor.map_array(wanted, *zip(*arguments, strict=True))
    except (submitit.core.utils.FailedJobError, subprocess.SubprocessError, OSError) as error:
        raise RuntimeError(f"the scheduler refused the tasks, and nothing was submitted: {str(error).strip().splitlines()[-1]}") from None
    before = Jobs.load(folder)
    ids = {} if before is None or before.on != resources.on else before.ids
    handles = list(found) if resources.on == "local" else []
    jobs = Jobs(resources.on, ids | {name: str(job.job_id) for own, job in zip(names, found, strict=True) for name in own}, handles)
    jobs.save(folder)
    return jobs


@contextmanager
def _importable(function: Callable[..., Any]) -> Iterator[None]:
    """Let jobs, which inherit the environment, import the function's package from where it is here."""
    package = sys.modules[function.__module__.partition(".")[0]]
    before = os.environ.get("PYTHONPATH")
    if getattr(package, "__file__", None):
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(str(package.__file__)).parents[1]), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before


def probe(folder: Path, resources: Resources, wait: Callable[[float], object]) -> None:
    """See whether a file that a task writes is seen here."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".probe-{os.getpid()}"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".probe-") as scratch:
        jobs = submit(write_probe, [(str(mark),)], [["probe"]], Path(scratch), resources)
        for _ in range(PROBE_S * 2):
            if jobs.states()["probe"] == "ended":
                break
            wait(0.5)
        found = mark.exists()
        mark.unlink(missing_ok=True)
    if not found:
        raise RuntimeError(
            f"{folder}: a file written by a task did not appear here within {PROBE_S} s; name a directory that all nodes share"
        )


def write_probe(path: str) -> None:
    """Write the file that shows that a directory is shared."""
    Path(path).write_text("seen\n", encoding="utf-8")


def interruptible(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that SIGTERM interrupts as Ctrl-C does: submitit passes it on, and tasks would ignore it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return function(*arguments)


def cancel_command(jobs: Jobs) -> str:
    """Say how to cancel what was submitted."""
    ids = sorted({job.partition("_")[0] for job in jobs.ids.values()})
    return f"{'scancel' if jobs.on == 'slurm' else 'kill'} {' '.join(ids)}"


def counted(states: Sequence[str]) -> str:
    """Write how many tasks are in which state.

    Example:
        >>> counted(["done", "running", "done"])
        'done 2, running 1'
    """
    return ", ".join(f"{state} {count}" for state, count in sorted(Counter(states).items()))


def share_cores(tasks: int) -> None:
    """Limit torch to this process's share of the cores that it may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    torch.set_num_threads(max(1, cores // max(1, min(tasks, cores))))


def _alive_here(ids: Sequence[str] | Any) -> dict[str, str]:
    found = {}
    for job in ids:
        try:
            state = Path(f"/proc/{job}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError):
            continue
        if state != "Z":  # nobody has asked for its status yet
            found[job] = "running"
    return found


def _alive_of_slurm(ids: Sequence[str] | Any) -> dict[str, str]:
    """Ask the queue; jobs that it no longer knows have ended."""
    wanted = set(ids)
    found = {}
    for line in _ask("squeue", "-h", "-r", "-o", "%i|%T").splitlines():
        job, _, state = line.partition("|")
        if job in wanted:
            found[job] = "pending" if state in {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING"} else "running"
    return found


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise RuntimeError(f"SLURM does not answer {command[0]} ({said[-1] if said else 'no reason given'})") from None


def _submitit() -> Any:
    try:
        import submitit
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"tasks are submitted by submitit, which is not installed; {INSTALL}") from None
    return submitit

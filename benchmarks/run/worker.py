"""A worker: the pytest process that measures the cases of one device and runtime, seen from the parent."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic as now
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.measure.clock import available_threads
from benchmarks.records.rows import Status
from benchmarks.run import environment
from benchmarks.workloads.cases import SWEEPS_FILE

MODULE = environment.ROOT / "benchmarks" / "run" / "blocks.py"
LONGEST_EVENT, TAIL = 2**20, 2**16  # bytes: of a line that is read, and of a log that is looked at
START_S = 120.0  # a worker that has not announced its first turn by then is given up
ASKED = ("devices", "methods", "timeout_s", "threads", "seed", "seconds", "precision", "cache")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a run."""

    devices: tuple[str, ...]
    methods: tuple[str, ...] = ()
    resume: bool = False
    timeout_s: float = 120.0
    threads: int | None = None
    seed: int = 0
    seconds: float | None = None
    precision: float = 0.01
    cache: str = "hot"
    sweeps_file: Path = SWEEPS_FILE
    only: frozenset[str] | None = None  # groups of cases (`Case.group`) to run; `None` for all
    whole_problems: bool = False  # with `resume`: measure groups anew of which only a part is finished, so that their ratios hold
    looks_at_lock: int = 0  # seconds to wait for the lock of a run that is dying, as a task does that is called again before it is gone
    run_id: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), compare=False)

    def asked(self) -> dict[str, Any]:
        """Return what decides how cases are measured, as the records of a run keep it."""
        return {name: getattr(self, name) for name in ASKED}

    @property
    def threads_asked(self) -> int:
        """`--threads`, or every core available."""
        return self.threads or available_threads()


class Event(BaseModel):
    """A line that a worker writes: validated like everything that comes from a process in which anything may run."""

    model_config = ConfigDict(extra="forbid", strict=True)

    event: Literal["turn", "end", "journal"]
    case: str = ""
    block: int = 0
    status: Status = "crashed"
    busy_s: float = Field(0.0, ge=0, allow_inf_nan=False)
    reason: str = ""


class Worker:
    """A process with three pipes: it tells events, is granted turns, and dies when the lifeline does."""

    def __init__(self, sweep: str, device: str, runtime: str, done: Sequence[str], journal: Path, settings: Settings) -> None:
        self.runtime = runtime
        self.turn: tuple[str, int] | None = None  # announced, not yet granted
        self.running: str | None = None  # case key of the granted turn, until its case ends or another is announced
        self.progressed = False
        self.deadline = now() + max(START_S, settings.timeout_s)
        self._timeout_s = settings.timeout_s
        self._scratch = tempfile.TemporaryDirectory(prefix="jacobians-")
        done_file = Path(self._scratch.name, "done")
        done_file.write_text("\n".join(done), encoding="utf-8")
        self._log = Path(self._scratch.name, "log").open("w+b")
        self.events, events_write = os.pipe()
        grant_read, self._grant = os.pipe()
        lifeline_read, self._lifeline = os.pipe()
        command = [sys.executable, "-m", "pytest", str(MODULE), "-q", "-p", "pytest_benchmark.plugin", "-p", "no:cacheprovider"]
        command += ["--rootdir", str(environment.ROOT), "-c", str(environment.ROOT / "pyproject.toml")]
        command += ["--benchmark-quiet", "-W", "default", "-o", "addopts="]
        command += ["--sweeps-file", str(settings.sweeps_file.resolve()), "--sweep", sweep, "--device", device, "--runtime", runtime]
        command += ["--seed", str(settings.seed), "--threads", str(settings.threads_asked)]
        command += ["--run-id", settings.run_id]
        command += ["--precision", str(settings.precision), "--cache", settings.cache]
        command += ["--seconds", str(settings.seconds)] if settings.seconds else []
        command += [part for pattern in settings.methods for part in ("--method", pattern)]
        command += ["--journal", str(journal.resolve()), "--done", str(done_file)]
        command += ["--events-fd", str(events_write), "--grant-fd", str(grant_read), "--lifeline-fd", str(lifeline_read)]
        self._process = subprocess.Popen(
            command,
            cwd=environment.ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=_environment(settings.threads_asked),
            pass_fds=(events_write, grant_read, lifeline_read),
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the worker
        )
        for descriptor in (events_write, grant_read, lifeline_read):
            os.close(descriptor)
        self._buffer = b""

    def grant(self) -> str:
        """Let the announced turn begin."""
        assert self.turn is not None
        self.running, self.turn = self.turn[0], None
        self.deadline = now() + self._timeout_s
        with contextlib.suppress(BrokenPipeError):  # it has died while it waited: its end of file tells the rest
            os.write(self._grant, b"g")
        return self.running

    @property
    def in_flight(self) -> str | None:
        """Key of the case that is lost if the worker dies now: the one it runs, or waits to go on with."""
        return self.running or (self.turn[0] if self.turn else None)

    def read(self, pending: Callable[[str, int], bool]) -> Iterator[Event]:
        """Read what has arrived, keeping track of turns; a `ValueError` is raised by what no worker of ours writes."""
        chunk = os.read(self.events, 65536)
        if not chunk:
            raise EOFError
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in [*lines, *([self._buffer] if len(self._buffer) > LONGEST_EVENT else [])]:
            try:
                event = Event.model_validate_json(line)
            except ValidationError:
                raise ValueError(f"the worker wrote what is no event: {line[:60]!r}") from None
            if event.event == "turn" and pending(event.case, event.block):
                self.turn, self.running = (event.case, event.block), None
            elif event.event == "end" and event.case == self.running:
                self.running, self.progressed = None, True
            elif event.event != "journal":
                raise ValueError(f"the worker wrote an event that is not its own: {line[:60]!r}")
            yield event

    def kill(self) -> None:
        """Kill the worker and whatever it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> tuple[str, str]:
        """Wait for the end and clean up."""
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it has closed its pipe but lingers
            self.kill()
            code = self._process.wait()
        reason = self._explain(code)
        for descriptor in (self.events, self._grant, self._lifeline):
            os.close(descriptor)
        self._log.close()
        self._scratch.cleanup()
        # The kernel's own answer to lost memory is SIGKILL; ours to a hang is too, but then the caller knows better.
        return ("oom" if code == -signal.SIGKILL else "crashed"), reason

    def _explain(self, code: int) -> str:
        if code < 0:
            name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
            return f"the worker was killed by {name}" + (", as the kernel does when memory runs out" if name == "SIGKILL" else "")
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - TAIL))
        tail = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        return f"the worker exited with status {code}: {tail[-1][:200] if tail else 'no output'}"


def _environment(threads: int) -> dict[str, str]:
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    # Of pytest's plugins only the one that measures: what else is installed shall neither delay a worker nor disturb it.
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    # Nor shall a worker that is started from within a test believe that it is one of pytest's own.
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_XDIST", "PYTEST_CURRENT", "PYTEST_ADDOPTS"))
    }
    return {**outside, **{name: str(threads) for name in limits}, **alone}

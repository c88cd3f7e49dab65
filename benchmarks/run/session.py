"""Inside the pytest process: the cases of the problem at hand, measured in turn, block by block."""

from __future__ import annotations

import datetime as dt
import gc
import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from benchmarks.measure import ceilings, clock
from benchmarks.measure.conditions import Snapshot
from benchmarks.measure.honesty import Trial
from benchmarks.measure.oracle import Verdict
from benchmarks.measure.samples import Measurement, StopRule
from benchmarks.records.rows import MOST, Row, describe
from benchmarks.run import environment
from benchmarks.run.sources import sources_of
from benchmarks.workloads.cases import SWEEPS_FILE, Case, expand, find_sweep, load_sweeps
from jacobians.kernels.native import runner
from jacobians.planning.cost import cost
from jacobians.planning.registry import find_method

SESSION = pytest.StashKey["Session"]()
RECORD = pytest.StashKey["Record"]()
LOST_PARENT = 3  # exit status of a worker whose parent is gone


@dataclass(frozen=True, slots=True)
class Turn:
    """One block of one case: what a single test measures."""

    case: Case
    block: int

    @property
    def id(self) -> str:
        """A readable test id."""
        return f"{self.case.id}-block{self.block}"


@dataclass
class Record:
    """The state of a case during its measurement."""

    case: Case
    threads: int
    cache: str
    measurement: Measurement
    started_at: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))
    status: str | None = None
    reason: str | None = None
    verdict: Verdict | None = None
    prepare_s: float | None = None
    peak_bytes: int | None = None
    trial: Trial | None = None
    run: str | None = None
    conditions: Snapshot | None = None
    written: bool = False

    def close(self, status: str, reason: str | None = None) -> None:
        """Settle the status, once, and let go of what the computation holds."""
        if self.status is None:
            self.status, self.reason, self.trial = status, reason, None

    def row(self) -> Row:
        try:
            return make_row(
                self.case,
                self.status or "crashed",
                self.reason if self.status else "ended without a verdict",
                threads=self.threads,
                rel_error=self.verdict.rel_error if self.verdict else None,
                tolerance=self.verdict.tolerance if self.verdict else None,
                prepare_s=self.prepare_s,
                peak_bytes=self.peak_bytes,
                started_at=self.started_at,
                cache=self.cache,
                run=self.run,
                **(self.measurement.summary() if self.status == "ok" else {}),
            )
        except ValidationError as error:
            return make_row(self.case, "crashed", f"what was measured is not valid: {describe(error)}", threads=self.threads)


class Session:
    """The records of one problem's cases, and the baton between the processes that share it."""

    def __init__(self, options: Any) -> None:
        self.options = options
        runner.available()  # waits for the compiler: while it works, `auto` would take, and we measure, what answers meanwhile
        self._problem: str | None = None
        self._records: dict[str, Record] = {}

    def record(self, case: Case) -> Record:
        """Return the record of a case; entering another problem lets go of the last one's networks and results."""
        if case.group != self._problem:
            self._problem = case.group
            self._records.clear()
            gc.collect()
        if case.key not in self._records:
            threads = self.options.threads or clock.available_threads()
            rule = StopRule(self.options.seconds or case.seconds, self.options.precision)
            self._records[case.key] = Record(case, threads, self.options.cache, Measurement(rule), run=self.options.run_id)
        return self._records[case.key]

    def wait_for_turn(self, turn: Turn) -> None:
        """Announce a turn to the parent and wait until it is granted, so that no other process computes meanwhile."""
        self.tell({"event": "turn", "case": turn.case.key, "block": turn.block})
        if self.options.grant_fd is not None and os.read(self.options.grant_fd, 1) == b"":
            os._exit(LOST_PARENT)  # end of file: nobody is there to grant anything

    def tell(self, event: dict[str, object]) -> None:
        """Send the parent an event, if there is one."""
        if self.options.events_fd is not None:
            try:
                os.write(self.options.events_fd, json.dumps(event).encode() + b"\n")
            except BrokenPipeError:
                os._exit(LOST_PARENT)


def make_row(case: Case, status: str, reason: str | None = None, **measured: Any) -> Row:
    """Make a row of a case: sizes, names, work and provenance are filled in."""
    p = case.problem
    method = find_method(case.method)
    work = cost(p, method.mode)
    median = measured.get("median_s")
    fraction = ceilings.fraction(p, method.mode, median, ceilings.measured(p.device)) if median else None
    flags = " ".join([*(measured.get("flags") or "").split(), *(["ceiling"] if fraction and fraction > ceilings.MOST else [])])
    of_problem = {name: getattr(p, name) for name in ("L", "D", "K", "P", "N", "bias", "dtype", "device", "quantity", "loss", "asked")}
    return Row(
        sweep=case.sweep,
        case=case.key,
        **of_problem,
        widths="-".join(map(str, p.widths)),
        activation=p.activation if p.output_activation == "identity" else f"{p.activation} > {p.output_activation}",
        device_name=environment.device_name(p.device),
        machine=environment.machine_slug(),
        method=method.name,
        mode=method.mode,
        implementation=method.implementation,
        status=status,  # pyright: ignore[reportArgumentType]  # validated by the row
        reason=reason,
        flops=work.flops if work.flops <= MOST else None,
        bytes=work.bytes if work.bytes <= MOST else None,
        torch=torch.__version__,
        commit=_commit(),
        sources=sources_of(method),
        fraction_of_ceiling=fraction,
        init=case.init,
        seed=case.seed,
        **{**measured, "flags": flags or None},
    )


@lru_cache
def _commit() -> str | None:
    return environment.commit()  # asked once: it takes longer than writing a row


def cases_of(options: Any) -> list[Case]:
    """List the cases that the command line selects."""
    devices = options.device or ",".join(environment.available_devices())
    sweep = find_sweep(options.sweep, load_sweeps(options.sweeps_file or SWEEPS_FILE))
    done = set(options.done.read_text(encoding="utf-8").splitlines()) if options.done else set()
    return [
        case
        for case in expand(sweep, devices.split(","), options.method, options.seed)
        if case.key not in done and options.runtime in {None, find_method(case.method).runtime}
    ]


def in_turn(cases: list[Case]) -> list[Turn]:
    """Interleave the blocks of the cases of each problem."""
    by_problem: dict[str, list[Case]] = {}
    for case in cases:
        by_problem.setdefault(case.group, []).append(case)
    return [Turn(case, block) for group in by_problem.values() for block in range(StopRule.most_blocks) for case in group]


def status_of(error: BaseException) -> tuple[str, str]:
    """Name what an exception means for a case."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    return "oom" if is_out_of_memory(error) else "crashed", f"{type(error).__name__}: {first}"[:300]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an allocation that failed from other errors; CPU torch and XLA raise no class of their own for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return any(sign in text for sign in ("can't allocate memory", "not enough memory", "RESOURCE_EXHAUSTED", "out of memory"))


def poisons_device(error: BaseException) -> bool:
    """Tell an error after which a CUDA context answers every call with the same error."""
    return not is_out_of_memory(error) and ("CUDA error" in str(error) or "CUDA_ERROR" in str(error))

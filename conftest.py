"""Pytest options for the benchmarks, and the hook that makes a row of every case the moment it ends."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import signal
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.errors import BadInput
from benchmarks.workloads import names

if TYPE_CHECKING:
    from benchmarks.run.session import Record

# Kernels in Triton's language can be imported only where Triton is.
TRITON = ["chains.py", "elementary.py", "layers.py"]
collect_ignore_glob = [] if importlib.util.find_spec("triton") else [f"jacobians/kernels/cuda/{name}" for name in TRITON]
BENCHMARKS = Path(__file__).parent / "benchmarks"
_JOURNAL = pytest.StashKey[Any]()
PR_SET_PDEATHSIG = 1  # of prctl.h
EXIT_POISONED = 70  # the device answers nothing but errors: the parent starts another worker
EXIT_JOURNAL = 71  # the journal cannot be written: the parent ends the run


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `benchmarks/bench_jacobians.py`."""
    group = parser.getgroup("jacobians")
    group.addoption("--sweep", default="quick", help="sweep of benchmarks/sweeps.toml to run")
    group.addoption("--sweeps-file", type=Path, default=None, help="read the sweeps from another file")
    group.addoption("--device", default=None, help="comma-separated torch devices; every device found by default")
    group.addoption("--method", action="append", default=[], help="glob of method names; may be repeated")
    group.addoption("--runtime", default=None, help="only methods of this runtime, e.g. torch or jax")
    group.addoption("--seed", type=int, default=0, help="seed of weights and inputs")
    group.addoption("--threads", type=int, default=None, help="threads each library may use")
    group.addoption("--seconds", type=float, default=None, help="measuring time of a case, instead of its sweep's")
    group.addoption("--precision", type=float, default=0.01, help="relative half-width of the median's interval to stop at")
    group.addoption("--cache", choices=["hot", "cold"], default="hot", help="cold: flush the caches before each call")
    group.addoption("--run-id", default=None, help="what the rows of one run share")
    group.addoption("--journal", type=Path, default=None, help="append a row per finished case to this file")
    group.addoption("--done", type=Path, default=None, help="file of case keys not to run again")
    group.addoption("--events-fd", type=int, default=None, help="file descriptor for progress events")
    group.addoption("--grant-fd", type=int, default=None, help="descriptor that gives a byte when a turn may begin")
    group.addoption("--lifeline-fd", type=int, default=None, help="descriptor whose end of file ends this process")


def pytest_configure(config: pytest.Config) -> None:
    """Limit threads before any library starts its pool, open the journal, and tie our life to the parent's."""
    options: Any = config.option
    if options.lifeline_fd is not None:
        _end_with_parent()
        threading.Thread(target=_die_with_parent, args=(options.lifeline_fd,), daemon=True).start()
    if options.benchmark_only:
        options.doctestmodules = False
    if options.threads:
        from benchmarks.measure.clock import limit_threads

        limit_threads(options.threads)
    if options.journal:
        from benchmarks.records.journal import Journal

        config.stash[_JOURNAL] = Journal(options.journal)


def pytest_collection(session: pytest.Session) -> None:
    """Refuse names that there are none of, when plugins have registered their methods."""
    options: Any = session.config.option
    try:
        names.sweeps([options.sweep], options.sweeps_file or names.SWEEPS_FILE)
        names.devices(options.device)
        options.method = names.methods(options.method)
    except BadInput as error:
        raise pytest.UsageError(str(error)) from None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Set up the session where there is anything to measure in it."""
    if any(
        {"turn", "case"} & set(getattr(item, "fixturenames", ())) and Path(item.path).is_relative_to(BENCHMARKS) for item in session.items
    ):
        from benchmarks.run.session import SESSION, Session

        session.config.stash[SESSION] = Session(session.config.option)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _JOURNAL in config.stash:
        config.stash[_JOURNAL].close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write the row of a case when it ends, whatever way it ends."""
    report = yield
    if call.when == "call" and "turn" in getattr(item, "fixturenames", ()):
        from benchmarks.run.session import RECORD

        if RECORD in item.stash:
            _finish(item.config, item.stash[RECORD], call)
    return report


def _finish(config: pytest.Config, record: Record, call: pytest.CallInfo[None]) -> None:
    from benchmarks.run.session import SESSION, poisons_device, status_of

    error = call.excinfo.value if call.excinfo else None
    if record.status is None and isinstance(error, Exception | pytest.fail.Exception):
        record.close(*status_of(error))
    if record.status is None or record.written:
        return  # to be continued in its next turn; or interrupted, and then it runs again
    record.written = True
    if _JOURNAL in config.stash:
        try:
            config.stash[_JOURNAL].append(record.row(), record.measurement.blocks)
        except OSError as failure:
            config.stash[SESSION].tell({"event": "journal", "reason": failure.strerror or str(failure)})
            os._exit(EXIT_JOURNAL)
    config.stash[SESSION].tell({"event": "end", "case": record.case.key, "status": record.status, "busy_s": record.measurement.busy_s})
    if error is not None and poisons_device(error) and config.option.events_fd is not None:
        os._exit(EXIT_POISONED)


def _end_with_parent() -> None:
    """Ask the kernel to end this process with its parent, even while it is stopped; Linux alone can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _die_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)  # returns at end of file: the parent is gone, however it went
    os._exit(3)

"""Whatever a method does, its case becomes a row, and the others are measured."""

import signal
from itertools import pairwise

import pytest

from benchmarks.records.csv_file import read_csv
from benchmarks.run import supervisor, worker

FAULTS = {
    "bytes": ("crashed", "the worker exited with status 7: �\\x1b[31mred\\x00"),
    "cuda": ("crashed", "CUDA error: an illegal memory access"),
    "escapes": ("crashed", r"RuntimeError: \x1b[31mred, NUL \x00, half a pair \udcff"),
    "exit": ("crashed", "the worker exited with status 7"),
    "hang": ("timeout", "no answer within 120 s"),
    "inf": ("invalid", "J has entries that are not finite"),
    "jax-memory": ("oom", "RESOURCE_EXHAUSTED"),
    "kill": ("oom", "killed by SIGKILL"),
    "memory": ("oom", "MemoryError: no more"),
    "nan": ("invalid", "J has entries that are not finite"),
    "raise": ("crashed", "RuntimeError: something"),
    "scribble": ("crashed", r"the worker wrote what is no event: b'\xff no event'"),
    "segv": ("crashed", "SIGSEGV"),
    "signal": ("crashed", f"killed by signal {signal.SIGRTMIN + 6}"),
    "torch-memory": ("oom", "can't allocate memory"),
    "wrong": ("invalid", "relative error 0.01 exceeds the tolerance 1e-05"),
}


@pytest.fixture
def time_is_up_once_it_hangs(monkeypatch, tmp_path):
    """The clock of the parent leaps ahead when the method says that it hangs: no real limit is ever waited for."""

    def now():
        return 1e6 if (tmp_path / "hangs").exists() else 0.0

    monkeypatch.setattr(worker, "now", now)
    monkeypatch.setattr(supervisor, "LOOK_S", 0.05)


@pytest.mark.long
def test_every_fault_is_a_row_and_the_sweep_goes_on(run, tmp_path, faulty, time_is_up_once_it_hangs):
    result = run(tmp_path, "reverse:faulty-*", "reverse:torch.func")
    rows = {entry.row.implementation.removeprefix("faulty-"): entry.row for entry in result.entries}
    assert read_csv(result.csv) == list(rows.values())
    assert rows.pop("torch.func").status == "ok"
    # It runs after the poisoned context, so it passes only in a new process.
    assert rows.pop("cuda-innocent").status == "ok"
    assert rows.keys() == FAULTS.keys()
    for name, (status, reason) in FAULTS.items():
        assert (rows[name].status, rows[name].median_s) == (status, None), rows[name]
        assert reason in rows[name].reason
        assert rows[name].reason.isprintable()


def test_what_a_worker_writes_is_not_trusted(run, tmp_path, faulty):
    result = run(tmp_path, "reverse:faulty-scribble", "reverse:eager")
    wrong, right = sorted((entry.row for entry in result.entries), key=lambda row: row.status)
    assert (wrong.status, right.status) == ("crashed", "ok")
    assert FAULTS["scribble"][1] in wrong.reason
    assert wrong.reason.isprintable()
    assert {row.method for row in read_csv(result.csv)} == {wrong.method, right.method}


def test_what_cannot_fit_is_never_started(run, tmp_path):
    result = run(tmp_path, "reverse:eager", sweep="huge")
    (huge, small) = (entry.row for entry in result.entries)
    assert huge.status == "oom"
    assert huge.reason.startswith("not started: it needs at least 1.28e+05 GB")
    assert small.status == "ok"


def test_a_device_that_is_not_there_is_skipped(run, tmp_path, absent):
    result = run(tmp_path, "reverse:eager", devices=("cpu", absent))
    assert [(entry.row.device, entry.row.status) for entry in result.entries] == [("cpu", "ok"), (absent, "skipped")]
    assert result.entries[1].row.reason == f"torch finds no {absent} device here"


@pytest.mark.parametrize("error", ["NVMLError_LibraryNotFound", "NVMLError_LibRmVersionMismatch", "NVMLError_DriverNotLoaded"])
def test_without_nvml_the_facts_are_empty_and_nothing_fails(error, monkeypatch):
    import pynvml

    from benchmarks.measure import conditions
    from benchmarks.run import environment

    def broken():
        raise getattr(pynvml, error)

    monkeypatch.setattr(pynvml, "nvmlInit", broken)
    assert environment.collect()["cuda_driver"] is None
    assert conditions.notices_of_gpu("any") == []


@pytest.mark.parametrize(("clock", "reason"), [("frozen", "the clock stands still"), ("backward", "the clock ran backward")])
def test_a_broken_clock_is_an_error_never_a_time(run, tmp_path, faulty, monkeypatch, clock, reason):
    monkeypatch.setenv("FAULTY_CLOCK", clock)
    result = run(tmp_path, "reverse:eager")
    (row,) = (entry.row for entry in result.entries)
    assert (row.status, row.median_s) == ("crashed", None)
    assert reason in row.reason


@pytest.mark.long
def test_libraries_live_in_processes_of_their_own_and_take_turns(run, tmp_path, faulty, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("FAULTY_LOG", str(log))
    result = run(tmp_path, "reverse:toy-logged-*", "reverse:toy-alone", "reverse:jax")
    assert [entry.row.status for entry in result.entries] == ["ok"] * 4, [entry.row.reason for entry in result.entries]
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len({pid for pid, _ in lines}) == 2
    for (first, starts), (second, ends) in zip(lines[::2], lines[1::2], strict=True):
        assert (first, starts, ends) == (second, "starts", "ends"), "two processes computed at the same time"
    changes = sum(a[0] != b[0] for a, b in pairwise(lines))
    assert changes >= 2 * 6 - 1, "the blocks are not interleaved"

"""The order of turns, and a worker whose parent is gone."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import jacobians as jac
from benchmarks.measure import clock
from benchmarks.run import blocks, session
from benchmarks.run import worker as worker_module
from benchmarks.run.environment import ROOT
from benchmarks.run.session import in_turn
from benchmarks.workloads.cases import expand, load_sweeps
from jacobians.planning import registry

TURN, END = b'{"event": "turn", "case": "a", "block": 0}', b'{"event": "end", "case": "a", "status": "ok", "busy_s": 1.0}'


@pytest.mark.parametrize(
    "wrong",
    [
        *(b"", b"\xff", b"\0", b"[]", b"{}", b"1" * 5000, b"[" * 10_000, b'{"event": "end"}', b'{"event": "hello"}'),
        TURN.replace(b'"a"', b'"b"'),  # of a case that it was not given
        TURN.replace(b"0", b"1e99"),
        END.replace(b'"a"', b'"b"'),  # of a case that it was not granted
        END.replace(b"ok", b"great"),
        *(END.replace(b"1.0", number) for number in (b"-1", b"NaN", b"1e999", b'"1"')),
    ],
)
def test_an_event_is_validated(wrong):
    worker = object.__new__(worker_module.Worker)
    worker._buffer, worker.turn, worker.running, worker.progressed = b"", None, "a", False
    worker.events, write = os.pipe()
    os.write(write, TURN + b"\n")
    assert [event.event for event in worker.read(lambda case, block: (case, block) == ("a", 0))] == ["turn"]
    assert (worker.turn, worker.running) == (("a", 0), None)
    worker.running = "a"
    os.write(write, wrong + b"\n")
    with pytest.raises(ValueError, match="the worker wrote"):
        list(worker.read(lambda case, block: (case, block) == ("a", 0)))
    assert not worker.progressed
    os.write(write, END + b"\n")
    assert [event.status for event in worker.read(lambda case, block: True)] == ["ok"]
    assert (worker.running, worker.progressed) == (None, True)
    worker._buffer = b"x" * worker_module.LONGEST_EVENT
    os.write(write, b"y")  # and it goes on without a line's end
    with pytest.raises(ValueError, match="the worker wrote"):
        list(worker.read(lambda case, block: True))
    os.close(write)
    os.close(worker.events)


def test_blocks_of_a_problem_are_interleaved():
    cases = expand(load_sweeps()["quick"], ["cpu"], ["forward:eager", "reverse:eager"])[:4]
    turns = in_turn(cases)
    assert [(cases.index(turn.case), turn.block) for turn in turns[:5]] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]
    assert [cases.index(turn.case) for turn in turns[24:28]] == [2, 3, 2, 3]
    assert len(turns) == 4 * 12


def test_without_a_parent_a_worker_ends_and_computes_nothing():
    """Its grants come to an end before the first: that is what it sees when the parent has been killed."""
    read, write = os.pipe()
    os.close(write)
    command = [sys.executable, "-m", "pytest", "benchmarks/run/blocks.py", "-q", "--sweep", "quick", "--device", "cpu"]
    command += ["--method", "reverse:eager", "--grant-fd", str(read), "-o", "addopts="]
    done = subprocess.run(command, cwd=ROOT, pass_fds=(read,), capture_output=True, text=True, check=False)
    os.close(read)
    assert done.returncode == 3
    assert "passed" not in done.stdout


def test_a_worker_ends_with_its_lifeline():
    """Its parent is alive, and lets go of it."""
    (grant_read, grant), (lifeline_read, lifeline) = os.pipe(), os.pipe()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks/run/blocks.py",
        "-q",
        "--sweep",
        "quick",
        "--device",
        "cpu",
        "-o",
        "addopts=",
    ]
    command += ["--method", "reverse:eager", "--grant-fd", str(grant_read), "--lifeline-fd", str(lifeline_read)]
    with subprocess.Popen(command, cwd=ROOT, pass_fds=(grant_read, lifeline_read), stdout=subprocess.DEVNULL) as worker:
        for descriptor in (grant_read, lifeline_read, lifeline):
            os.close(descriptor)
        assert worker.wait() == session.LOST_PARENT
    os.close(grant)


OPTIONS = SimpleNamespace(seconds=None, precision=0.02, threads=1, cache="hot", run_id="now", events_fd=None, grant_fd=None)


def test_the_time_of_a_case_is_its_sweeps_unless_one_was_given():
    (case, *_) = expand(load_sweeps()["quick"], ["cpu"], ["reverse:eager"])
    assert session.Session(OPTIONS).record(case).measurement.rule.seconds == case.seconds == load_sweeps()["quick"].seconds
    given = SimpleNamespace(**{**vars(OPTIONS), "seconds": 9.0})
    rule = session.Session(given).record(case).measurement.rule
    assert (rule.seconds, rule.precision) == (9.0, 0.02)


def test_what_was_asked_for_reaches_the_worker(monkeypatch, tmp_path):
    commands = []

    class Process:
        pid = 0

        def __init__(self, command, **options):
            commands.append(command)

        def poll(self):
            return 0

        def wait(self, timeout=None):
            return 0

    monkeypatch.setattr(worker_module.subprocess, "Popen", Process)
    settings = worker_module.Settings(
        devices=("cpu",), methods=("reverse:*",), seconds=0.25, precision=0.03, seed=4, threads=1, cache="cold"
    )
    worker_module.Worker("quick", "cpu", "torch", [], tmp_path / "journal", settings).end()
    (command,) = commands
    for option, value in (("--seconds", "0.25"), ("--precision", "0.03"), ("--seed", "4"), ("--threads", "1"), ("--cache", "cold")):
        assert command[command.index(option) + 1] == value
    assert command[command.index("--run-id") + 1] == settings.run_id


def test_preparing_counts_the_first_call(monkeypatch):
    now = [0.0]

    def clock_of_this_test():
        now[0] += 1e-6
        return now[0]

    @registry.register("reverse:toy-slow-first")
    def prepare(mlp, problem, request):
        now[0] += 2.0

        def run(x):
            now[0] += 5.0
            return None, jac.reverse(mlp, x)[1]

        return registry.Computation(run)

    try:
        monkeypatch.setattr(clock, "timer_for", lambda device: clock_of_this_test)
        (case, *_) = expand(load_sweeps()["quick"], ["cpu"], ["reverse:toy-slow-first"])
        record = session.Session(OPTIONS).record(case)
        blocks.prepare(record)
        assert record.prepare_s == pytest.approx(7.0, rel=1e-3)
    finally:
        registry.unregister("reverse:toy-slow-first")

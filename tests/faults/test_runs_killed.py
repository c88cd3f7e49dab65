"""Kill a run in every way: at most the case in flight is lost, nothing runs on, and --resume does the rest."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from benchmarks.errors import BadInput
from benchmarks.records.csv_file import read_csv
from benchmarks.records.journal import Lock, read_journal
from benchmarks.run import worker
from benchmarks.run.environment import ROOT

EAGER = ("--method", "forward:eager", "--method", "reverse:eager")


def command(sweeps_file, out, *more, sweep="slow"):
    return [sys.executable, "bench.py", "run", sweep, "--sweeps", str(sweeps_file), "--out", str(out), "--device", "cpu", *more]


def processes_of(out):
    """Process ids of those that write into a directory."""
    done = subprocess.run(["pgrep", "-f", str(out)], capture_output=True, text=True, check=False)
    return [int(line) for line in done.stdout.split() if int(line) != os.getpid()]


def wait_for(condition, process=None):
    """Wait until something is so. There is no limit that a busy machine could reach: only the end of a process that would do it."""
    while not condition():
        if process is not None:
            assert process.poll() is None or condition(), "it ended before that"
        threading.Event().wait(0.02)


def start(sweeps_file, out, *more, sweep="slow", through=(), **options):
    words = [*through, *command(sweeps_file, out, *more, sweep=sweep)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)


def lines_of(journal):
    return journal.read_text().count("\n") if journal.exists() else 0


@pytest.mark.long
def test_a_run_killed_again_and_again_loses_at_most_the_case_in_flight(sweeps_file, tmp_path):
    """Killed by the system and by hand, and resumed each time."""
    out = tmp_path / "out"
    journal = out / "slow.journal.jsonl"
    finished = {}
    for number, resume in ((signal.SIGKILL, []), (signal.SIGINT, ["--resume"])):
        least = len(finished) + 1
        with start(sweeps_file, out, *EAGER, *resume) as process:
            wait_for(lambda least=least: lines_of(journal) >= least, process)
            process.send_signal(number)
            process.communicate()
        wait_for(lambda: not processes_of(out))
        after, _ = read_journal(journal)
        assert {key: after[key] for key in finished} == finished
        assert least <= len(after) < 8
        finished = after
    done = subprocess.run(command(sweeps_file, out, *EAGER, "--resume"), cwd=ROOT, capture_output=True, text=True, check=True)
    after, _ = read_journal(journal)
    assert {key: after[key] for key in finished} == finished
    assert len(after) == len(read_csv(out / "slow.csv")) == 8
    assert "slow 8/8" in done.stderr
    assert lines_of(journal) == 8, "a case ran twice"


@pytest.mark.long
def test_a_worker_killed_while_it_waits_costs_one_case(run, tmp_path, monkeypatch):
    """Killed at the moment when it has announced a turn and another worker is granted one."""
    killed = []
    grant = worker.Worker.grant

    def grant_and_kill(self):
        others = [w for w in workers if w is not self and w.turn is not None and w.runtime == "jax"]
        if others and not killed:
            killed.append(others[0].turn[0])
            others[0].kill()
        return grant(self)

    workers = []
    init = worker.Worker.__init__
    monkeypatch.setattr(worker.Worker, "__init__", lambda self, *arguments: (workers.append(self), init(self, *arguments))[1])
    monkeypatch.setattr(worker.Worker, "grant", grant_and_kill)
    result = run(tmp_path / "out", "reverse:eager", "reverse:jax", sweep="pair")
    assert len(result.entries) == 4
    lost = [entry.row for entry in result.entries if entry.row.status != "ok"]
    assert [(row.case, row.method, row.status) for row in lost] == [(killed[0], "reverse:jax", "oom")]


@pytest.mark.long
@pytest.mark.parametrize("stopped", [False, True], ids=["hanging", "stopped"])
def test_a_worker_does_not_outlive_its_parent(sweeps_file, tmp_path, stopped):
    """Not even while it hangs in a method, or is stopped and can do nothing for itself."""
    out, hangs = tmp_path / "out", tmp_path / "hangs"
    code = "import bench, sys; from tests.faults.faulty import register_all; register_all(); sys.exit(bench.main())"
    arguments = ["run", "tiny", "--sweeps", str(sweeps_file), "--out", str(out), "--device", "cpu", "--method", "reverse:faulty-hang"]
    environment = {**os.environ, "PYTEST_PLUGINS": "tests.faults.faulty", "FAULTY_HANG": str(hangs)}
    with subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: hangs.exists() and hangs.read_text(), process)
        if stopped:
            os.kill(int(hangs.read_text()), signal.SIGSTOP)
        process.kill()
    wait_for(lambda: not processes_of(out))
    assert not lines_of(out / "tiny.journal.jsonl")  # and it has made up no row for the case


def test_two_runs_on_one_output(sweeps_file, tmp_path, run):
    """The lock of another process: refused while it lives, and gone with it however it ends."""
    path = tmp_path / ".tiny.lock"
    code = "import sys; from pathlib import Path; from benchmarks.records.journal import Lock\n"
    code += "lock = Lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match="another run is writing tiny here; wait for it, or give another --out"):
            run(tmp_path, "reverse:eager")
        other.kill()
    assert path.exists()
    Lock(path).release()


@pytest.mark.long
def test_a_disk_that_fills_up_on_the_way(run_alone, tmp_path, faulty, monkeypatch):
    """A limit on the size of files, which the method itself sets, stands for the full disk: writes fail with an error of the system."""
    out = tmp_path / "out"
    monkeypatch.setenv("FAULTY_JOURNAL", str(out / "slow.journal.jsonl"))
    full = r"cannot be written \(File too large\); what it holds is kept, make room and go on with --resume"
    with pytest.raises(BadInput, match=full):
        run_alone(out, "reverse:toy-full", sweep="slow")
    finished, torn = read_journal(out / "slow.journal.jsonl")
    assert len(finished) == 1
    assert torn == 0
    wait_for(lambda: not processes_of(out))


def test_a_full_disk_is_refused_before_the_first_case(run, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000})())
    with pytest.raises(BadInput, match=r"only 1\.0 MB free, a run needs 20 MB; make room"):
        run(tmp_path, "reverse:eager")


def test_a_read_only_directory_is_refused_before_the_first_case(run, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "out", tmp_path / "file"):
        with pytest.raises(BadInput, match="cannot be written"):
            run(out, "reverse:eager")


@pytest.mark.long
def test_resume_keeps_what_was_measured_alike_and_a_new_run_nothing(run, tmp_path, absent):
    journal = tmp_path / "tiny.journal.jsonl"
    run(tmp_path, "reverse:eager")
    first = read_journal(journal)[0]
    with journal.open("a") as file:
        file.write('{"torn')
    result = run(tmp_path, "forward:eager", "reverse:eager", resume=True)
    assert result.torn == 1
    assert [entry.row.method for entry in result.entries] == ["forward:eager", "reverse:eager"]
    kept, before = result.entries[1], next(iter(first.values()))
    assert kept.samples == before.samples
    # The ceiling is the best of both runs, so the share of it may have changed.
    share = {"fraction_of_ceiling": None, "flags": None}
    assert kept.row.model_copy(update=share) == before.row.model_copy(update=share)
    # What was measured otherwise is measured again, and what was not asked for stays.
    again = run(tmp_path, "reverse:eager", cache="cold", resume=True)
    assert [entry.row.cache for entry in again.entries] == ["cold"]
    assert [row.method for row in read_csv(again.csv)] == ["reverse:eager", "forward:eager"]
    for changes, message in (({"seed": 1}, "--seed 0, not 1; give --seed 0"), ({"seconds": 9.0}, "the sweep's own, not 9.0; leave out")):
        with pytest.raises(BadInput, match=message):
            run(tmp_path, "reverse:eager", resume=True, **changes)
    before = journal.read_bytes()
    run(tmp_path, "reverse:eager", devices=(absent,))
    assert (tmp_path / "tiny.journal.previous.jsonl").read_bytes() == before
    assert [row.method for row in read_csv(tmp_path / "tiny.previous.csv")] == ["reverse:eager", "forward:eager"]
    assert lines_of(journal) == 1

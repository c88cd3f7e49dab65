"""Kill a run in every way: at most the case in flight is lost, nothing runs on, and --resume does the rest."""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.errors import BadInput
from benchmarks.records.csv_file import read_csv
from benchmarks.records.journal import Lock, read_journal
from benchmarks.run.environment import ROOT, available_devices

ABSENT = next(device for device in ("cuda", "mps") if device not in available_devices())
EAGER = ("--method", "forward:eager", "--method", "reverse:eager")


def command(sweeps_file, out, *more, sweep="slow"):
    return [sys.executable, "bench.py", "run", sweep, "--sweeps", str(sweeps_file), "--out", str(out), "--device", "cpu", *more]


def processes_of(out):
    """Process ids of those that write into a directory."""
    done = subprocess.run(["pgrep", "-f", str(out)], capture_output=True, text=True, check=False)
    return [int(line) for line in done.stdout.split() if int(line) != os.getpid()]


def worker_of(out, runtime):
    """Process id of the worker of a runtime."""
    found = [
        pid for pid in processes_of(out) if f"--runtime {runtime}" in pathlib.Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    ]
    assert len(found) == 1, found
    return found[0]


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def start(sweeps_file, out, *more, sweep="slow", **options):
    return subprocess.Popen(
        command(sweeps_file, out, *more, sweep=sweep), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options
    )


def lines_of(journal):
    return journal.read_text().count("\n") if journal.exists() else 0


def test_a_run_killed_again_and_again_loses_at_most_the_case_in_flight(sweeps_file, tmp_path):
    """Killed in three ways, and resumed each time."""
    out = tmp_path / "out"
    journal = out / "slow.journal.jsonl"
    finished = {}
    for number, resume in ((signal.SIGKILL, []), (signal.SIGTERM, ["--resume"]), (signal.SIGINT, ["--resume"])):
        least = len(finished) + 1
        with start(sweeps_file, out, *EAGER, *resume) as process:
            wait_for(lambda least=least: lines_of(journal) >= least)
            process.send_signal(number)
            process.communicate(timeout=60)
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


def test_a_worker_killed_while_it_waits_costs_one_case(sweeps_file, tmp_path):
    out = tmp_path / "out"
    methods = ("--method", "reverse:eager", "--method", "reverse:jax")
    with start(sweeps_file, out, *methods, sweep="pair") as process:
        wait_for(lambda: lines_of(out / "pair.journal.jsonl") >= 1)
        torch_worker, jax_worker = (worker_of(out, runtime) for runtime in ("torch", "jax"))
        # With the one stopped, the other soon waits for a turn that is not granted: so it is killed in a known state.
        os.kill(torch_worker, signal.SIGSTOP)
        time.sleep(4)
        os.kill(jax_worker, signal.SIGKILL)
        os.kill(torch_worker, signal.SIGCONT)
        _, errors = process.communicate(timeout=100)
    assert "Traceback" not in errors
    rows = read_csv(out / "pair.csv")
    assert len(rows) == 4
    lost = [row for row in rows if row.status != "ok"]
    assert [(row.method, row.status) for row in lost] == [("reverse:jax", "oom")]


def test_a_worker_that_hangs_does_not_outlive_its_parent(sweeps_file, tmp_path):
    out = tmp_path / "out"
    code = "import bench, sys; from tests.faults.faulty import register_all; register_all(); sys.exit(bench.main())"
    arguments = ["run", "tiny", "--sweeps", str(sweeps_file), "--out", str(out), "--device", "cpu", "--method", "reverse:faulty-hang"]
    environment = {**os.environ, "PYTEST_PLUGINS": "tests.faults.faulty"}
    with subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(processes_of(out)) >= 2)
        time.sleep(4)  # by now it hangs inside the method
        process.kill()
    wait_for(lambda: not processes_of(out), seconds=10)
    assert not lines_of(out / "tiny.journal.jsonl")  # and it has made up no row for the case


def test_two_runs_on_one_output(sweeps_file, tmp_path):
    out = tmp_path / "out"
    with start(sweeps_file, out, "--method", "reverse:eager") as process:
        wait_for(lambda: lines_of(out / "slow.journal.jsonl") >= 1)
        second = subprocess.run(command(sweeps_file, out), cwd=ROOT, capture_output=True, text=True, check=False)
        process.kill()
    assert second.returncode == 2
    assert second.stderr == f"error: {out}: another run is writing slow here; wait for it, or give another --out\n"
    wait_for(lambda: not processes_of(out))
    assert (out / ".slow.lock").exists()
    Lock(out / ".slow.lock").release()  # it is still there, but a dead process does not hold it


def test_a_disk_that_fills_up_on_the_way(sweeps_file, tmp_path):
    """A limit on the size of files stands for the full disk: writes beyond it fail with an error of the system."""
    out = tmp_path / "out"

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    with start(sweeps_file, out, *EAGER, preexec_fn=limit) as process:
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 2, errors
    assert "cannot be written (File too large); what it holds is kept, make room and go on with --resume" in errors
    assert "Traceback" not in errors
    finished, torn = read_journal(out / "slow.journal.jsonl")
    assert finished
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


def test_resume_keeps_what_was_measured_alike_and_a_new_run_nothing(run, tmp_path):
    journal = tmp_path / "tiny.journal.jsonl"
    run(tmp_path, "reverse:eager")
    first = read_journal(journal)[0]
    with journal.open("a") as file:
        file.write('{"torn')
    result = run(tmp_path, "forward:eager", "reverse:eager", resume=True)
    assert result.torn == 1
    assert [entry.row.method for entry in result.entries] == ["forward:eager", "reverse:eager"]
    assert result.entries[1] == next(iter(first.values()))
    # What was measured otherwise is measured again.
    again = run(tmp_path, "reverse:eager", cache="cold", resume=True)
    assert [entry.row.cache for entry in again.entries] == ["cold"]
    before = journal.read_bytes()
    run(tmp_path, "reverse:eager", devices=(ABSENT,))
    assert (tmp_path / "tiny.journal.previous.jsonl").read_bytes() == before
    assert lines_of(journal) == 1

"""The one command for a GPU, rehearsed: its stages, its limit of time, its summary; and the estimates of a GPU."""

import signal
import subprocess
import sys
import tarfile
from typing import ClassVar

import pytest
import typer
from typer.testing import CliRunner

import jacobians as jac
from benchmarks.analysis import regret
from benchmarks.records.csv_file import RESULTS, read_csv
from benchmarks.run.provenance import read_provenance
from benchmarks.workloads.cases import load_sweeps
from tools import gpu

H100 = next(iter(sorted(RESULTS.glob("nvidia-h100*"))), None)


class Clock:
    """Stands still but for what a run takes."""

    def __init__(self):
        self.time, self.commands = 0.0, []

    def __call__(self):
        return self.time

    def run(self, command, seconds):
        """Take a minute, or what there is."""
        self.commands.append(command)
        self.time += min(60.0, seconds)
        return 0 if seconds >= 60 else 130


def test_the_limit_cuts_a_stage_and_leaves_out_the_rest(tmp_path):
    clock = Clock()
    plan = [gpu.Stage(name, 0.1, ("eager",), share=1.0) for name in ("notebook", "laplacian", "batch", "hessian")]
    lines = gpu.measure(tmp_path, "cuda", 2.5, plan, clock.run, clock)
    assert lines == ["notebook: done", "laplacian: done", "batch: cut, finished rows are kept", "hessian: left out, the time was up"]
    assert [command[3] for command in clock.commands] == ["notebook", "laplacian", "batch"]
    assert "--resume" not in clock.commands[0]
    (tmp_path / "notebook.csv").write_text("")
    gpu.measure(tmp_path, "cuda", 1, plan[:1], clock.run, clock)
    assert "--resume" in clock.commands[-1]


def test_a_slow_stage_takes_no_more_than_its_share(tmp_path):
    clock = Clock()
    lines = gpu.measure(tmp_path, "cuda", 1, [gpu.Stage("notebook", 0.1, share=0.5), gpu.Stage("batch", 0.1, share=1.0)], clock.run, clock)
    assert lines == ["notebook: cut, finished rows are kept", "batch: cut, finished rows are kept"]
    assert clock.time == 60.0


def test_every_stage_asks_for_methods_that_there_are():
    """A glob without a method is an error of the command line, and would end the stage."""
    for stage in gpu.PLAN:
        quantity = load_sweeps()[stage.sweep].quantity
        for pattern in stage.methods():
            assert jac.methods(pattern, None if quantity == "jacobian" else quantity), (stage.sweep, pattern)


@pytest.mark.parametrize("status", [2, 70])
def test_a_stage_that_fails_is_said(tmp_path, status):
    lines = gpu.measure(tmp_path, "cuda", 1, [gpu.Stage("notebook", 0.1)], lambda command, seconds: status, lambda: 0.0)
    assert lines == [f"notebook: failed, status {status}"]


@pytest.mark.long
def test_the_whole_on_the_cpu(tmp_path, command, forked_workers):
    """Two stages, the second on from where it was."""
    (tmp_path / "tiny.toml").write_text('[quick]\ntitle = "Tiny"\ngrid = [{ L = 1, D = 2, K = 3, P = 2 }]\n')
    plan = [gpu.Stage("quick", 0.01, ("eager",), share=1.0), gpu.Stage("quick", 0.01, ("eager", "notebook"), share=1.0)]

    def run(words, seconds):
        assert words[:2] == [sys.executable, "bench.py"]
        command(*words[2:], "--sweeps", tmp_path / "tiny.toml")
        return 0

    lines = gpu.measure(tmp_path, "cpu", 60, plan, run, lambda: 0.0)
    assert lines == ["quick: done", "quick: done"]
    rows = read_csv(tmp_path / "quick.csv")
    assert {row.implementation for row in rows if row.status == "ok"} == {"eager", "notebook"}


class Slow:
    """A process that goes on until it is interrupted."""

    signals: ClassVar[list[int]] = []

    def __init__(self, command, cwd):
        self.command = command

    def wait(self, timeout=None):
        if timeout is not None:
            raise subprocess.TimeoutExpired(self.command, timeout)
        return 130

    def send_signal(self, number):
        self.signals.append(number)


def test_a_command_is_interrupted_when_its_time_is_up(monkeypatch):
    assert gpu.run_until([sys.executable, "-c", "raise SystemExit(2)"], 600) == 2
    monkeypatch.setattr(subprocess, "Popen", Slow)
    assert gpu.run_until(["anything"], 1.0) == 130
    assert Slow.signals == [signal.SIGINT]


@pytest.mark.skipif(H100 is None, reason="no results of a GPU")
def test_the_committed_results_of_a_gpu_have_a_summary_and_a_planner_that_fits_them():
    assert H100 is not None
    text = gpu.summary(H100)
    assert "## workloads" in text
    assert "Faster than the best library on 14 of 14" in text
    rows = [row for path in sorted(H100.glob("*.csv")) for row in read_csv(path) if row.quantity == "jacobian"]
    rates = read_provenance(H100 / "workloads.csv").rates
    planner, *_ = regret.regrets([row for row in rows if row.implementation != "triton"], rates=rates)
    assert planner.median < 1.1


def test_help_says_what_it_does():
    application = typer.Typer()
    application.command()(gpu.main)
    printed = CliRunner().invoke(application, ["--help"])
    assert printed.exit_code == 0
    assert "in the order of their worth" in " ".join(printed.output.split())


def test_the_constants_are_fitted_at_the_end(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu, "run_until", lambda command, seconds: 0)
    monkeypatch.setattr(gpu, "measure", lambda *_: [])
    gpu.main(1.0, tmp_path, "cpu")
    assert "the planner's constants were not fitted" in capsys.readouterr().out
    assert H100 is not None
    gpu.main(1.0, H100, "cuda")
    assert "# cuda: fitted on" in capsys.readouterr().out


def test_an_archive_holds_what_each_stage_has_left(monkeypatch, tmp_path):
    out, archive, seen = tmp_path / "rows", tmp_path / "rows.tar.gz", []
    monkeypatch.setattr(gpu.environment, "machine_slug", lambda: "some-machine")

    def run_until(command, seconds):
        out.mkdir(exist_ok=True)
        (out / f"{len(seen)}.csv").write_text("rows")
        return 0

    def measure(target, device, left, plan, run, now):
        for _ in range(2):
            run(["anything"], 1.0)
            with tarfile.open(archive) as file:
                seen.append(sorted(name for name in file.getnames() if name.endswith(".csv")))
        return []

    monkeypatch.setattr(gpu, "run_until", run_until)
    monkeypatch.setattr(gpu, "measure", measure)
    monkeypatch.setattr(gpu, "summary", lambda out: "")
    monkeypatch.setattr(gpu.fit_planner, "of_directory", lambda out: [])
    gpu.main(1.0, out, "cpu", archive)
    assert seen == [["rows/0.csv"], ["rows/0.csv", "rows/1.csv"]]

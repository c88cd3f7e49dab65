"""Runs, and the rows, samples and files that they leave."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.errors import BadInput
from benchmarks.records.csv_file import read_csv
from benchmarks.records.journal import Journal
from benchmarks.run import supervisor
from benchmarks.run.environment import ROOT
from benchmarks.run.provenance import describe_run, read_provenance
from benchmarks.run.sources import sources_of
from benchmarks.run.worker import Settings
from benchmarks.workloads.cases import load_sweeps

TOML = """
[tiny]
title = "One small problem"
seconds = 0.05
grid = [{ L = 2, D = 3, K = 5, P = 4 }]
"""


@pytest.fixture
def sweeps_file(tmp_path):
    path = tmp_path / "sweeps.toml"
    path.write_text(TOML)
    return path


def test_a_run_leaves_rows_samples_and_its_provenance(sweeps_file, tmp_path, forked_workers):
    settings = Settings(devices=("cpu",), methods=("reverse:eager", "forward:notebook"), threads=1, cache="cold", sweeps_file=sweeps_file)
    result = supervisor.run(load_sweeps(sweeps_file)["tiny"], tmp_path / "out", settings)
    rows = read_csv(result.csv)
    assert [row.method for row in rows] == ["reverse:eager", "forward:notebook"]
    for row, entry in zip(rows, result.entries, strict=True):
        assert (row.status, row.threads, row.cache) == ("ok", 1, "cold")
        assert row.rel_error < 1e-6 < row.tolerance == 1e-5
        assert row.min_s <= row.q1_s <= row.median_s <= row.q3_s <= row.max_s
        assert row.ci_low_s <= row.median_s <= row.ci_high_s
        assert 6 <= len(entry.samples) == len(row.block_medians) <= 12
        assert sum(map(len, entry.samples)) == row.rounds
        assert row.stop in {"precision", "time"}
        assert row.iterations == 1  # a round of several calls would find the caches warm
        assert 0 < row.fraction_of_ceiling < 1
        assert row.prepare_s > 0
    assert 0 < result.busy_s < result.wall_s
    origin = read_provenance(result.csv)
    assert (origin.sweep.name, origin.seed, origin.threads, origin.cache) == ("tiny", 0, 1, "cold")
    assert origin.facts["libraries"]["torch"]
    assert origin.ceilings["cpu"]["gemm_flops_per_s"] > 1e9
    assert 0 < origin.overhead["timer_s"] < 1e-5
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"tiny.csv", "tiny.environment.json", "tiny.journal.jsonl", ".tiny.lock"}
    for content, message in (("{", "JSON"), ('{"schema": 99}', "schema: Input should be less than or equal to 3")):
        result.csv.with_suffix(".environment.json").write_text(content)
        with pytest.raises(BadInput, match=message):
            read_provenance(result.csv)
    result.csv.with_suffix(".environment.json").unlink()
    with pytest.raises(BadInput, match=r"no such file; it belongs beside tiny\.csv"):
        read_provenance(result.csv)


def test_the_recorded_command_names_no_place(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench.py", "run", "tiny", "--out", "/some/where/out\udcff", "--seed", "1"])
    command = "python bench.py run tiny --out '.../out\\udcff' --seed 1"  # a name that is not UTF-8
    assert json.loads(describe_run(load_sweeps()["quick"], Settings(devices=())).model_dump_json())["command"] == command


def test_resume_is_held_to_what_a_killed_first_run_was_asked(sweeps_file, tmp_path, monkeypatch):
    def run(text=TOML, **changes):
        sweeps_file.write_text(text)
        settings = Settings(devices=("cpu",), methods=("reverse:eager",), sweeps_file=sweeps_file, **changes)
        return supervisor.run(load_sweeps(sweeps_file)["tiny"], tmp_path / "out", settings)

    def killed(*_):
        raise SystemExit

    monkeypatch.setattr(supervisor._Stage, "run_device", killed)
    with pytest.raises(SystemExit):
        run(precision=0.1)
    assert not (tmp_path / "out" / "tiny.csv").exists()
    monkeypatch.setattr(supervisor._Stage, "run_device", lambda *_: None)
    for changes, message in (
        ({}, "was measured with --precision 0.1, not 0.01; give --precision 0.1"),
        ({"precision": 0.1, "seconds": 9.0}, "the sweep's own, not 9.0; leave out --seconds"),
        ({"precision": 0.1, "seed": 1}, "--seed 0, not 1"),
        ({"precision": 0.1, "text": TOML.replace("0.05", "0.5")}, "with seconds = 0.05, and the sweep has 0.5 now"),
    ):
        with pytest.raises(BadInput, match=message):
            run(resume=True, **changes)
    run(resume=True, precision=0.1)


def test_resume_runs_what_has_changed_again_and_says_so(sweeps_file, tmp_path, monkeypatch, command, absent):
    """Of two methods one has another hash than when its row was written."""
    arguments = ["run", "tiny", "--sweeps", sweeps_file, "--out", tmp_path, "--device", absent, "--method", "forward,reverse"]
    command(*arguments, status=1)
    monkeypatch.setattr(supervisor, "sources_of", lambda method: "new" if method.mode == "reverse" else sources_of(method))
    printed = command(*arguments, "--resume", status=1).err
    assert "1 finished cases ran again: their method or its oracle has changed since" in printed
    assert (tmp_path / "tiny.journal.jsonl").read_text().count("\n") == 3


def test_a_case_that_left_no_row_has_one(sweeps_file, tmp_path, monkeypatch, absent):
    """Its worker has said that it ended, and the journal lacks it: then it is not passed over in silence."""
    append, lost = Journal.append, ["reverse:eager"]

    def forget_one(self, row, samples=()):
        if row.method in lost:
            lost.remove(row.method)
        else:
            append(self, row, samples)

    monkeypatch.setattr(Journal, "append", forget_one)
    settings = Settings(devices=(absent,), methods=("forward:eager", "reverse:eager"), sweeps_file=sweeps_file)
    rows = read_csv(supervisor.run(load_sweeps(sweeps_file)["tiny"], tmp_path, settings).csv)
    assert [(row.method, row.status) for row in rows] == [("forward:eager", "skipped"), ("reverse:eager", "crashed")]
    assert rows[1].reason == "the worker said that it had ended, and left no whole row in the journal"


@pytest.mark.long
def test_the_timer_and_options_reach_pytest_benchmark(sweeps_file, tmp_path):
    """A marker that is not the nearest one is silently ignored: look at what the fixture really has."""
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import json, os\n"
        "from pytest_benchmark.fixture import BenchmarkFixture as B\n"
        "call = B.pedantic\n"
        "def spy(self, *args, **options):\n"
        "    seen = [self._timer.__name__, self.group, self._disable_gc, options]\n"
        "    __import__('pathlib').Path(os.environ['PROBE']).write_text(json.dumps(seen, default=repr))\n"
        "    return call(self, *args, **options)\n"
        "B.pedantic = spy\n"
    )
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**outside, "PYTHONPATH": str(tmp_path), "PYTEST_PLUGINS": "probe", "PROBE": str(tmp_path / "seen")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks/run/blocks.py",
        "-q",
        "--sweeps-file",
        str(sweeps_file),
        "--sweep",
        "tiny",
        "--method",
        "reverse:eager",
    ]
    done = subprocess.run([*command, "--device", "cpu"], cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    timer, group, disable_gc, options = json.loads((tmp_path / "seen").read_text())
    assert (timer, group, disable_gc) == ("perf_counter", "3-5-5-4 N1 tanh nobias xavier seed0 float32", True)
    assert options["rounds"] >= 1
    assert options["iterations"] >= 1

"""The benchmarks under pytest-benchmark's own switches, by the real command."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.run.environment import ROOT

SWEEPS = """
[tiny]
title = "Two small problems"
grid = [{ L = 1, D = [2, 3], K = 4, P = 2 }]
"""


@pytest.fixture
def benchmarks(tmp_path):
    (tmp_path / "sweeps.toml").write_text(SWEEPS)

    def run(*arguments, status=0):
        command = [
            sys.executable,
            "-m",
            "pytest",
            "benchmarks",
            "--sweeps-file",
            tmp_path / "sweeps.toml",
            "--sweep",
            "tiny",
            "--device",
            "cpu",
        ]
        command += [
            "-p",
            "tests.faults.faulty",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "--benchmark-storage",
            tmp_path / "stored",
            *arguments,
        ]
        outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # as under pytest-xdist
        done = subprocess.run([str(word) for word in command], cwd=ROOT, env=outside, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout[-3000:] + done.stderr
        return done.stdout + done.stderr

    return run


FAST = ("--benchmark-max-time", "0.01", "--benchmark-warmup", "off")


@pytest.mark.long
def test_an_entry_a_case_in_the_json(benchmarks, tmp_path):
    methods = ("--method", "forward:eager", "--method", "reverse:eager")
    printed = benchmarks(
        "--benchmark-only", "--benchmark-min-rounds", "7", "--benchmark-json", tmp_path / "b.json", "--benchmark-autosave", *methods, *FAST
    )
    assert "4 passed" in printed
    entries = json.loads((tmp_path / "b.json").read_text())["benchmarks"]
    assert [entry["name"] for entry in entries] == [
        f"test_jacobian[L1-D{D}-K4-P2-N1-float32-cpu-{mode}:eager]" for D in (2, 3) for mode in ("forward", "reverse")
    ]
    assert len({entry["group"] for entry in entries}) == 2
    assert all(entry["stats"]["rounds"] >= 7 for entry in entries)
    told = entries[1]["extra_info"]
    assert {name: told[name] for name in ("L", "D", "K", "P", "N", "mode", "implementation", "device", "quantity")} == {
        "L": 1, "D": 2, "K": 4, "P": 2, "N": 1, "mode": "reverse", "implementation": "eager", "device": "cpu", "quantity": "jacobian",
    }  # fmt: skip
    assert 0 <= told["rel_error"] < told["tolerance"]
    printed = benchmarks(
        "--benchmark-only", "--benchmark-compare", "--benchmark-group-by", "param:case", "-k", "D3 and reverse", *methods, *FAST
    )
    assert "1 passed, 3 deselected" in printed
    assert "(0001_" in printed or "Comparing against" in printed


@pytest.mark.long
def test_disabled_each_case_runs_once_with_its_verdict(benchmarks):
    assert "2 passed" in benchmarks("--benchmark-disable", "--method", "reverse:eager", "-k", "test_jacobian")
    printed = benchmarks("--benchmark-disable", "--method", "reverse:faulty-wrong", "-k", "test_jacobian", status=1)
    assert "2 failed" in printed
    assert "relative error" in printed


def test_a_wrong_method_fails_and_an_unsupported_one_is_skipped(benchmarks):
    printed = benchmarks("--benchmark-only", "--method", "reverse:faulty-nan", "--method", "reverse:sum-trick", *FAST, status=1)
    assert "2 failed, 2 skipped" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sweep", "tyni"), "unknown sweep 'tyni'; choose from tiny"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--method", "reverse:egaer"), "unknown method 'reverse:egaer': did you mean 'reverse:eager'?"),
    ],
)
@pytest.mark.long
def test_mistakes_are_one_line(benchmarks, arguments, message):
    printed = benchmarks("--benchmark-only", *arguments, status=4)
    assert f"ERROR: {message}" in printed
    assert "Traceback" not in printed

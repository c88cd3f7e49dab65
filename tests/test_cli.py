"""The real command, and what it prints."""

import subprocess
import sys
import time

import pytest

import bench as bench_module
from benchmarks.records.csv_file import read_csv, write_csv
from benchmarks.run.environment import ROOT
from tests.benchmarks.rows import row
from tests.faults import faulty


def bench(*arguments, status=0):
    """Run the command in a process of its own."""
    done = subprocess.run([sys.executable, "bench.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command here, which saves the start of a process; what it printed is returned."""

    def run(*arguments, status=0):
        monkeypatch.setattr(sys, "argv", ["bench.py", *map(str, arguments)])
        assert bench_module.main() == status
        return capsys.readouterr()

    return run


def test_help_needs_no_torch():
    code = "import sys, bench; sys.argv = ['bench.py', '--help']; sys.exit(bench.main() or bool({'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("list", "run", "plot", "compare"):
        assert command in done.stdout
    best = min(timed(["bench.py", "--help"]) for _ in range(5))
    bare = min(timed(["-c", "pass"]) for _ in range(5))
    assert best - bare < 0.5


def timed(arguments):
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - start


def test_without_arguments_it_helps():
    assert "Usage" in bench().stdout


def test_lists(command):
    assert "notebook" in bench("list").stdout
    assert "reverse:torch.func" in command("list", "methods").out
    assert command("list", "devices").out.splitlines()[1].startswith("cpu")
    command("list", "results")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "tables"], "cannot list 'tables'; choose from sweeps, methods, devices, results"),
        (["run", "nope"], "unknown sweep 'nope'; choose from quick, depth"),
        (["run", "quick", "--method", "sideways:*"], "no method matches 'sideways:*'; choose from forward:eager"),
        (["run", "quick", "--device", "tpu"], "unknown device 'tpu'; choose from cpu, cuda"),
        (["run", "quick", "--device", ","], "unknown device ','; choose from cpu"),
        (["run", "quick", "--sweeps", "missing.toml"], "missing.toml: cannot be read"),
        (["run"], "Missing argument"),
        (["run", "quick", "--threads", "0"], "--threads"),
        (["run", "quick", "--out", "/dev/null/out"], "/dev/null/out: cannot be written"),
        (["run", "quick", "--cache", "warm"], "unknown cache 'warm'; choose from hot, cold"),
        (["plot", "missing.csv"], "missing.csv: no such file"),
        (["plot", "pyproject.toml"], "pyproject.toml: columns differ"),
        (["plot", "--format", "gif"], "unknown format gif; choose from svg, png, pdf"),
        (["compare", "missing.csv", "missing.csv"], "missing.csv: no such file"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, command):
    printed = command(*arguments, status=2)
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert printed.err.startswith("error: ")
    assert message in printed.err


def test_bad_input_as_the_shell_sees_it():
    done = bench("run", "nope", status=2)
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)
    assert "unknown sweep 'nope'" in done.stderr


def test_run_plot_compare(tmp_path, command):
    sweeps = tmp_path / "sweeps.toml"
    sweeps.write_text('[mine]\ntitle = "t"\nseconds = 0.05\ngrid = [{ L = [1, 2, 3], D = 2, K = 4, P = 3 }]\n')
    done = bench(
        "run", "mine", "--sweeps", sweeps, "--out", tmp_path, "--device", "cpu", "--method", "reverse:eager", "--method", "reverse:dense"
    )
    assert all(f"mine {number}/6 L" in done.stderr for number in range(1, 7))
    assert "\x1b" not in done.stdout + done.stderr
    assert "best of ours" in done.stdout
    assert "were spent inside measured and warm-up calls" in done.stdout
    assert done.stdout.splitlines()[-1] == f"wrote {tmp_path / 'mine.csv'}"
    assert len(read_csv(tmp_path / "mine.csv")) == 6
    drawn = command("plot", tmp_path / "mine.csv", "--out", tmp_path / "figures", "--format", "svg,png,pdf")
    assert drawn.out.splitlines() == [f"wrote {tmp_path / 'figures' / 'mine'}.{kind}" for kind in ("svg", "png", "pdf")]
    assert "1.00x" in command("compare", tmp_path / "mine.csv", tmp_path / "mine.csv", "--fail-on", "1.1").out


def test_a_regression_is_status_1(tmp_path, command):
    write_csv([row(median=1e-3)], tmp_path / "base.csv")
    write_csv([row(median=2e-3)], tmp_path / "other.csv")
    assert "slower" in command("compare", tmp_path / "base.csv", tmp_path / "other.csv").out
    command("compare", tmp_path / "base.csv", tmp_path / "other.csv", "--fail-on", "1.5", status=1)
    command("compare", tmp_path / "base.csv", tmp_path / "other.csv", "--fail-on", "2.5")


def test_a_wrong_jacobian_is_status_1(tmp_path, command, monkeypatch):
    sweeps = tmp_path / "sweeps.toml"
    sweeps.write_text('[mine]\ntitle = "t"\nseconds = 0.05\ngrid = [{ L = 1, D = 2, K = 4, P = 3 }]\n')
    monkeypatch.setenv("PYTEST_PLUGINS", "tests.faults.faulty")
    faulty.register_all()
    try:
        arguments = ["run", "mine", "--sweeps", sweeps, "--out", tmp_path, "--device", "cpu", "--method", "reverse:faulty-wrong"]
        printed = command(*arguments, status=1)
    finally:
        faulty.unregister_all()
    assert "invalid: " in printed.err
    assert "relative error 0.01 exceeds" in printed.err


def test_two_devices_become_a_device_comparison(tmp_path, command):
    write_csv([row(median=1e-3)], tmp_path / "base.csv")
    write_csv([row(median=1e-4, device="cuda")], tmp_path / "other.csv")
    printed = command("compare", tmp_path / "base.csv", tmp_path / "other.csv").out
    assert "Some cpu" in printed.splitlines()[0]
    assert "Some cuda" in printed.splitlines()[0]
    assert "faster" in printed.splitlines()[1]


def test_unlike_measurements_are_not_compared(tmp_path, command):
    write_csv([row()], tmp_path / "base.csv")
    write_csv([row(threads=1)], tmp_path / "other.csv")
    refused = command("compare", tmp_path / "base.csv", tmp_path / "other.csv", status=2).err
    assert refused == "error: the results differ in number of threads: 2 against 1; measure them alike, or give --force\n"
    command("compare", tmp_path / "base.csv", tmp_path / "other.csv", "--force")

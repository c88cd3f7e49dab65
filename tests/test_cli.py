"""The real command, and what it prints."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

import jacobians as jac
from benchmarks.errors import BadInput
from benchmarks.records.csv_file import read_csv, write_atomically, write_csv
from benchmarks.run.environment import ROOT, machine_slug
from benchmarks.run.provenance import read_provenance
from tests.benchmarks.rows import RATES, row
from tests.faults import faulty


def bench(*arguments, status=0):
    """Run the command in a process of its own."""
    done = subprocess.run([sys.executable, "bench.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


WITHOUT_TORCH = """
import contextlib, io, json, sys
import bench
answers = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["bench.py", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = bench.main()
    answers.append([status, out.getvalue(), err.getvalue(), bool({"torch", "pandas", "matplotlib"} & set(sys.modules))])
print(json.dumps(answers))
"""
MISTAKES = [
    (["run", "qick"], "unknown sweep 'qick': did you mean 'quick'?"),
    (["run", "nope"], "unknown sweep 'nope'; choose from quick, depth"),
    (["run", "quick", "--method", "reverse:nativ"], "unknown method 'reverse:nativ': did you mean 'reverse:native'"),
    (["run", "quick", "--method", "sideways:*"], "unknown method 'sideways:*'; choose from"),
    (["run", "quick", "--device", "tpu"], "unknown device 'tpu'"),
    (["run", "quick", "--device", ","], "unknown device ','; choose from cpu"),
    (["run", "quick", "--device", "cud"], "did you mean 'cuda'"),
    (["run", "quick", "--sweeps", "missing.toml"], "missing.toml: cannot be read"),
    (["run"], "Missing argument"),
    (["run", "quick", "--threads", "0"], "--threads"),
    (["run", "quick", "--threds", "1"], "unknown option '--threds': did you mean '--threads'?"),
    (["run", "quick", "--cache", "warm"], "unknown cache 'warm'; choose from hot, cold"),
    (["list", "tables"], "unknown list 'tables'; choose from sweeps, methods, devices, results"),
    (["recommend", "--l", "10"], "unknown option '--l': did you mean '--L'?"),
    (["recommend", "--widths", "3,x"], "--widths takes whole numbers separated by commas"),
    (["recommend", "--widths", "3,4", "--activation", "tahn"], "unknown activation 'tahn': did you mean 'tanh'?"),
    (["plot", "missing.csv"], "missing.csv: no such file"),
    (["plot", "docs"], "docs: no result CSV in this directory"),
    (["plot", "--format", "gif"], "unknown format 'gif'; choose from svg, png, pdf"),
    (["compare", "missing.csv", "missing.csv"], "missing.csv: no such file"),
    (["check", "--device", "tpu"], "unknown device 'tpu'"),
    (["nonsense"], "No such command 'nonsense'"),
    (["run", "quick", "--method", "reverse:*", "extra.py", "--cache"], "--cache"),
]


def test_mistakes_and_help_are_answered_before_torch_is_imported():
    helps = [
        ["--help"],
        ["-h"],
        ["--version"],
        *([command, "--help"] for command in ("run", "plot", "compare", "recommend", "check", "report")),
    ]
    asked = [*helps, *(arguments for arguments, _ in MISTAKES)]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, json.dumps(asked)], cwd=ROOT, capture_output=True, text=True, check=True)
    answers = json.loads(done.stdout)
    assert not any(heavy for *_, heavy in answers)
    for status, out, _, _ in answers[: len(helps)]:
        assert status == 0
        assert "jacobians 0." in out or "Usage" in out
    assert all("Example: python bench.py" in out for _, out, _, _ in answers[3 : len(helps)])
    for (arguments, message), (status, out, err, _) in zip(MISTAKES, answers[len(helps) :], strict=True):
        assert (status, out, len(err.splitlines())) == (2, "", 1), (arguments, err)
        assert err.startswith("error: ")
        assert message in err, arguments


def test_without_the_environment_it_says_how_to_get_one(tmp_path):
    code = "import sys; sys.modules['typer'] = None; sys.argv = ['bench.py']; import runpy; runpy.run_path('bench.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == "error: typer is not installed here; run `make bench` once, then `source .venv/bin/activate`\n"


def test_lists_of_sweeps_modes_and_methods():
    from benchmarks.workloads import names

    assert names.sweeps(["quick,depth", "width"]) == ["quick", "depth", "width"]
    assert names.methods(["reverse", "forward:native,mixed:*"]) == ("reverse:eager", "forward:native", "mixed:*")


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
        (["run", "quick", "--out", "/dev/null/out"], "/dev/null/out: cannot be written"),
        (["plot", "pyproject.toml"], "pyproject.toml: columns differ"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, command):
    printed = command(*arguments, status=2)
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)
    assert printed.err.startswith("error: ")
    assert message in printed.err


@pytest.mark.long
def test_run_plot_compare(tmp_path, command):
    sweeps = tmp_path / "sweeps.toml"
    sweeps.write_text('[mine]\ntitle = "t"\nseconds = 0.05\ngrid = [{ L = [1, 2, 3], D = 2, K = 4, P = 3 }]\n')
    done = bench(
        "run", "mine", "--sweeps", sweeps, "--out", tmp_path, "--device", "cpu", "--method", "reverse:eager", "--method", "reverse:notebook"
    )
    assert "mine looking at this machine and starting the workers" in done.stderr.splitlines()
    assert all(f"mine {number}/6 L" in done.stderr for number in range(1, 7))
    assert "\x1b" not in done.stdout + done.stderr
    heading = done.stdout.splitlines()[0]
    assert heading.split() == ["problem", "forward", "reverse", "mixed", "winner", "best", "library", "faster", "by"]
    assert max(map(len, done.stdout.splitlines()[:4])) <= 80
    assert "L hidden layers, D inputs" in done.stdout
    assert "were spent inside measured and warm-up calls" in done.stdout
    assert done.stdout.splitlines()[-1] == f"wrote {tmp_path / 'mine.csv'}"
    assert len(read_csv(tmp_path / "mine.csv")) == 6
    drawn = command("plot", tmp_path / "mine.csv", "--out", tmp_path / "figures", "--format", "svg,png,pdf")
    expected = {f"wrote {tmp_path / 'figures' / name}.{kind}" for name in ("mine", "roofline") for kind in ("svg", "png", "pdf")}
    assert expected <= set(drawn.out.splitlines())
    assert "wrote" in command("plot", tmp_path, "--out", tmp_path / "figures").out, "a directory stands for the CSVs in it"
    assert "1.00x" in command("compare", tmp_path / "mine.csv", tmp_path / "mine.csv", "--fail-on", "1.1").out


def test_a_regression_is_status_1(tmp_path, command):
    write_csv([row(median=1e-3)], tmp_path / "base.csv")
    write_csv([row(median=2e-3)], tmp_path / "other.csv")
    assert "slower" in command("compare", tmp_path / "base.csv", tmp_path / "other.csv").out
    command("compare", tmp_path / "base.csv", tmp_path / "other.csv", "--fail-on", "1.5", status=1)
    command("compare", tmp_path / "base.csv", tmp_path / "other.csv", "--fail-on", "2.5")


def test_a_wrong_jacobian_is_status_1(tmp_path, command, forked_workers, monkeypatch):
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
    assert "Some cpu, cpu, 2 threads" in printed.splitlines()[0]
    assert "Some cuda, cuda" in printed.splitlines()[0]
    assert "faster" in printed.splitlines()[1]


def test_threads_are_compared_without_force_and_caches_are_not(tmp_path, command):
    write_csv([row()], tmp_path / "base.csv")
    write_csv([row(threads=1)], tmp_path / "other.csv")
    assert "cpu, 1 thread" in command("compare", tmp_path / "base.csv", tmp_path / "other.csv").out
    write_csv([row(cache="cold")], tmp_path / "other.csv")
    refused = command("compare", tmp_path / "base.csv", tmp_path / "other.csv", status=2).err
    assert refused == "error: the results differ in cache: hot against cold; measure them alike, or give --force\n"
    command("compare", tmp_path / "base.csv", tmp_path / "other.csv", "--force")


def test_nothing_measured_is_status_1_with_the_reason(tmp_path, command, absent):
    printed = command("run", "quick", "--device", absent, "--method", "reverse", "--out", tmp_path, status=1)
    assert f"nothing was measured (skipped: torch finds no {absent} device here)" in printed.err


def test_by_default_nothing_committed_is_written(tmp_path, command, monkeypatch, absent):
    monkeypatch.chdir(tmp_path)
    command("run", "quick", "--device", absent, "--method", "reverse", status=1)
    assert (tmp_path / "build" / "results" / machine_slug() / "quick.csv").exists()


class TestCheck:
    @pytest.fixture
    def quick_check(self, monkeypatch):
        from benchmarks.run import check

        monkeypatch.setattr(check.ceilings, "measured", lambda device: RATES)  # whatever else runs here
        monkeypatch.setattr(check, "SLOW", (*check.SLOW, "jax", "autograd-loop", "autograd-vectorized", "torch.func", "sum-trick"))
        return check

    def test_a_table_and_a_verdict(self, command, quick_check):
        printed = command("check", "--device", "cpu").out
        assert "everything checked is right" in printed
        assert "relative error" in printed
        assert "GFLOP/s multiply-add" in printed

    @pytest.mark.parametrize(("again", "status"), [(3e11, "ok"), (1e11, "wrong")])
    def test_a_ceiling_below_the_products_is_measured_again(self, quick_check, monkeypatch, again, status):
        low = replace(RATES, flops=1e11, gemm=2e11)
        monkeypatch.setattr(quick_check.ceilings, "measured", lambda device: low)
        monkeypatch.setattr(quick_check.ceilings, "raised", lambda device, doubted: replace(low, flops=again))
        monkeypatch.setattr(quick_check, "load_before", lambda: None)
        assert quick_check._ceiling("cpu").answer == status

    def test_a_wrong_method_is_named_and_status_1(self, command, quick_check):
        faulty.register_all()
        try:
            for name in faulty.FAULTS:
                if name not in {"wrong", "raise"}:
                    jac.planning.registry.unregister(f"reverse:faulty-{name}")
            for name in faulty.TOYS:
                jac.planning.registry.unregister(f"reverse:toy-{name}")
            printed = command("check", "--device", "cpu", status=1).out
        finally:
            faulty.unregister_all()
        assert "wrong: reverse:faulty-raise, cpu, reverse:faulty-wrong, cpu" in printed
        assert "RuntimeError: something" in printed

    def test_anybodys_own_function(self, command, quick_check, tmp_path, monkeypatch):
        (tmp_path / "my_jacobians.py").write_text(
            "import torch\n"
            "def right(mlp, x):\n    J = torch.autograd.functional.jacobian(lambda x: mlp(x).sum(0) if x.ndim == 2 else mlp(x), x)\n"
            "    return J.movedim(0, 1) if x.ndim == 2 else J\n"
            "def wrong(mlp, x):\n    return 2 * right(mlp, x)\nthing = 3\n"
        )
        monkeypatch.chdir(tmp_path)
        others = {method.implementation for quantity in jac.quantities() for method in jac.methods(quantity=quantity.name)} - {"eager"}
        monkeypatch.setattr(quick_check, "SLOW", tuple(others))
        assert "takes" in command("check", "--device", "cpu", "--module", "my_jacobians:right").out
        assert "relative error 1 exceeds" in command("check", "--device", "cpu", "--module", "my_jacobians:wrong", status=1).out
        assert "a int cannot be called" in command("check", "--module", "my_jacobians:thing", status=2).err
        assert "--module takes package:function" in command("check", "--module", "nonsense", status=2).err


@pytest.mark.parametrize("given", [",", ""])
def test_no_sweep_is_named(command, given):
    assert "no sweep is named; choose from quick" in command("run", given, status=2).err


@pytest.mark.parametrize("option", ["--precision", "--seconds"])
def test_numbers_that_would_never_end_a_run(option, command):
    assert f"Invalid value for '{option}'" in command("run", "quick", option, "inf", status=2).err


def test_outputs_are_new_or_regular_files_and_no_inputs(command, tmp_path):
    measured = tmp_path / "mine.csv"
    write_csv([row()], measured)
    before = measured.read_bytes()
    assert "is one of the results to be read" in command("report", measured, "--out", measured, status=2).err
    assert measured.read_bytes() == before
    assert "is no regular file" in command("report", measured, "--out", tmp_path, status=2).err
    assert "is no regular file" in command("report", measured, "--out", "/dev/null", status=2).err
    with pytest.raises(BadInput, match="is no regular file"):
        write_atomically(Path("/dev/null"), "text")


@pytest.mark.long
def test_streams_that_are_closed_or_ascii_and_names_that_are_no_text(tmp_path, absent):
    """Of a real process: whatever the terminal is, it is answered, in full and without a traceback."""
    sweeps = tmp_path / os.fsdecode(b"sweeps-\xff.toml")
    sweeps.write_text('[mine]\ntitle = "t"\ngrid = [{ L = 1, D = 2, K = 4, P = 3, activation = "relu" }]\n')
    out = tmp_path / os.fsdecode(b"out-\xff")
    arguments = ["run", "mine", "--sweeps", sweeps, "--out", out, "--device", absent, "--method", "reverse"]
    ascii_alone = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for closed, last in (("2>&-", "out-?/mine.csv"), ("2>&- >&- <&-", "")):
        words = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "bench.py", *arguments]
        done = subprocess.run(words, cwd=ROOT, env=ascii_alone, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (1, b"")
        assert done.stdout.decode("ascii").strip().endswith(last)
        (row,) = read_csv(out / "mine.csv")
        assert row.status == "skipped"
        assert r"--out '.../out-\udcff'" in read_provenance(out / "mine.csv").command
    printed = subprocess.run([sys.executable, "bench.py", "plot", "--help"], cwd=ROOT, env=ascii_alone, capture_output=True, check=True)
    assert b"Usage" in printed.stdout
    printed = subprocess.run([sys.executable, "bench.py", "plot", out], cwd=ROOT, env=ascii_alone, capture_output=True, check=False)
    assert (printed.returncode, printed.stdout) == (2, b"")
    assert printed.stderr.startswith(b"error: ")
    assert printed.stderr.count(b"\n") == 1


def test_without_a_temporary_directory(command, tmp_path, monkeypatch):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/nowhere']")

    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", none)
    said = command("run", "quick", "--device", "cpu", "--method", "reverse:eager", "--out", tmp_path, status=2).err
    assert said.splitlines()[-1] == "error: [Errno 2] No usable temporary directory found in ['/nowhere']"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recommend", "--L", 10**9, "--D", 1, "--K", 1, "--P", 1), "L must be below 10000"),
        (("recommend", "--L", "9" * 4301, "--D", 1, "--K", 1, "--P", 1), "'--L'"),
        (("recommend", "--L", 1, "--D", 1, "--K", 1, "--P", 10**30), "widths must be at most"),
        (("recommend", "--L", 1, "--D", 1, "--K", 1, "--P", 1, "--N", 10**30), "batch must be at most"),
        (("recommend", "--widths", ",".join("5" * 50_001)), "widths has 50001 entries; give at most 10001"),
        (("recommend", "--widths", "3," + "9" * 4301), "--widths takes whole numbers"),
        (("recommend", "--widths", "3,²"), "--widths takes whole numbers"),
        (("recommend", "--widths", "3,0"), "each at least 1; got 3,0"),
        (("recommend", "--widths", "3"), "at least an input and an output width"),
        (("run", "quick", "--seed", 2**63), "'--seed'"),
        (("run", "mine", "--sweeps", "digits.toml"), "digits.toml: not valid TOML"),
        (("run", "mine", "--sweeps", "deep.toml"), "L must be below 10000, got 1000000000"),
        (("run", "mine", "--sweeps", "wide.toml"), "widths must be at most"),
        (("run", "mine", "--sweeps", "many.toml"), "widths has 50001 entries"),
        (("run", "mine", "--sweeps", "grid.toml"), "1000000 problems are more than a run can take"),
        (("compare", "cell.csv", "cell.csv"), "cell.csv, line 1: not a CSV (field larger than field limit (131072))"),
    ],
)
def test_sizes_beyond_all_bounds_are_one_line(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    numbers = list(range(1, 101))
    for name, grid in {
        "digits": f"L = {'9' * 4301}, D = 1, K = 1, P = 1",
        "deep": "L = 1000000000, D = 1, K = 1, P = 1",
        "wide": f"L = 1, D = {10**30}, K = 1, P = 1",
        "many": f"widths = {[5] * 50_001}",
        "grid": f"L = {numbers}, D = {numbers}, K = {numbers}, P = 1",
    }.items():
        (tmp_path / f"{name}.toml").write_text(f'[mine]\ntitle = "t"\ngrid = [{{ {grid} }}]\n')
    (tmp_path / "cell.csv").write_text("x" * 131_073)
    said = command(*arguments, status=2).err
    assert said.count("\n") == 1
    assert message in said
    assert len(said) < 500

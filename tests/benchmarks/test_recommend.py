"""The answer for a user's own shape, as a table, as JSON, from sizes, files and modules."""

import json
import re
from dataclasses import replace

import pytest
import torch

from benchmarks.analysis import across, answer, recommend
from benchmarks.analysis.answer import Question
from benchmarks.analysis.recommend import Evidence, code, distance
from benchmarks.errors import BadInput
from benchmarks.records import csv_file
from benchmarks.run import environment
from benchmarks.workloads import names
from jacobians.problem import Problem
from tests.benchmarks.rows import RATES, row, write_result

TIMES = {
    "forward:eager": 9e-5,
    "reverse:eager": 8e-5,
    "forward:native": 1e-5,
    "reverse:native": 2e-5,
    "mixed:native": 3e-5,
    "mixed:eager": 1e-4,
}


@pytest.fixture
def evidence():
    rows = [row(m, L=3, D=2, K=30, P=10, median=t) for m, t in (TIMES | {"reverse:jax": 4e-5, "forward:notebook": 5e-5}).items()]
    rows.append(row("reverse:torch.func", L=3, D=2, K=30, P=10, status="invalid"))
    return Evidence(rows, {"cpu": RATES})


@pytest.fixture
def command(command, monkeypatch, evidence):
    """Run `recommend` where this is all that is known."""
    monkeypatch.setattr(answer, "evidence", lambda: evidence)
    place = across.Place("a place", "cpu", 2, evidence, RATES, here=True)
    monkeypatch.setattr(across, "places", lambda: [place, replace(place, name="another", threads=1)])
    return lambda *arguments, status=0: command("recommend", *arguments, status=status)


@pytest.mark.needs_compiler
@pytest.mark.needs("jax")
def test_what_was_measured_is_ranked_by_it(evidence):
    found = recommend.recommend(Problem(widths=(2, 30, 30, 30, 10)), evidence, RATES, threads=2)
    assert found.confidence == "measured"
    measured = TIMES | {"reverse:jax": 4e-5}
    assert [p.method for p in found.ranked] == sorted(measured, key=measured.get), "the naive baseline is no peer"
    assert found.best.method == "forward:native"
    assert found.best.measured == 1e-5
    assert "reverse:torch.func" not in [p.method for p in found.ranked], "its Jacobian was wrong"


@pytest.mark.needs("jax")
def test_what_was_not_is_scaled_from_the_nearest(evidence):
    near = recommend.recommend(Problem(widths=(2, 30, 30, 30, 12)), evidence, RATES, threads=2)
    assert (near.confidence, near.nearest) == ("nearby", "L=3 D=2 K=30 P=10")
    assert all(p.measured is None for p in near.ranked)
    far = recommend.recommend(Problem(widths=(2, 300, 300, 300, 10)), evidence, RATES, threads=2)
    assert far.confidence == "extrapolated"
    (jax,) = (p for p in far.ranked if p.method == "reverse:jax")
    assert jax.predicted > 4e-5 * 1.5, "the network is a hundred times larger"


def test_results_of_another_machine_are_not_called_measured(evidence):
    elsewhere = Evidence(evidence.rows, evidence.rates, here=False)
    found = recommend.recommend(Problem(widths=(2, 30, 30, 30, 10)), elsewhere, RATES, threads=2)
    assert all(p.measured is None for p in found.ranked)
    assert found.confidence == "nearby"


def test_without_any_results_ours_are_ranked():
    found = recommend.recommend(Problem(widths=(1000, 1000, 1000, 1)), rates=RATES, threads=2)
    assert found.best.method.startswith(("reverse:", "mixed:"))
    assert (found.confidence, found.nearest) == ("extrapolated", None)
    assert all(p.hand_written for p in found.ranked)


def test_distance_is_the_largest_factor():
    base = Problem(widths=(2, 8, 8, 4), batch=16)
    assert distance(base, base) == 0
    assert distance(base, Problem(widths=(2, 8, 8, 4), batch=32)) == 1
    assert distance(base, Problem(widths=(16, 8, 8, 4), batch=32)) == 3


@pytest.mark.parametrize(
    "problem",
    [
        Problem(widths=(2, 8, 4)),
        Problem(widths=(2, 8, 4), batch=7, activation="gelu", output_activation="tanh", bias=True, dtype="float64"),
        Problem(widths=(3, 4)),
    ],
)
def test_the_lines_to_paste_run(problem):
    names = {}
    exec(code(problem, "reverse:eager"), names)
    assert names["J"].shape == problem.jacobian_shape
    assert str(names["J"].dtype) == f"torch.{problem.dtype}"


@pytest.mark.needs_compiler
def test_the_command(command):
    printed = command("--L", 3, "--D", 2, "--K", 30, "--P", 10).out
    assert printed.splitlines()[1].split()[1] == "forward:native"
    assert "use forward:native: forward mode takes" in printed
    assert "measured: this very problem was measured" in printed or "nearby" in printed
    assert 'J = jac.jacobian(mlp, x, method="forward:native")' in printed
    assert re.search("a place, here +forward +forward:native", printed)
    batch = command("--widths", "784,50,10", "--N", 256, "--activation", "relu").out
    assert "torch.randn(256, 784)" in batch
    assert 'activation="relu"' in batch


def test_widths_as_people_write_them(command):
    for text in ("784 50 10", "[784,50,10]", "784, 50, 10", "784-50-10", "(784, 50, 10)"):
        assert names.widths(text) == (784, 50, 10)
    assert json.loads(command("--widths", "(784, 50, 10)", "--json").out)["problem"]["widths"] == [784, 50, 10]


def test_own_results_come_before_committed_ones_and_only_a_fingerprint_says_here(tmp_path, monkeypatch):
    monkeypatch.setattr(recommend, "OWN_RESULTS", tmp_path / "own")
    monkeypatch.setattr(csv_file, "RESULTS", tmp_path / "committed")
    monkeypatch.setattr(environment, "hardware_fingerprint", lambda: "here")

    def write(folder, median, fingerprint):
        (tmp_path / folder / "m").mkdir(parents=True, exist_ok=True)
        return write_result([row(median=median)], tmp_path / folder / "m" / "quick.csv", fingerprint=fingerprint)

    write("committed", 1e-3, "elsewhere")
    found = recommend.evidence()
    assert (found.here, found.rows[0].median_s) == (False, 1e-3)
    write("committed", 2e-3, "here")
    found = recommend.evidence()
    assert (found.here, found.rows[0].median_s) == (True, 2e-3)
    write("own", 3e-3, "here")
    assert recommend.evidence().rows[0].median_s == 3e-3
    write("own", 4e-3, "elsewhere")
    assert recommend.evidence().rows[0].median_s == 2e-3


def test_what_was_never_measured_on_a_device_says_so_in_its_first_line(evidence):
    found = recommend.recommend(Problem(widths=(2, 30, 10), device="cuda"), evidence, RATES, threads=2)
    assert answer.lines(found)[1].startswith("predicted, never measured on this device: use ")


def test_far_from_all_that_was_measured_the_first_three_are_timed_unless_it_is_forbidden(command):
    far = ("--widths", "7,300,9", "--N", 8, "--device", "cpu")
    assert "measured: this very problem was measured" in command(*far).out
    assert "extrapolated: no measured problem is near" in command(*far, "--no-measure").out
    assert "extrapolated" in command("--widths", "3000,3000,4", "--N", 500, "--device", "cpu").out, "that would take minutes"


@pytest.mark.needs_compiler
def test_json(command):
    record = json.loads(command("--L", 3, "--D", 2, "--K", 30, "--P", 10, "--json").out)
    assert record["method"] == "forward:native"
    assert record["problem"]["widths"] == [2, 30, 30, 30, 10]
    assert {"method", "hand_written", "predicted_s", "measured_s"} == set(record["ranked"][0])
    assert {device["name"] for device in record["devices"]} == {"a place", "another"}
    assert "devices" not in json.loads(command("--widths", "3,4", "--device", "cpu", "--json").out), "one was asked for"


def test_from_a_checkpoint_and_from_a_module(command, tmp_path, monkeypatch):
    net = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.ReLU(), torch.nn.Linear(64, 5))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    assert json.loads(command("--checkpoint", tmp_path / "net.pt", "--json").out)["problem"]["widths"] == [3, 64, 5]
    (tmp_path / "my_networks.py").write_text(
        "import torch\nnet = torch.nn.Sequential(torch.nn.Linear(3, 7), torch.nn.ReLU(), torch.nn.Linear(7, 5))\n"
        "def build():\n    return net\nbroken = 3\ndef fails():\n    raise KeyError('oh')\n"
    )
    monkeypatch.chdir(tmp_path)
    for attribute in ("net", "build"):
        record = json.loads(command("--module", f"my_networks:{attribute}", "--N", 4, "--json").out)
        assert (record["problem"]["widths"], record["problem"]["activation"], record["problem"]["bias"]) == ([3, 7, 5], "relu", True)
    for name, message in (
        ("my_networks:nothing", "has no attribute"),
        ("my_networks:broken", "nn.Sequential"),
        ("my_networks:fails", "KeyError"),
    ):
        assert message in command("--module", name, status=2).err
    assert "No module named" in command("--module", "no_such_thing:net", status=2).err


def test_measuring_now(command, monkeypatch, tmp_path):
    monkeypatch.setenv("JACOBIANS_CACHE", str(tmp_path))
    record = json.loads(command("--L", 2, "--D", 3, "--K", 8, "--P", 2, "--measure", "--json").out)
    assert record["confidence"] == "measured"
    first = record["ranked"][:3]
    assert [r["measured_s"] for r in first] == sorted(r["measured_s"] for r in first)
    assert all(1e-7 < r["measured_s"] < 1 for r in first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing --L, --D, --K, --P; give --L, --D, --K and --P, or --widths"),
        (["--L", "3", "--D", "2"], "missing --K, --P"),
        (["--widths", "three"], "--widths takes whole numbers separated by commas"),
        (["--widths", "3"], "a network needs at least an input and an output width"),
        (["--widths", "3,4", "--L", "2"], "give either --widths or"),
        (["--widths", "3,4", "--module", "a:b"], "give one of sizes, --checkpoint and --module"),
        (["--module", "nonsense"], "--module takes package.module:attribute"),
        (["--checkpoint", "missing.pt"], "missing.pt: no such file"),
        (["--widths", "3,4", "--activation", "swish"], "unknown activation 'swish'"),
        (["--widths", "3,4", "--activation", "tahn"], "unknown activation 'tahn': did you mean 'tanh'?"),
        (["--l", "10"], "unknown option '--l': did you mean '--L'?"),
        (["--widths", "100000000,100000000"], "this does not fit in memory: the network and what is computed take at least 8e+07 GB"),
        (["--widths", "3,4", "--dtype", "int8"], "dtype must be one of"),
        (["--widths", "3,4", "--device", "tpu"], "unknown device 'tpu'"),
        (["--L", "0", "--D", "0", "--P", "1"], "--D"),
    ],
)
def test_bad_questions_are_one_line(command, arguments, message):
    printed = command(*arguments, status=2)
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert message in printed.err


def test_nothing_is_measured_on_a_device_that_is_not_there(absent):
    with pytest.raises(BadInput, match=f"torch finds no {absent} device here"):
        answer.answer(Question(widths=(3, 4), device=absent), measure_now=True)

"""Sweeps and cases."""

import contextlib
from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.errors import BadInput
from benchmarks.records.journal import Journal
from benchmarks.run.session import in_turn
from benchmarks.run.supervisor import with_seed
from benchmarks.run.worker import Settings
from benchmarks.workloads.cases import Sweep, expand, find_sweep, load_sweeps
from tests.benchmarks.rows import row

EXPECTED = {"quick", "depth", "inputs", "width", "outputs", "aspect", "batch", "bottleneck", "notebook", "evaluations"}


def test_the_named_sweeps_are_there():
    assert set(load_sweeps()) >= EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_keys_and_ids_are_unique_and_methods_of_a_problem_are_neighbours(name):
    cases = expand(load_sweeps()[name], ["cpu", "cuda"])
    assert len({case.key for case in cases}) == len({case.id for case in cases}) == len(cases)
    problems = [case.group for case in cases]
    changes = sum(a != b for a, b in pairwise(problems))
    assert changes == len(set(problems)) - 1


def test_notebook_shapes():
    cases = expand(load_sweeps()["notebook"], ["cpu"])
    assert {c.init for c in cases} == {"xavier"}
    assert {(c.problem.L, c.problem.D, c.problem.K, c.problem.P, c.problem.N) for c in cases} == {
        *((L, *sizes, 1) for L in (3, 5, 10) for sizes in ((1000, 1000, 1), (2, 30, 10))),
        (10, 2, 30, 10, 1000),
    }
    modes = ("forward", "reverse")
    assert {c.method for c in cases} >= {f"{mode}:notebook{end}" for mode in modes for end in ("", "-no-grad")}


def test_a_key_is_stable():
    """Journals, CSVs and --resume rely on it: changing it orphans every result."""
    case = expand(load_sweeps()["quick"], ["cpu"], ["reverse:eager"])[0]
    assert case.key == "1-64-64-64-16 N1 tanh nobias xavier seed0 float32/cpu/reverse:eager"


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(BadInput, match="unknown sweep 'nope'"):
        find_sweep("nope")
    with pytest.raises(BadInput, match=r"unknown method 'x\*'; choose from forward:eager"):
        expand(load_sweeps()["quick"], ["cpu"], ["x*"])


GRID = "[a]\ntitle = 't'\ngrid = [{{ {} }}]"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[a", "not valid TOML"),
        ("a = 1", r"table \[a\]: expected a table, got 1"),
        ("[a]\ntitle = 't'\n", "the key 'grid' is missing"),
        ("[a]\ngrid = [{ widths = [2, 3] }]", "the key 'title' is missing"),
        (GRID.format("L = 1, D = 2, K = 3"), "give either widths or all of L, D, K, P"),
        (GRID.format("L = 1, D = 0, K = 3, P = 1"), "widths must be at least 1, got 0"),
        (
            GRID.format("widths = [2, 3], colour = 1"),
            r"unknown key 'grid\[0\]\.colour'; allowed keys: name, L, D, K, P, N, widths, activation",
        ),
        ("[a]\ntitle = 't'\nseconds = -1\ngrid = [{ widths = [2, 3] }]", "seconds: expected a positive number, got -1"),
        (
            GRID.format("L = 1, D = '1,2,3', K = 3, P = 1"),
            r"grid\[0\]\.D: expected a whole number, or a list of them .*got '1,2,3'",
        ),
        (
            GRID.format("widths = [2, 3], activation = 'tahn'"),
            r"grid\[0\]\.activation: unknown activation 'tahn': did you mean 'tanh'",
        ),
        (GRID.format("widths = [2, 3], init = 'xavir'"), r"grid\[0\]\.init: unknown init 'xavir': did you mean 'xavier'"),
        (GRID.format("widths = [2, 3], dtype = 'float23'"), r"grid\[0\]\.dtype: unknown dtype 'float23': did you mean"),
        ("[a]\ntitle = 't'\nexclude = ['*:dens']\ngrid = [{ widths = [2, 3] }]", r"exclude: unknown method '\*:dens'"),
    ],
)
def test_bad_toml(tmp_path, toml, message):
    path = tmp_path / "sweeps.toml"
    path.write_text(toml)
    with pytest.raises(BadInput, match=message):
        load_sweeps(path)
    with pytest.raises(BadInput, match="cannot be read"):
        load_sweeps(tmp_path / "missing.toml")


class TestDrawnProblems:
    def drawn(self, seed, count=60):
        sweep = Sweep.model_validate({"name": "r", "title": "t", "drawn": count})
        return [case.problem for case in expand(sweep, ["cpu"], ["reverse:eager"], seed)]

    def test_a_seed_repeats_the_draw_and_another_is_another(self):
        assert self.drawn(3) == self.drawn(3) != self.drawn(4)
        assert len(self.drawn(3)) == 60

    def test_they_spread_over_the_stated_distribution(self):
        problems = [problem for seed in range(10) for problem in self.drawn(seed)]
        assert all(4 * p.N * p.P * p.D <= 64 * 2**20 for p in problems)
        for low, values in ((1, [p.D for p in problems]), (8, [p.K for p in problems]), (1, [p.P for p in problems])):
            assert low <= min(values) < 2 * low + 1
            assert 900 < max(values) <= 1024
        assert {p.L for p in problems} == set(range(1, 11))

    def test_a_run_draws_anew_and_a_resumed_one_the_same(self, tmp_path):
        sweep, settings = Sweep.model_validate({"name": "r", "title": "t", "drawn": 2}), Settings(devices=("cpu",))
        assert with_seed(settings, sweep, tmp_path, 7) is settings, "the seed asked for"
        assert len({with_seed(settings, sweep, tmp_path, None).seed for _ in range(4)}) == 4
        with contextlib.closing(Journal(tmp_path / "r.journal.jsonl")) as journal:
            journal.append(row(seed=99))
        assert with_seed(replace(settings, resume=True), sweep, tmp_path, None).seed == 99
        assert with_seed(settings, load_sweeps()["depth"], tmp_path, None) is settings, "other sweeps have seed 0"


def test_other_quantities_are_measured_in_the_same_turns():
    cases = expand(load_sweeps()["evaluations"], ["cpu"])
    of_first = [case for case in cases if case.group == cases[0].group]
    assert {case.problem.quantity for case in of_first} == {"jacobian", "value"}
    assert [case.problem.quantity for case in cases[: len(of_first)]] == [case.problem.quantity for case in of_first], "next to each other"
    assert {turn.block for turn in in_turn(of_first)[: len(of_first)]} == {0}
    assert [case.method for case in expand(load_sweeps()["evaluations"], ["cpu"], ["value/*:eager"])] == ["value/evaluation:eager"] * 12


MANY = list(range(1, 1001))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('["/../x"]\ntitle = "x"\ngrid = [{ L = 1, D = 2, K = 3, P = 1 }]', "a sweep is named by at most 80 of a-z, 0-9 and '-'"),
        (
            '[x]\ntitle = "x"\ngrid = [{ L = 2, D = 2, K = 3, P = 1, activation = "tanh;relu;sine" }]',
            "got 3 activations for 2 hidden layers",
        ),
        ('[x]\ntitle = "x"\ngrid = [{ L = true, D = 2, K = 3, P = 1 }]', "got True"),
        ('[x]\ntitle = "x"\nseconds = inf\ngrid = [{ L = 1, D = 2, K = 3, P = 1 }]', "expected a positive number, got inf"),
        ('[x]\ntitle = "x"\nbeside = ["valeu"]\ngrid = [{ L = 1, D = 2, K = 3, P = 1 }]', "did you mean 'value'"),
        ('[x]\ntitle = "x"\ngrid = [{ L = 1000000000, D = 2, K = 3, P = 1 }]', "L must be below 10000"),
        (
            f'[x]\ntitle = "x"\ngrid = [{{ L = 1, D = {list(range(1, 1001))}, K = {list(range(1, 1001))}, P = 1 }}]',
            "1000000 problems are more",
        ),
    ],
)
def test_mistakes_are_one_line_before_anything_is_measured(tmp_path, table, message):
    (tmp_path / "mine.toml").write_text(table)
    with pytest.raises(BadInput) as refused:
        load_sweeps(tmp_path / "mine.toml")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)

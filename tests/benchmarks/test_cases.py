"""Sweeps and cases."""

from itertools import pairwise

import pytest

from benchmarks.errors import BadInput
from benchmarks.workloads.cases import expand, find_sweep, load_sweeps

EXPECTED = {"quick", "depth", "inputs", "width", "outputs", "aspect", "batch", "bottleneck", "notebook"}


def test_the_named_sweeps_are_there():
    assert set(load_sweeps()) >= EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_keys_and_ids_are_unique_and_methods_of_a_problem_are_neighbours(name):
    cases = expand(load_sweeps()[name], ["cpu", "cuda"])
    assert len({case.key for case in cases}) == len({case.id for case in cases}) == len(cases)
    problems = [case.key.rsplit("/", 1)[0] for case in cases]
    changes = sum(a != b for a, b in pairwise(problems))
    assert changes == len(set(problems)) - 1


def test_notebook_shapes():
    shapes = {(c.problem.L, c.problem.D, c.problem.K, c.problem.P, c.init) for c in expand(load_sweeps()["notebook"], ["cpu"])}
    assert shapes == {(3, 1000, 1000, 1, "normal"), (5, 1000, 1000, 1, "normal"), (10, 1000, 1000, 1, "normal"), (10, 2, 30, 10, "normal")}


def test_a_key_is_stable():
    """Journals, CSVs and --resume rely on it: changing it orphans every result."""
    case = expand(load_sweeps()["quick"], ["cpu"], ["reverse:eager"])[0]
    assert case.key == "1-64-64-64-16 N1 tanh nobias xavier seed0 float32/cpu/reverse:eager"


def test_unknown_names_list_the_valid_ones():
    with pytest.raises(BadInput, match="unknown sweep 'nope'; choose from quick, depth"):
        find_sweep("nope")
    with pytest.raises(BadInput, match=r"no method matches 'x\*'; choose from forward:eager"):
        expand(load_sweeps()["quick"], ["cpu"], ["x*"])


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[a", "not valid TOML"),
        ("a = 1", "sweep 'a': "),
        ("[a]\ntitle = 't'\n", "grid: Field required"),
        ("[a]\ntitle = 't'\ngrid = [{ L = 1, D = 2, K = 3 }]", "give either widths or all of L, D, K, P"),
        ("[a]\ntitle = 't'\ngrid = [{ L = 1, D = 0, K = 3, P = 1 }]", "widths must be at least 1, got 0"),
        ("[a]\ntitle = 't'\ngrid = [{ widths = [2, 3], colour = 1 }]", "colour: Extra inputs"),
        ("[a]\ntitle = 't'\nseconds = -1\ngrid = [{ widths = [2, 3] }]", "seconds: .*greater than 0"),
    ],
)
def test_bad_toml(tmp_path, toml, message):
    path = tmp_path / "sweeps.toml"
    path.write_text(toml)
    with pytest.raises(BadInput, match=message):
        load_sweeps(path)
    with pytest.raises(BadInput, match="cannot be read"):
        load_sweeps(tmp_path / "missing.toml")

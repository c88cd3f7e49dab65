"""The study of physics-informed networks, and what every study shares: tables on the disk row by row, options, errors."""

import dataclasses
import math

import pytest
import torch

import studies
from plots import chart as charting
from plots import figures
from plots.charts import pinn as charts
from studies import STUDIES, Options, Study, find_study, pinn, read, run, study


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(pinn, "WIDTHS", (2, 8, 8, 1))
    monkeypatch.setattr(pinn, "POINTS", 40)
    monkeypatch.setattr(pinn, "EDGE", 16)
    monkeypatch.setattr(pinn, "TIMED_BLOCKS", 3)
    monkeypatch.setattr(pinn, "PAUSE_S", 0.0)
    monkeypatch.setattr(pinn, "GRID", 9)


POISSON, BURGERS = pinn.EQUATIONS


@pytest.mark.parametrize("equation", pinn.EQUATIONS, ids=lambda equation: equation.name)
def test_the_exact_solution_solves_the_equation(equation):
    """By central differences; Burgers' front at x = 0 is left out, where they would need a finer step."""
    h = 1e-4
    x = torch.tensor([[0.5, 0.3], [-0.6, 0.4], [0.31, 0.7], [-0.25, 0.15]], dtype=torch.float64)
    e = h * torch.eye(2, dtype=torch.float64)
    u = equation.exact(x)
    ahead, behind = (torch.stack([equation.exact(x + sign * e[d]) for d in range(2)], 1) for sign in (1, -1))
    found = {"u": u}
    for d, name in enumerate(equation.inputs):
        found[f"u_{name}"] = (ahead - behind)[:, d] / (2 * h)
        found[f"u_{name}{name}"] = (ahead + behind)[:, d] / h**2 - 2 * u / h**2
    residual = equation.residual(x, found)
    assert residual.abs().max() < 1e-4


def test_what_is_given_on_the_edge():
    generator = torch.Generator().manual_seed(0)
    square = POISSON.edge(40, generator)
    assert torch.isclose(square.abs().amax(1), torch.ones(40, dtype=torch.float64)).all()
    assert POISSON.exact(square).abs().max() < 1e-12
    start = BURGERS.edge(40, generator)
    at_start = start[:, 1] == 0
    assert at_start.sum() == 20
    torch.testing.assert_close(BURGERS.exact(start[at_start]), -torch.sin(math.pi * start[at_start, 0]), rtol=1e-5, atol=1e-5)
    assert BURGERS.exact(start[~at_start]).abs().max() < 1e-12
    assert {tuple(sorted({float(v) for v in start[~at_start, 0]}))} == {(-1.0, 1.0)}


@pytest.mark.parametrize("equation", pinn.EQUATIONS, ids=lambda equation: equation.name)
def test_both_ways_have_the_same_loss_and_gradient(equation):
    found = []
    for way in pinn.WAYS:
        training = pinn.Training(equation, way, seed=3)
        loss = training.loss()
        found.append((loss.detach(), *torch.autograd.grad(loss, list(training.net.parameters()))))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("way", pinn.WAYS)
def test_every_step_of_either_optimizer_moves_the_parameters(way):
    found = [row for rows in pinn.train(pinn.Training(pinn.EQUATIONS[0], way, seed=0), 3, 60) for row in rows]
    losses, seconds = [row["loss"] for row in found], [row["seconds"] for row in found]
    assert [row["step"] for row in found] == [1, 2, 3, 23, 43, 63]
    assert losses == sorted(set(losses), reverse=True)
    assert seconds == sorted(set(seconds))
    assert [math.isnan(row["error"]) for row in found] == [True, True, False, False, False, False]


def test_the_time_to_an_error_is_that_of_the_first_look_that_shows_it():
    rows = [{"equation": "Poisson", "written": "jac", "error": error, "seconds": s} for s, error in ((1.0, 0.5), (2.0, 0.01), (3.0, 0.02))]
    assert pinn.seconds_to(rows, POISSON, "jac") == 2.0
    assert pinn.seconds_to(rows, POISSON, "autograd") == math.inf


def test_half_of_the_points_gather_at_the_front():
    points = pinn.Training(BURGERS, "jac", seed=0).points
    near = points[:, 0].abs() < 0.1
    assert near[: len(points) // 2].double().mean() > 2 * near[len(points) // 2 :].double().mean()


@pytest.mark.long
def test_a_run_leaves_tables_that_say_the_same(tmp_path):
    tables = run(find_study("pinn"), tmp_path, Options(epochs=4))
    assert {row["optimizer"] for row in tables["pinn"]} == {"Adam", "L-BFGS"}
    again = read(find_study("pinn"), tmp_path)
    assert again is not None
    assert {name: len(rows) for name, rows in again.items()} == {name: len(rows) for name, rows in tables.items()}
    for equation in pinn.EQUATIONS:
        assert pinn.apart(tables["pinn"], equation.name, "Adam") < 1e-8
        middle, low, high = pinn.ratios(again["pinn-times"], equation.name, "float32")
        assert 0 < low <= middle <= high
    sentence = find_study("pinn").conclude(tables)
    assert "a step by autograd takes" in sentence
    for chart in (charts.curves(again), charts.fields(again)):
        assert figures.render(chart, "svg").startswith(b"<?xml")
    other = run(find_study("pinn"), tmp_path / "again", Options(epochs=4))
    assert [row["loss"] for row in other["pinn"]] == [row["loss"] for row in tables["pinn"]]


def test_what_is_interrupted_leaves_readable_tables(tmp_path):
    def rows(options):
        yield "toy", {"step": 0, "loss": 1.0}
        yield "toy", {"step": 1, "loss": 0.5}
        raise KeyboardInterrupt

    toy = Study("toy", "A toy", "What stays?", {"toy": ("step", "loss")}, rows, lambda tables: "")
    with pytest.raises(KeyboardInterrupt):
        run(toy, tmp_path, Options())
    assert read(toy, tmp_path) == {"toy": [{"step": 0.0, "loss": 1.0}, {"step": 1.0, "loss": 0.5}]}
    (tmp_path / "toy.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match="columns a, b, expected step, loss; run the study again"):
        read(toy, tmp_path)
    assert read(toy, tmp_path / "elsewhere") is None


def test_a_loss_that_is_not_finite_ends_the_study_with_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(pinn.Training, "loss", lambda self: next(self.net.parameters()).sum() * math.inf)
    with pytest.raises(ArithmeticError, match="the loss of Poisson became"):
        run(find_study("pinn"), tmp_path, Options(epochs=2))


def test_options_and_names_are_checked(tmp_path):
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        run(find_study("pinn"), tmp_path, Options(epochs=0))
    with pytest.raises(ValueError, match=r"unknown study 'pin'; choose from .*isometry, least-squares, pinn"):
        find_study("pin")
    with pytest.raises(ValueError, match="study 'pinn' is already registered"):
        study.register(STUDIES["pinn"])


def test_the_command_line(tmp_path, monkeypatch, command):
    printed = command("study", "pinn", "--epochs", "1", "--out", tmp_path)
    assert f"wrote {tmp_path / 'pinn.csv'}" in printed.out
    assert "a step by autograd takes" in printed.out
    assert "pinn started" in printed.err
    assert "pinn" in command("list", "studies").out
    given = {}
    monkeypatch.setattr(studies, "run", lambda study, out, options: given.update({study.name: (options.data, options.data_dir)}) or {})
    monkeypatch.setattr(charting, "study_charts", lambda name, tables: [])
    for name, one in STUDIES.items():
        monkeypatch.setitem(STUDIES, name, dataclasses.replace(one, conclude=lambda tables: "", checks=lambda tables: []))
    command("study", "all", "--data", "mnist", "--data-dir", tmp_path)
    assert set(given) == set(STUDIES)
    for name, options in given.items():
        assert options == (("mnist", tmp_path) if "mnist" in STUDIES[name].data else (None, None)), name
    assert "did you mean 'pinn'" in command("study", "pin", status=2).err

"""Piecewise linear functions as networks, least squares, and singular values: against what is written out, iterated, and integrated."""

import math
from itertools import pairwise

import pytest
import torch

import jacobians as jac
from plots import figures
from plots.chart import study_charts
from plots.charts import isometry as isometry_chart
from plots.charts import least_squares as least_squares_chart
from plots.charts import representation as representation_chart
from studies import Options, activations, find_study, isometry, least_squares, representation, run
from studies.piecewise import Piecewise, to_network

X = torch.linspace(-20, 20, 10_001, dtype=torch.float64)[:, None]


def by_pieces(f, x):
    """The function from its definition: a line between neighbours, by interpolation of values at the kinks."""
    values = [f.value]
    for (a, b), slope in zip(pairwise(f.kinks), f.slopes[1:], strict=False):
        values.append(values[-1] + slope * (b - a))
    index = torch.bucketize(x, torch.tensor(f.kinks, dtype=x.dtype))
    at = (index - 1).clamp_min(0)
    return torch.tensor(values, dtype=x.dtype)[at] + torch.tensor(f.slopes, dtype=x.dtype)[index] * (
        x - torch.tensor(f.kinks, dtype=x.dtype)[at]
    )


CASES = [
    (Piecewise((-1.0, 0.0, 1.0), (0.0, 1.0, -1.0, 0.0), 0.0), 3),  # level at the left: every unit points right
    (Piecewise((-1.0, 1.0), (1.0, 0.0, 1.0), 0.0), 2),  # the first change is minus the slope at the left
    (Piecewise((0.0,), (-1.0, 0.0), 0.0), 1),
    (Piecewise((0.0,), (-1.0, 1.0), 0.0), 2),  # |x| bends once, and needs two units
    (Piecewise((0.0, 1.0, 3.0), (0.3, -2.0, 1.7, 0.9), 4.0), 4),
    (Piecewise((0.0, 1.0, 3.0), (0.5, -2.0, 2.0, 1.5), 4.0), 3),  # the last change, -0.5
]


@pytest.mark.parametrize(("f", "units"), CASES)
def test_values_slopes_and_the_number_of_units(f, units):
    net = to_network(f)
    assert net.widths == (1, units, 1)
    torch.testing.assert_close(net(X), by_pieces(f, X), rtol=0, atol=1e-13)
    torch.testing.assert_close(f(X), by_pieces(f, X), rtol=0, atol=1e-13)
    away = (X[:, 0, None] - torch.tensor(f.kinks, dtype=X.dtype)).abs().amin(1) > 1e-9
    torch.testing.assert_close(jac.jacobian(net, X)[away, 0, 0], f.slope(X[:, 0])[away], rtol=0, atol=1e-13)


def test_lines_and_points():
    level, line = Piecewise((), (0.0,), 3.0), Piecewise((), (2.0,), 3.0)
    assert to_network(level).widths == (1, 1, 1)
    assert to_network(line).widths == (1, 2, 1)
    for f in (level, line):
        torch.testing.assert_close(to_network(f)(X), f(X), rtol=0, atol=1e-13)
    joined = Piecewise.through([(0, 0), (1, 1), (2, 2), (3, 0)])
    assert (joined.kinks, joined.slopes) == ((2,), (1.0, -2.0))
    torch.testing.assert_close(joined(torch.tensor([0.0, 1.0, 2.0, 3.0])), torch.tensor([0.0, 1.0, 2.0, 0.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Piecewise((0.0,), (1.0,), 0.0), "1 kinks need 2 slopes, got 1"),
        (lambda: Piecewise((1.0, 0.0), (1.0, 2.0, 3.0), 0.0), "kinks must ascend"),
        (lambda: Piecewise.through([(0, 0)]), "a line needs two points, got 1"),
        (lambda: Piecewise.through([(0, 0), (0, 1)]), "x must ascend"),
    ],
)
def test_what_is_no_function_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_closed_form_is_the_iteration():
    X, y, start = least_squares.data(3)
    w = start.clone()
    for k in range(1, 30):
        w = w - 0.004 * X.mT @ (X @ w - y)
        torch.testing.assert_close(least_squares.closed_form(X, y, start, 0.004, k), w, rtol=1e-11, atol=1e-13)
    flat = torch.zeros(4, 2, dtype=torch.float64)  # where XᵀX has no inverse nothing moves
    assert torch.equal(least_squares.closed_form(flat, y[:4], start[:2], 0.1, 7), start[:2])


@pytest.mark.long
def test_the_border_of_convergence(tmp_path):
    tables = run(find_study("least-squares"), tmp_path, Options())
    for row in tables["least-squares"]:
        assert row["converges"] == (row["share"] < 1)
        assert row["worst_difference"] < 1e-10
    assert "those up to 0.999 come nearer in the second half of the steps and those from 1.001 on go away" in find_study(
        "least-squares"
    ).conclude(tables)
    slow, fast = tables["least-squares-absolute"]
    assert -1e-12 < fast["above"] < 1e-6 < slow["above"] < 0.01
    assert fast["distance"] < 1e-6
    assert figures.render(least_squares_chart.chart_of(tables), "svg").startswith(b"<?xml")


def test_a_short_run_in_which_every_step_size_converges_is_told():
    tables = {
        "least-squares": [{"share": 0.5, "converges": 1, "worst_difference": 1e-15}],
        "least-squares-absolute": [{"above": 1e-3, "rule": "0.02", "steps": 4}],
    }
    sentence = find_study("least-squares").conclude(tables)
    assert "those up to 0.5 come nearer in the second half of the steps. 4 subgradients" in sentence


def test_the_linear_program_has_the_optimum_of_least_absolute_deviations():
    X, y, _ = least_squares.data(1)
    w, least = least_squares.least_absolute(X, y)
    assert float((X @ w - y).abs().sum()) == pytest.approx(least, rel=1e-12)
    met = (X @ w - y).abs() < 1e-10
    assert int(met.sum()) == X.shape[1], "a vertex goes through as many samples as there are features"
    # 0 is a subgradient: weights in [-1, 1] of the samples that are met make up for the signs of the others.
    weights = torch.linalg.solve(X[met].mT, -X[~met].mT @ (X[~met] @ w - y[~met]).sign())
    assert float(weights.abs().max()) <= 1


def test_the_representations_are_exact(tmp_path):
    tables = run(find_study("representation"), tmp_path, Options())
    found = {row["function"]: row for row in tables["representation"]}
    assert {name: row["units"] for name, row in found.items()} == {
        "tent": 2,
        "soft threshold, s = 0": 2,
        "soft threshold, s = 0.5": 2,
        "soft threshold, s = 2": 2,
        "data set 1": 4,
        "data set 2": 3,
    }
    for row in found.values():
        assert row["value_error"] < 1e-12
        assert row["slope_error"] < 1e-12
    for name, points in (("data set 1", 13), ("data set 2", 11)):
        assert (found[name]["points"], found[name]["point_error"], found[name]["published_met"]) == (points, 0, 0)
    assert figures.render(representation_chart.chart_of(tables), "svg").startswith(b"<?xml")
    again = run(find_study("representation"), tmp_path / "again", Options())
    assert again == tables


def test_the_tent_is_that_of_the_exercise():
    """Two units and a ReLU at the output: ReLU(1 - ReLU(2x - 1) - ReLU(1 - 2x)), and 0 outside [0, 1]."""
    tent = next(representation.shapes()).network()
    assert (tent.widths, tent.output_activation) == ((1, 2, 1), "relu")
    torch.testing.assert_close(tent(X), torch.relu(1 - torch.relu(2 * X - 1) - torch.relu(1 - 2 * X)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("s", [0.0, 0.3, 1.0, 7.5])
def test_the_soft_threshold_is_two_units(s):
    net = to_network(representation.soft_threshold(s))
    assert net.widths == (1, 2, 1)
    torch.testing.assert_close(net(X), X.sign() * (X.abs() - s).clamp_min(0), rtol=0, atol=1e-14)


def test_a_negative_threshold_is_refused():
    with pytest.raises(ValueError, match="a threshold must be at least 0, got -1"):
        representation.soft_threshold(-1)


@pytest.mark.parametrize("gain", isometry.GAINS)
def test_mean_field_theory_is_what_integration_gives(gain):
    theory = isometry.mean_field(gain, 0.5)
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / (2 * torch.pi) ** 0.5
    value = torch.tanh(0.5**0.5 * z)
    slope = 1 / torch.cosh(0.5**0.5 * z) ** 2
    first, second = (float(torch.trapezoid(density * slope**power, z)) for power in (2, 4))
    assert theory.weight_variance * first == pytest.approx(gain, rel=1e-9)
    kept = theory.weight_variance * float(torch.trapezoid(density * value**2, z)) + theory.bias_variance
    assert kept == pytest.approx(0.5, rel=1e-9)
    assert theory.relative_variance(3, "orthogonal") == pytest.approx(3 * (second / first**2 - 1), rel=1e-8)
    assert theory.relative_variance(3, "Gaussian") == pytest.approx(3 * second / first**2, rel=1e-8)
    assert theory.mean(7) == gain**7


def test_a_gain_that_no_biases_give_is_refused():
    with pytest.raises(ValueError, match="take a smaller gain"):
        isometry.mean_field(1.2, 0.5)


@pytest.mark.parametrize("weights", isometry.WEIGHTS)
def test_drawn_networks_are_those_of_the_theory(weights):
    theory = isometry.mean_field(1.0, 0.5)
    drawn = isometry.draw(4, 400, weights, torch.Generator().manual_seed(2))
    mlp, x = drawn.network(theory, 4), drawn.input(theory)
    if weights == "orthogonal":
        W = mlp.weights[0].double()
        torch.testing.assert_close(W @ W.mT, theory.weight_variance * torch.eye(400, dtype=torch.float64), rtol=0, atol=1e-5)
    h = x
    for W, b in zip(mlp.weights, mlp.biases, strict=True):
        z = W @ h + b
        assert float(z.square().mean()) == pytest.approx(theory.variance, rel=0.2)
        h = z.tanh()
    J = torch.autograd.functional.jacobian(mlp, x)
    mean, square = isometry.moments(J)
    first = torch.autograd.functional.jacobian(lambda x: torch.tanh(mlp.weights[0] @ x + mlp.biases[0]), x)
    assert isometry.means_by_slopes(theory, mlp, x)[0] == pytest.approx(isometry.moments(first)[0], rel=0.02)
    values = torch.linalg.svdvals(J.double()).square()
    assert mean == pytest.approx(float(values.mean()), rel=1e-6)
    assert square == pytest.approx(float(values.square().mean()), rel=1e-6)
    assert square / mean**2 - 1 == pytest.approx(theory.relative_variance(4, weights), rel=0.1)


def test_the_study_of_isometry(tmp_path, monkeypatch):
    monkeypatch.setattr(isometry, "WIDTH", 60)
    monkeypatch.setattr(isometry, "DEPTHS", (1, 2, 10))
    tables = run(find_study("isometry"), tmp_path, Options(epochs=2))
    assert [row["depth"] for row in tables["isometry"]] == [1, 2, 10] * 6
    assert {row["depth"] for row in tables["isometry-spectra"]} == {2, 10}
    sentence = find_study("isometry").conclude(tables)
    assert "up to 10 with Gaussian weights" in sentence
    assert "with orthogonal weights" in sentence
    assert figures.render(isometry_chart.chart_of(tables), "svg").startswith(b"<?xml")
    assert run(find_study("isometry"), tmp_path / "again", Options(epochs=2)) == tables


class TestActivations:
    def test_the_derivatives_are_differences(self):
        z = torch.tensor([-3.1, -0.7, 0.4, 2.3], dtype=torch.float64)
        for name in activations.RULES:
            found = activations.derivatives(name, z)
            for order in range(3):
                plus, minus = (activations.derivatives(name, z + h)[order] for h in (1e-5, -1e-5))
                torch.testing.assert_close((plus - minus) / 2e-5, found[order + 1], rtol=1e-6, atol=1e-7)

    def test_a_wrong_derivative_would_be_seen(self, monkeypatch):
        assert max(row["worst_difference"] for row in activations._curves()) < 1e-12
        right = activations.derivatives
        monkeypatch.setattr(activations, "derivatives", lambda name, z: (*right(name, z)[:3], right(name, z)[3] + 1e-6))
        assert all(row["worst_difference"] > 1e-7 for row in activations._curves())

    def test_singular_values_and_gradients_are_autograds(self):
        mlp = jac.MLP.random(widths=[4, 5, 3], activation="gelu", bias=True, seed=1, dtype=torch.float64)
        x, target = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
        J = torch.func.vmap(torch.func.jacrev(mlp))(x)
        W = mlp.weights[0].clone().requires_grad_()
        h = torch.nn.functional.gelu(x @ W.mT + mlp.biases[0])
        torch.nn.functional.cross_entropy(h @ mlp.weights[1].mT + mlp.biases[1], target).backward()
        expected = (float(torch.linalg.svdvals(J)[:, 0].mean()), float(W.grad.norm()))
        assert activations.of_network(mlp, x, target) == pytest.approx(expected, rel=1e-9)
        beyond = jac.MLP([torch.full((3, 4), 1e5, dtype=torch.float64), torch.eye(3, dtype=torch.float64)], activation="exp")
        assert activations.of_network(beyond, x.abs(), target) == (math.inf, math.inf)

    def test_what_a_gradient_does_with_depth(self):
        def fate(*norms):
            rows = [{"activation": "relu", "weights": "He", "depth": d, "gradient_norm": n} for d, n in enumerate(norms, 1)]
            return activations.survival(rows, "relu", "He")

        assert fate(2.0, 1.0, 1e-3) == ("vanishes", 3)
        assert fate(2.0, 1.0, 2.1e-3) == ("kept", 3)
        assert fate(2.0, 3e3, 0.0) == ("explodes", 2)
        assert fate(2.0, math.inf) == ("explodes", 2)

    @pytest.mark.long
    def test_the_study(self, tmp_path, monkeypatch):
        monkeypatch.setattr(activations, "SHAPES", ((2, 4, 4, 3), (3, 5, 2)))
        monkeypatch.setattr(activations, "DEPTHS", (1, 3, 12))
        tables = run(find_study("activations"), tmp_path, Options(epochs=2))
        names = list(activations.RULES)
        assert list(dict.fromkeys(row["activation"] for row in tables["activations"])) == names
        assert [row["activation"] for row in tables["activations-times"]] == ["torch.exp", *names] * 2
        assert activations.survival(tables["activations-depth"], "sigmoid", "Xavier") == ("vanishes", 12)
        assert activations.survival(tables["activations-depth"], "relu", "He") == ("kept", 12)
        rows = {row["depth"]: row for row in tables["activations-depth"] if (row["activation"], row["weights"]) == ("identity", "Xavier")}
        assert 0.1 < rows[12]["gradient_norm"] / rows[1]["gradient_norm"] < 10
        assert "sigmoid 12" in find_study("activations").conclude(tables)
        for chart in study_charts("activations", tables):
            assert figures.render(chart, "svg").startswith(b"<?xml")
        again = run(find_study("activations"), tmp_path / "again", Options(epochs=2))
        assert {name: again[name] for name in ("activations", "activations-depth")} == {
            name: tables[name] for name in ("activations", "activations-depth")
        }

    def test_the_number_of_threads_is_put_back(self):
        threads = torch.get_num_threads()
        list(activations._timed((2, 3, 2), 1, 0))
        assert torch.get_num_threads() == threads

"""Piecewise linear functions as networks, and least squares: against functions written out, and against iterating."""

from itertools import pairwise

import pytest
import torch

import jacobians as jac
from plots import figures
from plots.charts import least_squares as least_squares_chart
from plots.charts import representation as representation_chart
from studies import Options, find_study, least_squares, run
from studies.piecewise import Piecewise, to_network
from studies.representation import FUNCTIONS

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


def test_the_border_of_convergence(tmp_path):
    tables = run(find_study("least-squares"), tmp_path, Options())
    for row in tables["least-squares"]:
        assert row["converges"] == (row["share"] < 1)
        assert row["worst_difference"] < 1e-10
    assert "those up to 0.999 come nearer in the second half of the steps and those from 1.001 on go away" in find_study(
        "least-squares"
    ).conclude(tables)
    assert figures.render(least_squares_chart.chart_of(tables), "svg").startswith(b"<?xml")


def test_the_representations_are_exact(tmp_path):
    tables = run(find_study("representation"), tmp_path, Options())
    assert [row["function"] for row in tables["representation"]] == list(FUNCTIONS)
    for row in tables["representation"]:
        assert row["value_error"] < 1e-12
        assert row["slope_error"] < 1e-12
    assert figures.render(representation_chart.chart_of(tables), "svg").startswith(b"<?xml")
    again = run(find_study("representation"), tmp_path / "again", Options())
    assert again == tables

"""The value alone, by every method: y = f(x), and nothing of J."""

import pytest
import torch

import jacobians as jac
from tests.cases import for_each, network, pairs

METHODS = [m.name for m in jac.methods(quantity="value") if m.device in {None, "cpu"} and m.implementation != "torch.compile"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_the_network(method):
    def check(widths, output, batch, dtype):
        mlp, x = network(widths, batch=batch, dtype=dtype, bias=True, output_activation=output)
        plan = jac.plan(mlp, x, method, quantity="value")
        first = plan(x)
        torch.testing.assert_close(first, (mlp(x),))
        plan(x + 1)
        torch.testing.assert_close(first, (mlp(x),))

    shapes = (4, 3), (2, 30, 7, 5), (300, 70, 200, 1)
    for_each(pairs(shapes, ["identity", "sigmoid", "softmax"], [None, 5], [torch.float32, torch.float64]), check)


@pytest.mark.needs_compiler
def test_what_is_not_finite_is_nan_or_infinite_as_in_torch():
    mlp, x = network((3, 8, 2), bias=True, activation="relu", dtype=torch.float64)
    x[1] = torch.nan
    assert jac.plan(mlp, x, "value/evaluation:native", quantity="value")(x)[0].isnan().all()

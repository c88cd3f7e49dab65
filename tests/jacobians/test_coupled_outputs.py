"""Softmax and log-softmax outputs, whose slope is `diag(p) - p pᵀ` and no diagonal, through every method."""

import itertools

import pytest
import torch
from torch import nn

import jacobians as jac
from jacobians.network.coupled import OUTPUTS
from jacobians.planning.inputs import problem_of
from tests.cases import OURS as OURS_OF_J
from tests.cases import PEERS, for_each, network, pairs, served
from tests.jacobians.test_quantity_methods import OURS, check
from tests.oracles import autograd, relative_error


@pytest.mark.parametrize("method", OURS_OF_J)
def test_every_method_of_ours(method):
    shapes = (3, 4), (6, 5, 1, 4, 7), (3, 8, 8, 5), (12, 20, 2, 20, 12), (4, 6, 1)
    cases = pairs([*OUTPUTS, "softmax(scale=3.0)"], shapes, [None, 1, 5])
    for_each(cases, lambda output, widths, batch: check_jacobian(method, output, widths, batch))


@pytest.mark.parametrize("method", PEERS)
def test_every_peer(method):
    refusal = "is no diagonal matrix" if ":notebook" in method else "the trick needs one output" if method == "reverse:sum-trick" else None
    for_each(itertools.product(OUTPUTS, [None, 5]), lambda output, batch: check_jacobian(method, output, (3, 8, 8, 5), batch, refusal))


def check_jacobian(method, output, widths, batch, refusal=None):
    mlp, x = network(widths, batch=batch, bias=True, output_activation=output)
    if not served(method, problem_of(mlp, x), refusal):
        return
    y, J = jac.value_and_jacobian(mlp, x, method)
    exact = autograd(mlp, x)
    assert J.shape == exact.shape
    assert (J - exact).abs().max() < 1e-12  # of one output the exact J is 0
    torch.testing.assert_close(y, mlp(x))


@pytest.mark.parametrize("output", OUTPUTS)
def test_factors_and_the_planner(output):
    mlp, x = network((12, 20, 2, 20, 12), batch=5, output_activation=output)
    assert relative_error(jac.jacobian(mlp, x, factored=True).dense(), autograd(mlp, x)) < 1e-12
    assert relative_error(jac.jacobian(mlp, x), autograd(mlp, x)) < 1e-12
    with pytest.raises(ValueError, match=f"max_bytes cannot bound J behind {output}"):
        jac.jacobian(mlp, x, max_bytes=2**30)


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_derivatives_with_respect_to_parameters(method, output):
    reason = jac.find_method(method).unsupported(jac.Problem(widths=(4, 6, 3), batch=5, output_activation=output, loss="mse"))
    assert reason is None or f"has no {output} in C" in reason or "needs a C compiler" in reason
    if reason is None:
        check(method, (4, 6, 5, 3), 7, jac.Loss("mse", "sum"), output=output)


def test_the_slope_by_hand():
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    mlp = jac.MLP([torch.eye(3, dtype=torch.float64)], output_activation="softmax")
    J = jac.jacobian(mlp, p.log())
    torch.testing.assert_close(J, torch.diag(p) - torch.outer(p, p))


@pytest.mark.parametrize("module", [nn.Softmax(dim=-1), nn.Softmax(dim=1), nn.LogSoftmax(dim=-1)], ids=str)
def test_torch_modules(module):
    torch.default_generator.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), module)
    mlp, x = jac.MLP.from_torch(net), torch.randn(6, 3)
    torch.testing.assert_close(mlp(x), net(x).detach())
    torch.testing.assert_close(jac.jacobian(mlp, x), autograd(mlp, x).float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(mlp.to_torch()(x), net(x))


def test_refused():
    with pytest.raises(ValueError, match="softmax couples all neurons of a layer, and can only be the output activation"):
        jac.MLP.random(L=1, D=2, K=3, P=2, activation="softmax")
    with pytest.raises(ValueError, match="softmax: dim must be that of the outputs, -1 or 1, got 0"):
        jac.MLP.from_torch(nn.Sequential(nn.Linear(3, 5), nn.Softmax(dim=0)))

"""create_graph=True gives a J that can be back-propagated through, to x and to the weights."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import jacobians as jac
from tests.cases import ALL

METHODS = [method.name for method in jac.methods() if method.differentiable]


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "gelu"])
@pytest.mark.parametrize("method", METHODS)
def test_second_derivatives(method, activation):
    batch = 3 if activation in {"sigmoid", "gelu"} else None
    outputs = 1 if method == "reverse:sum-trick" else 2
    template = jac.MLP.random(widths=(2, 4, 3, outputs), activation=activation, output_activation="tanh", bias=True, dtype=torch.float64)
    x = torch.randn(*(() if batch is None else (batch,)), 2, dtype=torch.float64, requires_grad=True)
    parameters = [t.clone().requires_grad_() for t in (*template.weights, *template.biases)]

    def J(x, *parameters):
        mlp = jac.MLP(parameters[:3], parameters[3:], activation, "tanh")
        return jac.jacobian(mlp, x, method=method, create_graph=True)

    assert gradcheck(J, (x, *parameters), fast_mode=True)
    if method.endswith(":eager"):
        assert gradgradcheck(J, (x, *parameters), fast_mode=True)


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_of_a_jacobian_norm_reaches_shared_modules(method):
    outputs = 1 if method == "reverse:sum-trick" else 2
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, outputs)).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    jac.jacobian(jac.MLP.from_torch(net), x, method=method, create_graph=True).square().sum().backward()
    hand = net[0].weight.grad.clone()
    net.zero_grad()
    per_sample = torch.autograd.functional.jacobian(lambda x: net(x).sum(0), x, create_graph=True)
    per_sample.square().sum().backward()
    torch.testing.assert_close(hand, net[0].weight.grad)


@pytest.mark.parametrize("method", ALL)
def test_without_it_no_graph_is_kept(method):
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    mlp = jac.MLP.from_torch(net)
    y, J = jac.value_and_jacobian(mlp, torch.ones(3), method=method)
    assert not J.requires_grad
    assert not y.requires_grad


def test_a_method_that_cannot_says_so():
    mlp = jac.MLP.random(L=1, D=2, K=3, P=2)
    with pytest.raises(ValueError, match=r"forward:jax does not support create_graph=True; use method='auto'"):
        jac.jacobian(mlp, torch.ones(2), method="forward:jax", create_graph=True)
    assert jac.jacobian(mlp, torch.ones(2).requires_grad_(), create_graph=True).requires_grad

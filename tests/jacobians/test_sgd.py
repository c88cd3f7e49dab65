"""The update of torch.optim.SGD, step by step."""

import pytest
import torch
from torch import nn

import jacobians as jac
from tests.jacobians.test_quantities import case


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"weight_decay": 0.01}, {"momentum": 0.5, "weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_two_hundred_steps_are_torchs(options, bias):
    mlp, x, target = case((4, 8, 8, 3), bias, loss="cross_entropy")
    net = mlp.to_torch()
    theirs, ours = torch.optim.SGD(net.parameters(), lr=0.05, **options), jac.SGD(mlp, 0.05, **options)
    for _ in range(200):
        theirs.zero_grad()
        nn.functional.cross_entropy(net(x), target).backward()
        theirs.step()
        ours.step(jac.gradient(mlp, x, target, "cross_entropy"))
    torch.testing.assert_close(list(mlp.parameters()), [p.detach() for p in net.parameters()], rtol=1e-9, atol=1e-11)


def test_a_modules_own_parameters_move_and_shared_ones_once():
    torch.manual_seed(0)
    layer = nn.Linear(3, 3).double()
    net = nn.Sequential(layer, nn.Tanh(), layer)
    other = nn.Sequential(copied := nn.Linear(3, 3).double(), nn.Tanh(), copied)
    other.load_state_dict(net.state_dict())
    x, target = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    mlp = jac.MLP.from_torch(net)
    ours, theirs = jac.SGD(mlp, 0.1, momentum=0.9), torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        ours.step(jac.gradient(mlp, x, target))
        theirs.zero_grad()
        nn.functional.mse_loss(other(x), target).backward()
        theirs.step()
    torch.testing.assert_close(net.state_dict(), other.state_dict())


def test_refused():
    mlp, x, target = case((4, 8, 3))
    with pytest.raises(ValueError, match="lr must be finite and at least 0, got -1"):
        jac.SGD(mlp, -1)
    with pytest.raises(TypeError, match="momentum must be a number"):
        jac.SGD(mlp, 0.1, momentum="much")
    other, _, _ = case((4, 7, 3))
    with pytest.raises(ValueError, match="the gradient is of another network"):
        jac.SGD(other, 0.1).step(jac.gradient(mlp, x, target))
    biasless, _, _ = case((4, 8, 3), bias=False)
    with pytest.raises(ValueError, match="the gradient is of another network"):
        jac.SGD(biasless, 0.1).step(jac.gradient(mlp, x, target))

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
    torch.default_generator.manual_seed(0)
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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.5, "weight_decay": 0.1},
        *(pytest.param(one, marks=pytest.mark.long) for one in ({"momentum": 0.9}, {"weight_decay": 0.01})),
    ],
    ids=str,
)
@pytest.mark.parametrize(("batch", "bias"), [(6, True), (1, False), (None, True), (80, True)])
def test_two_hundred_fused_steps_are_torchs(options, batch, bias):
    mlp, x, target = case((4, 8, 8, 3), bias, loss="cross_entropy", batch=batch)
    net = mlp.to_torch()
    theirs, ours = torch.optim.SGD(net.parameters(), lr=0.05, **options), jac.SGD(mlp, 0.05, **options)
    for _ in range(200):
        theirs.zero_grad()
        loss = nn.functional.cross_entropy(net(x), target)
        loss.backward()
        theirs.step()
        torch.testing.assert_close(ours.minimize(x, target, "cross_entropy"), loss.detach(), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(list(mlp.parameters()), [p.detach() for p in net.parameters()], rtol=1e-9, atol=1e-11)


def test_fused_and_separate_steps_share_their_momentum():
    one, x, target = case((4, 8, 3))
    other, _, _ = case((4, 8, 3))
    fused, separate = jac.SGD(one, 0.1, momentum=0.9), jac.SGD(other, 0.1, momentum=0.9)
    for index in range(6):
        separate.step(jac.gradient(other, x, target))
        if index % 2:
            fused.minimize(x, target)
        else:
            fused.step(jac.gradient(one, x, target))
    torch.testing.assert_close(list(one.parameters()), list(other.parameters()))


def test_fused_steps_where_the_kernel_may_not_write():
    torch.default_generator.manual_seed(0)
    layer = nn.Linear(3, 3).double()
    net = nn.Sequential(layer, nn.Tanh(), layer)  # a shared tensor is updated once
    x, target = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    other = jac.MLP([layer.weight.detach().clone()] * 2, [layer.bias.detach().clone()] * 2)
    jac.SGD(jac.MLP.from_torch(net), 0.1, weight_decay=0.5).minimize(x, target)
    jac.SGD(other, 0.1, weight_decay=0.5).step(jac.gradient(other, x, target))
    torch.testing.assert_close(layer.weight.detach(), other.weights[0])
    strided = jac.MLP([torch.randn(3, 4).double().T], None)  # not contiguous: a copy would be updated in its place
    before = strided.weights[0].clone()
    jac.SGD(strided, 0.1).minimize(x, torch.randn(5, 4).double())
    assert not torch.equal(before, strided.weights[0])


def test_autograd_notices_a_fused_step():
    net = nn.Sequential(nn.Linear(3, 2))
    x = torch.randn(4, 3, requires_grad=True)
    loss = net(x).sum()
    jac.SGD(jac.MLP.from_torch(net), 0.1).minimize(x.detach(), torch.zeros(4, 2))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()

"""Gradients through batch norms, against autograd and torch's own running statistics."""

import copy

import pytest
import torch
from torch import nn

import jacobians as jac
from tests.jacobians.test_losses import TORCH

NETS = {
    "behind a linear layer": lambda: nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)),
    "before a linear layer": lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 7), nn.ReLU(), nn.BatchNorm1d(7), nn.Linear(7, 3)),
    "two in a row": lambda: nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.BatchNorm1d(7), nn.GELU(), nn.Linear(7, 3)),
    "without parameters": lambda: nn.Sequential(nn.Linear(4, 7, bias=False), nn.BatchNorm1d(7, affine=False), nn.SiLU(), nn.Linear(7, 3)),
    "an average of all batches": lambda: nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(7, momentum=None), nn.Tanh(), nn.Linear(7, 3)),
    "without running statistics": lambda: nn.Sequential(
        nn.Linear(4, 7), nn.BatchNorm1d(7, track_running_stats=False), nn.Tanh(), nn.Linear(7, 3)
    ),
    "none": lambda: nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3)),
    "softmax": lambda: nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3), nn.Softmax(dim=-1)),
}


def nets(name, training):
    torch.default_generator.manual_seed(0)
    net = NETS[name]().double().train(training)
    for layer in net:
        if isinstance(layer, nn.BatchNorm1d) and layer.affine:
            nn.init.uniform_(layer.weight, 0.5, 2.0)
            nn.init.normal_(layer.bias)
    return net, copy.deepcopy(net)


@pytest.mark.parametrize("loss", ["mse", "l1", "cross_entropy"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("name", NETS)
def test_is_autograds_and_moves_the_same_statistics(name, training, loss):
    ours, theirs = nets(name, training)
    for step in range(3):  # the statistics of one batch stand in the next
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        target = torch.randint(3, (6,)) if loss == "cross_entropy" else torch.randn(6, 3, dtype=torch.float64)
        g = jac.module_gradient(ours, x, target, loss, inputs=True)
        leaf = x.clone().requires_grad_()
        value = TORCH[loss](theirs(leaf), target)
        theirs.zero_grad()
        value.backward()
        torch.testing.assert_close(g.loss, value.detach())
        assert g.x is not None
        torch.testing.assert_close(g.x, leaf.grad)
        torch.testing.assert_close(g.parameters, {key: p.grad for key, p in theirs.named_parameters()})
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_what_a_batch_norm_takes_out_is_not_pulled_back():
    """Closed form: the outputs of a batch norm have mean 0 and variance 1, so a cotangent along either is pulled back to 0."""
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3, affine=False, eps=1e-30)).double()
    x = torch.randn(8, 3).double()
    along_the_mean = jac.module_gradient(net, x, net(x).detach() - 1.0, jac.Loss("mse", "sum"), inputs=True)
    assert along_the_mean.x is not None
    assert along_the_mean.x.abs().max() < 1e-12
    along_itself = jac.module_gradient(net, x, torch.zeros(8, 3).double(), jac.Loss("mse", "sum"), inputs=True)
    assert along_itself.x is not None
    assert along_itself.x.abs().max() < 1e-12


def test_shared_layers_get_the_sum():
    torch.default_generator.manual_seed(0)
    layer = nn.Linear(3, 3)
    net = nn.Sequential(layer, nn.Tanh(), layer)
    x, target = torch.randn(5, 3), torch.randn(5, 3)
    nn.functional.mse_loss(net(x), target).backward()
    torch.testing.assert_close(jac.module_gradient(net, x, target).parameters["0.weight"], layer.weight.grad)


def test_refused():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="batch norm in training mode needs more than one sample, got 1"):
        jac.module_gradient(net, torch.ones(1, 3), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"x must be a tensor of shape \(N, 3\), got \(5, 2\)"):
        jac.module_gradient(net, torch.ones(5, 2), torch.ones(5, 2))
    with pytest.raises(TypeError, match=r"x is torch\.float64 on cpu, the module torch\.float32"):
        jac.module_gradient(net, torch.ones(5, 3).double(), torch.ones(5, 2))
    with pytest.raises(ValueError, match="is random in training mode"):
        jac.module_gradient(nn.Sequential(nn.Linear(3, 4), nn.Dropout()), torch.ones(5, 3), torch.ones(5, 4))
    with pytest.raises(ValueError, match=r"couples the samples of a batch.*or take jacobians\.module_gradient"):
        jac.MLP.from_torch(net)

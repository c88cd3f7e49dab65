"""Gradients, parameter Jacobians and tangent kernels against autograd, torch.func and closed forms."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

import jacobians as jac
from jacobians.network.losses import RULES
from tests import oracles
from tests.cases import for_each, network, pairs
from tests.jacobians.test_losses import TORCH

WIDTHS = {"one layer": (3, 4), "deep": (4, 6, 5, 3), "bottleneck": (5, 7, 1, 6)}


def case(widths, bias=True, loss="mse", batch=6, activation="tanh"):
    output = "sigmoid" if loss == "bce" else "identity"
    mlp, x = network(widths, batch=batch, bias=bias, activation=activation, output_activation=output)
    generator = torch.Generator().manual_seed(9)
    shape = (*x.shape[:-1], widths[-1])
    if loss == "cross_entropy":
        return mlp, x, torch.randint(widths[-1], shape[:-1], generator=generator)
    return mlp, x, torch.rand(shape, generator=generator, dtype=x.dtype)


def by_autograd(mlp, x, target, loss, reduction="mean"):
    """The loss and the gradients of a copy of the network by torch."""
    net = mlp.to_torch()
    leaf = x.clone().requires_grad_()
    value = TORCH[loss](net(leaf), target, reduction=reduction)
    value.sum().backward()
    return value.detach(), [p.grad for p in net.parameters()], leaf.grad


def flat(weights, biases):
    return [t for pair in zip(weights, biases, strict=True) for t in pair if t is not None]


class TestGradient:
    @pytest.mark.parametrize("loss", RULES)
    def test_is_autograds(self, loss):
        def check(widths, bias, batch):
            mlp, x, target = case(widths, bias, loss, batch)
            g = jac.gradient(mlp, x, target, loss, inputs=True)
            value, parameters, inputs = by_autograd(mlp, x, target, loss)
            torch.testing.assert_close(g.loss, value)
            torch.testing.assert_close(flat(g.weights, g.biases), parameters)
            torch.testing.assert_close(g.x, inputs)
            assert jac.gradient(mlp, x, target, loss).x is None

        for_each(pairs(WIDTHS.values(), [False, True], [None, 1, 6]), check)

    @pytest.mark.parametrize("activation", ["sigmoid", "relu", "leaky_relu(negative_slope=0.2)", "gelu", "sine(omega=3.0)", "identity"])
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_activations_and_reductions(self, activation, reduction):
        mlp, x, target = case((4, 6, 5, 3), activation=activation)
        g = jac.gradient(mlp, x, target, jac.Loss("mse", reduction))
        value, parameters, _ = by_autograd(mlp, x, target, "mse", reduction)
        torch.testing.assert_close(g.loss, value)
        torch.testing.assert_close(flat(g.weights, g.biases), parameters)

    def test_of_a_module_in_its_own_training_loop(self):
        torch.default_generator.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
        x, target = torch.randn(10, 3).double(), torch.randn(10, 2).double()
        mlp, optimizer = jac.MLP.from_torch(net), torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            g = jac.gradient(mlp, x, target)
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x), target).backward()
            torch.testing.assert_close(flat(g.weights, g.biases), [p.grad for p in net.parameters()])
            optimizer.step()

    def test_the_published_mae_gradient(self):
        """Course figure: the MAE gradient of a 10-20-1 tanh network is within 1e-6 of autograd."""
        mlp, x, target = case((10, 20, 1), loss="l1", batch=100)
        g = jac.gradient(mlp, x, target, "l1")
        _, parameters, _ = by_autograd(mlp, x, target, "l1")
        for ours, exact in zip(flat(g.weights, g.biases), parameters, strict=True):
            assert (ours - exact).abs().max() < 1e-6

    def test_l1_of_a_linear_map(self):
        """Course figure: `Xᵀ sign(X W - Y)`."""
        mlp, x, target = case((4, 2), bias=False, loss="l1")
        g = jac.gradient(mlp, x, target, jac.Loss("l1", "sum"))
        torch.testing.assert_close(g.weights[0].mT, x.mT @ torch.sign(x @ mlp.weights[0].mT - target))

    def test_least_squares(self):
        """Closed form: `Xᵀ (X W - Y) 2 / (N P)`, zero at the normal equations' solution."""
        mlp, x, target = case((4, 2), bias=False)
        g = jac.gradient(mlp, x, target)
        torch.testing.assert_close(g.weights[0].mT, 2 / target.numel() * x.mT @ (x @ mlp.weights[0].mT - target))
        solution = torch.linalg.lstsq(x, target).solution
        assert jac.gradient(jac.MLP([solution.mT.contiguous()]), x, target).weights[0].abs().max() < 1e-12

    def test_nothing_is_changed_and_no_graph_kept(self):
        mlp, x, target = case((4, 6, 3))
        before = [t.clone() for t in (*mlp.parameters(), x, target)]
        g = jac.gradient(mlp, x.requires_grad_(), target, inputs=True)
        assert not any(t.requires_grad for t in (g.loss, g.x, *g.weights))
        for now, then in zip((*mlp.parameters(), x, target), before, strict=True):
            assert torch.equal(now, then)

    def test_folded_batch_norms_are_refused(self):
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
        with pytest.raises(ValueError, match="batch norms multiplied in"):
            jac.gradient(jac.MLP.from_torch(net), torch.ones(5, 3), torch.ones(5, 2))

    def test_bad_input(self):
        mlp, x, target = case((4, 6, 3))
        with pytest.raises(ValueError, match="target must have the shape of y"):
            jac.gradient(mlp, x, target[:3])
        with pytest.raises(ValueError, match="x has 3 features"):
            jac.gradient(mlp, x[:, :3], target)
        with pytest.raises(ValueError, match="unknown loss 'huber'"):
            jac.gradient(mlp, x, target, "huber")


@pytest.mark.parametrize("loss", RULES)
def test_per_sample_gradients_are_those_of_each_sample_alone(loss):
    mlp, x, target = case((4, 6, 5, 3), loss=loss)
    s = jac.per_sample_gradients(mlp, x, target, loss)
    for n in range(len(x)):
        g = jac.gradient(mlp, x[n : n + 1], target[n : n + 1], loss)
        torch.testing.assert_close([t[n] for t in flat(s.weights, s.biases)], flat(g.weights, g.biases))
    with pytest.raises(ValueError, match="is one of a batch, got a single x of shape"):
        jac.per_sample_gradients(mlp, x[0], target[0], loss)


def test_per_sample_gradients_equal_the_tutorials_recipe():
    mlp, x, target = case((4, 6, 3))
    net = mlp.to_torch()
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters, x, t):
        return nn.functional.mse_loss(functional_call(net, parameters, (x[None],)), t[None])

    exact = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, target)
    s = jac.per_sample_gradients(mlp, x, target)
    torch.testing.assert_close(flat(s.weights, s.biases), list(exact.values()))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
def test_a_parameter_jacobian_in_factors_products_and_its_dense_form(widths, bias):
    mlp, x = network(widths, batch=6, bias=bias, output_activation="tanh")
    J, F = oracles.parameter_jacobian(mlp, x), jac.parameter_jacobian(mlp, x)
    assert F.shape == tuple(J.shape)
    torch.testing.assert_close(F.dense(), J)
    v = torch.randn(F.shape[-1], generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    torch.testing.assert_close(F @ v, J @ v)
    shapes = [p.shape for p in mlp.parameters()]
    parts = [part.reshape(s) for part, s in zip(v.split([s.numel() for s in shapes]), shapes, strict=True)]
    torch.testing.assert_close(F @ parts, J @ v)
    u = torch.randn(J.shape[:2], generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    pulled = torch.cat([t.flatten() for t in F.T @ u])
    torch.testing.assert_close(pulled, torch.einsum("np,npk->k", u, J))
    C, h = F.layer(0)
    assert (C.shape, h.shape) == ((6, widths[-1], widths[1]), (6, widths[0]))


def test_the_gradient_is_the_pullback_of_the_losss_cotangent():
    mlp, x, target = case((4, 6, 3))
    C = jac.Loss("mse").cotangent(mlp(x), target)
    g = jac.gradient(mlp, x, target)
    torch.testing.assert_close(list(jac.parameter_jacobian(mlp, x).T @ C), flat(g.weights, g.biases))


def test_bad_products():
    F = jac.parameter_jacobian(jac.MLP.random(L=1, D=2, K=3, P=2), torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"v must have shape \(12,\), got \(3,\)"):
        F @ torch.ones(3)
    with pytest.raises(ValueError, match="v must have the shapes of the parameters"):
        F @ [torch.ones(3, 2), torch.ones(3, 2)]
    with pytest.raises(ValueError, match=r"u must have shape \(4, 2\), got \(2, 4\)"):
        F.T @ torch.ones(2, 4)
    with pytest.raises(MemoryError, match="the dense Jacobian takes 384 bytes, more than most_bytes=100"):
        F.dense(most_bytes=100)

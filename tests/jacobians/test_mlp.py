"""The network: initialisations, conversion, and what it refuses."""

import copy
import pickle

import pytest
import torch

import jacobians as jac
from jacobians.network.activations import RULES, activation
from jacobians.planning.inputs import problem_of
from tests.cases import ACTIVATIONS, ALL, served


class TestRandom:
    def test_one_seed_is_one_network_in_every_dtype(self):
        exact = jac.MLP.random(L=2, D=3, K=5, P=4, bias=True, dtype=torch.float64)
        rounded = jac.MLP.random(L=2, D=3, K=5, P=4, bias=True, dtype=torch.float32)
        for a, b in zip((*exact.weights, *exact.biases), (*rounded.weights, *rounded.biases), strict=True):
            assert torch.equal(a.float(), b)
        assert not torch.equal(exact.weights[0], jac.MLP.random(L=2, D=3, K=5, P=4, seed=1, dtype=torch.float64).weights[0])

    def test_xavier_keeps_the_variance_and_normal_does_not(self):
        xavier = jac.MLP.random(widths=(400, 600)).weights[0]
        normal = jac.MLP.random(widths=(400, 600), init="normal").weights[0]
        assert xavier.var().item() == pytest.approx(2 / 1000, rel=0.02)
        assert normal.var().item() == pytest.approx(1, rel=0.02)

    @pytest.mark.parametrize("widths", [(20, 7), (7, 20), (9, 9)])
    def test_orthogonal_has_orthonormal_rows_or_columns(self, widths):
        W = jac.MLP.random(widths=widths, init="orthogonal", dtype=torch.float64).weights[0]
        small = W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W
        torch.testing.assert_close(small, torch.eye(small.shape[0], dtype=torch.float64))

    def test_sizes(self):
        mlp = jac.MLP.random(L=3, D=2, K=5, P=4)
        assert (mlp.L, mlp.D, mlp.P, mlp.widths) == (3, 2, 4, (2, 5, 5, 5, 4))
        assert mlp.biases == (None, None, None, None)
        assert "2-5-5-5-4" in repr(mlp)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"L": 1, "D": 2, "K": 3}, TypeError, "give either widths or all of L, D, K, P"),
            ({"widths": (2, 3), "L": 1}, TypeError, "give either widths or all of L, D, K, P"),
            ({"widths": (2, 0, 3)}, ValueError, "at least 1, got 0"),
            ({"widths": (2,)}, ValueError, "needs an input and an output"),
            ({"widths": (2, 3.5)}, TypeError, r"must be integers, got 3\.5"),
            ({"L": -1, "D": 2, "K": 3, "P": 1}, ValueError, "L must be at least 0"),
            ({"L": 1.0, "D": 2, "K": 3, "P": 1}, TypeError, "L must be an integer"),
            ({"widths": (2, 3), "init": "kaiming"}, ValueError, "unknown init 'kaiming'; choose from xavier, normal, orthogonal"),
            ({"widths": (2, 3), "activation": "snake"}, ValueError, "unknown activation 'snake'; choose from tanh"),
            ({"widths": (2, 3), "activation": torch.tanh}, TypeError, "activation must be a name or an Activation"),
            ({"widths": (2, 3, 3), "activation": ["relu", "tanh"]}, ValueError, "got 2 activations for 1 hidden layers"),
            ({"widths": (2, 3), "output_activation": "elu(alpha=)"}, ValueError, r"cannot read activation 'elu\(alpha=\)'"),
            ({"widths": (2, 3), "dtype": torch.int32}, TypeError, r"floating-point torch\.dtype"),
        ],
    )
    def test_refuses(self, arguments, error, message):
        with pytest.raises(error, match=message):
            jac.MLP.random(**arguments)


class TestParameters:
    @pytest.mark.parametrize(
        ("weights", "biases", "error", "message"),
        [
            ([], None, ValueError, "weights is empty"),
            ([torch.ones(3, 2), torch.ones(1, 4)], None, ValueError, "W_2 expects 4 inputs but W_1 gives 3"),
            ([torch.ones(3)], None, ValueError, r"W_1 must be a non-empty matrix \(out, in\), got shape \(3,\)"),
            ([torch.ones(3, 2).int()], None, TypeError, "W_1 must be a floating-point tensor"),
            ([torch.ones(3, 2)], [torch.ones(2)], ValueError, r"b_1 must be a tensor of shape \(3,\), got \(2,\)"),
            ([torch.ones(3, 2)], [None, None], ValueError, "got 2 biases for 1 weights"),
            ([torch.ones(3, 2), torch.ones(1, 3).double()], None, TypeError, "W_2 is torch.float64 but W_1 is torch.float32"),
        ],
    )
    def test_refuses(self, weights, biases, error, message):
        with pytest.raises(error, match=message):
            jac.MLP(weights, biases)


class TestToTorch:
    @pytest.mark.parametrize("name", ACTIVATIONS)
    def test_there_and_back(self, name):
        for output in ("identity", "sigmoid"):
            mlp = jac.MLP.random(widths=(3, 5, 4, 2), activation=name, output_activation=output, bias=True)
            net = mlp.to_torch()
            back = jac.MLP.from_torch(net)
            assert (back.activation, back.output_activation) == (name, output)
            x = torch.randn(6, 3)
            torch.testing.assert_close(net(x), mlp(x))
            assert net[0].weight.data_ptr() != mlp.weights[0].data_ptr()

    @pytest.mark.parametrize("method", ALL)
    def test_an_activation_per_layer(self, method):
        each = ["relu", jac.Activation("leaky_relu", negative_slope=0.2), "silu"]
        mlp = jac.MLP.random(widths=(3, 5, 4, 6, 2), activation=each, output_activation="tanh", bias=True, dtype=torch.float64)
        assert mlp.activation == "relu;leaky_relu(negative_slope=0.2);silu"
        assert jac.MLP.from_torch(mlp.to_torch()).activations == mlp.activations
        x = torch.randn(5, 3, dtype=torch.float64)
        J = torch.autograd.functional.jacobian(lambda x: mlp.to_torch()(x).sum(0), x).movedim(0, 1)
        if served(method, problem_of(mlp, x), "the trick needs one output" if method == "reverse:sum-trick" else None):
            torch.testing.assert_close(jac.jacobian(mlp, x, method), J, rtol=1e-10, atol=1e-12)


class TestActivations:
    @pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name not in {"identity", "exp"}])
    def test_slope_is_autograds_and_finite_everywhere(self, name):
        for dtype in (torch.float32, torch.float64):
            z = torch.tensor(
                [-1e30, -1e4, -100.0, -20.5, -3.0, -1e-3, 0.0, 1e-3, 3.0, 19.9, 20.5, 100.0, 1e4, 1e30], dtype=dtype, requires_grad=True
            )
            rule = activation(name)
            h = rule.value(z)
            (exact,) = torch.autograd.grad(h.sum(), z)
            slope = rule.slope(z, h)
            assert torch.isfinite(h).all()
            assert torch.isfinite(slope).all()
            known = torch.isfinite(exact)  # autograd's own is NaN for GELU's tanh form at 1e30
            torch.testing.assert_close(slope[known], exact[known], rtol=1e-6, atol=2e-7)

    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda: jac.Activation("relu", negative_slope=1), ValueError, "relu has no setting 'negative_slope'; its settings: none"),
            (lambda: jac.Activation("elu", beta=1), ValueError, "its settings: alpha, and scale for every activation"),
            (lambda: jac.Activation("elu", alpha="1"), TypeError, "elu: alpha must be a number, got '1'"),
            (lambda: jac.Activation("elu", alpha=float("nan")), ValueError, "alpha must be finite"),
            (lambda: jac.Activation("softplus", beta=0), ValueError, "beta must be positive"),
            (lambda: jac.Activation("gelu", approximate="erf"), ValueError, "approximate must be 'none' or 'tanh'"),
            (lambda: jac.Activation("tanh", scale=0), ValueError, "scale must not be 0"),
            (lambda: activation("elu(__import__('os'))"), ValueError, "cannot read activation"),
        ],
    )
    def test_bad_settings_are_refused(self, make, error, message):
        with pytest.raises(error, match=message):
            make()

    def test_its_text_says_everything(self):
        for name in ACTIVATIONS:
            rule = activation(name)
            assert str(rule) == name
            assert eval(repr(rule), {"Activation": jac.Activation}) == rule
            assert hash(rule) == hash(activation(name))

    @pytest.mark.parametrize("name", RULES)
    def test_a_row_without_c_is_unsupported_with_that_reason(self, name, monkeypatch):
        from jacobians.network import activations

        monkeypatch.setitem(activations.RULES, "brand_new", activations.RULES[name])
        problem = jac.Problem(widths=(2, 3, 2), activation="brand_new")
        if jac.find_method("reverse:native").unsupported(jac.Problem(widths=(2, 3, 2))) is None:
            assert jac.find_method("reverse:native").unsupported(problem) == "has no activation 'brand_new' in C"
        mlp = jac.MLP.random(widths=(2, 3, 2), activation="brand_new")
        assert jac.plan(mlp, torch.ones(2)).method.endswith(":eager")

    def test_relu_is_flat_at_zero(self):
        zero = torch.zeros(1)
        assert activation("relu").slope(zero, zero).item() == 0


def test_copies_leave_the_plans_behind():
    mlp = jac.MLP.random(L=1, D=2, K=3, P=2)
    J = jac.jacobian(mlp, torch.ones(2), method="reverse:jax")  # its plan holds a compiled function, which cannot be pickled
    for other in (copy.deepcopy(mlp), pickle.loads(pickle.dumps(mlp))):
        torch.testing.assert_close(jac.jacobian(other, torch.ones(2)), J)

"""Inputs in other forms: any leading axes, images, several tensors, some columns. References by torch.autograd, reverse over reverse."""

import itertools
import sys

import pytest
import torch
from torch import nn

import jacobians as jac
from jacobians.kernels.native.runner import available
from tests.cases import OURS, for_each, network, pairs

JACOBIANS = [name for name in OURS if "/" not in name]
DTYPES = {torch.float64: {"rtol": 1e-11, "atol": 1e-12}, torch.float32: {"rtol": 1e-4, "atol": 1e-5}}


def rows_of(f, *inputs):
    """∂y/∂x_i for each input, a sample at a time, in float64: (…, P, *event)."""
    flat = [t.detach().double().reshape(-1, *t.shape[t.ndim - events :]) for t, events in inputs]
    found = [[] for _ in inputs]
    for sample in zip(*flat, strict=True):
        leaves = [t.clone().requires_grad_() for t in sample]
        y = f(*leaves)
        for p in range(len(y)):
            for rows, g in zip(found, torch.autograd.grad(y[p], leaves, retain_graph=True), strict=True):
                rows.append(g)
    (lead,) = {t.shape[: t.ndim - events] for t, events in inputs}
    return tuple(torch.stack(rows).reshape(*lead, -1, *rows[0].shape) for rows in found)


LEADS = [(3, 2), (2, 1, 3), (0, 3), (2, 3, 1, 2)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_leading_axes(lead, dtype):
    mlp, _ = network((4, 5, 3), bias=True, dtype=dtype)
    x = torch.randn(*lead, 4, generator=torch.Generator().manual_seed(2), dtype=dtype)
    exact = rows_of(mlp.to(dtype=torch.float64), (x, 1))[0] if x.numel() else torch.zeros(*lead, 3, 4).double()

    def check(method):
        y, J = jac.value_and_jacobian(mlp, x, method)
        assert y.shape == (*lead, 3)
        torch.testing.assert_close(J.double(), exact, **DTYPES[dtype])
        torch.testing.assert_close(jac.jacobian(mlp, x, method), J)

    for_each(itertools.product(["auto", *JACOBIANS]), check)


class TestLeadingAxesOfEveryFunction:
    """The samples are those of the flat batch; what is a sum over them stays the same."""

    mlp, flat = network((4, 5, 3), batch=6, bias=True)
    x = flat.reshape(2, 3, 4)

    def same(self, found, flat):
        found, flat = ((t,) if isinstance(t, torch.Tensor) else t for t in (found, flat))
        for one, other in zip(found, flat, strict=True):
            torch.testing.assert_close(one, other.reshape(2, 3, *other.shape[1:]))

    def test_second_order(self):
        for function in (jac.laplacian, jac.hessian, jac.hessian_diagonal):
            self.same(function(self.mlp, self.x), function(self.mlp, self.flat))
        w = torch.rand(2, 4, dtype=torch.float64)
        self.same(jac.laplacian(self.mlp, self.x, w), jac.laplacian(self.mlp, self.flat, w))

    def test_products(self):
        v, u = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
        v3, u3 = v.reshape(2, 3, 4), u.reshape(2, 3, 3)
        self.same(jac.jvp(self.mlp, self.x, v3), jac.jvp(self.mlp, self.flat, v))
        self.same(jac.vjp(self.mlp, self.x, u3), jac.vjp(self.mlp, self.flat, u))
        self.same(jac.hvp(self.mlp, self.x, v3), jac.hvp(self.mlp, self.flat, v))
        self.same(jac.hvp(self.mlp, self.x, v3, u3), jac.hvp(self.mlp, self.flat, v, u))
        with pytest.raises(ValueError, match=r"v must have the form of x, \(2, 3, 4\), got \(6, 4\)"):
            jac.jvp(self.mlp, self.x, v)

    def test_factors_and_bounds(self):
        found, flat = jac.jacobian(self.mlp, self.x, factored=True), jac.jacobian(self.mlp, self.flat, factored=True)
        self.same((found.A, found.B, found.dense()), (flat.A, flat.B, flat.dense()))
        self.same(jac.jacobian(self.mlp, self.x, max_bytes=2**24), jac.jacobian(self.mlp, self.flat, max_bytes=2**24))

    @pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
    @pytest.mark.parametrize("max_bytes", [None, 2**24])
    def test_gradients(self, loss, max_bytes):
        t = torch.randn(6, 3, dtype=torch.float64) if loss == "mse" else torch.tensor([0, 1, 2, 2, 1, 0])
        t3 = t.reshape(2, 3, *t.shape[1:])
        found = jac.gradient(self.mlp, self.x, t3, loss, inputs=True, max_bytes=max_bytes)
        flat = jac.gradient(self.mlp, self.flat, t, loss, inputs=True, max_bytes=max_bytes)
        torch.testing.assert_close(found.vector, flat.vector)
        self.same(found.x, flat.x)
        self.same(
            jac.per_sample_gradients(self.mlp, self.x, t3, loss).weights, jac.per_sample_gradients(self.mlp, self.flat, t, loss).weights
        )
        self.same(jac.per_sample_gradient_norms(self.mlp, self.x, t3, loss), jac.per_sample_gradient_norms(self.mlp, self.flat, t, loss))
        v = [torch.ones_like(p) for p in self.mlp.parameters()]
        torch.testing.assert_close(jac.ggn_product(self.mlp, self.x, t3, loss, v), jac.ggn_product(self.mlp, self.flat, t, loss, v))
        one, other = jac.MLP.random(widths=(4, 5, 3), dtype=torch.float64), jac.MLP.random(widths=(4, 5, 3), dtype=torch.float64)
        jac.SGD(one, lr=0.1).minimize(self.x, t3, loss)
        jac.SGD(other, lr=0.1).minimize(self.flat, t, loss)
        torch.testing.assert_close(one.weights, other.weights)

    def test_losses_of_jacobians(self):
        target = torch.randn(6, 3, 4, dtype=torch.float64)
        found = jac.jacobian_loss(self.mlp, self.x, target.reshape(2, 3, 3, 4))
        torch.testing.assert_close(found, jac.jacobian_loss(self.mlp, self.flat, target))

    def test_parameter_jacobians_have_a_row_a_sample(self):
        torch.testing.assert_close(jac.parameter_jacobian(self.mlp, self.x).dense(), jac.parameter_jacobian(self.mlp, self.flat).dense())

    def test_a_kernel_of_pairs_is_refused(self):
        with pytest.raises(ValueError, match=r"the ntk takes x of shape \(N, D\), got \(2, 3, 4\)"):
            jac.ntk(self.mlp, self.x)

    def test_what_does_not_fit_is_said(self):
        with pytest.raises(ValueError, match="x has 5 features, but the network takes D=4"):
            jac.jacobian(self.mlp, torch.zeros(2, 3, 5, dtype=torch.float64))

    def test_transforms_and_graphs(self):
        x = self.x.clone().requires_grad_()
        jac.jacobian(self.mlp, x, create_graph=True).square().sum().backward()
        flat = self.flat.clone().requires_grad_()
        jac.jacobian(self.mlp, flat, create_graph=True).square().sum().backward()
        self.same(x.grad, flat.grad)
        self.same(torch.func.vmap(lambda x: jac.jacobian(self.mlp, x[None]))(self.x)[:, 0], jac.jacobian(self.mlp, self.flat))


class TestImages:
    @staticmethod
    def net():
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)).double()

    x = torch.randn(4, 1, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def test_derivatives_have_their_shape(self):
        net = self.net()
        (J,) = rows_of(lambda x: net(x[None])[0], (self.x, 3))
        y, found = jac.value_and_jacobian(net, self.x)
        torch.testing.assert_close(y, net(self.x).detach())
        torch.testing.assert_close(found, J)
        flat = self.x.flatten(1)
        torch.testing.assert_close(jac.hessian(net, self.x), jac.hessian(net, flat).reshape(4, 3, 1, 3, 4, 1, 3, 4))
        torch.testing.assert_close(
            jac.vjp(net, self.x, torch.ones(4, 3).double()), jac.vjp(net, flat, torch.ones(4, 3).double()).reshape(self.x.shape)
        )
        g = jac.gradient(net, self.x, torch.tensor([0, 1, 2, 0]), "cross_entropy", inputs=True)
        leaf = self.x.clone().requires_grad_()
        nn.functional.cross_entropy(net(leaf), torch.tensor([0, 1, 2, 0])).backward()
        torch.testing.assert_close(g.x, leaf.grad)

    def test_of_a_forward_of_its_own_and_of_one_image(self):
        class Own(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def forward(self, x):
                return self.inner(torch.flatten(x, 1))

        net = self.net()
        J = jac.jacobian(net, self.x)
        torch.testing.assert_close(jac.jacobian(Own(net[1:]), self.x), J)
        torch.testing.assert_close(jac.jacobian(net, self.x[:1]), J[:1])
        torch.testing.assert_close(jac.jacobian(net, self.x.reshape(2, 2, 1, 3, 4)), J.reshape(2, 2, 3, 1, 3, 4))

    def test_an_image_of_another_size_is_refused(self):
        with pytest.raises(ValueError, match=r"x of shape \(4, 1, 3, 5\) has no axes that flatten to D=12"):
            jac.jacobian(self.net(), torch.zeros(4, 1, 3, 5, dtype=torch.float64))

    def test_without_a_flatten_the_last_axis_counts(self):
        with pytest.raises(ValueError, match="x has 4 features, but the network takes D=12"):
            jac.jacobian(self.net()[1:], self.x)


class Pinn(nn.Module):
    def __init__(self, dtype=torch.float64, order=(1, 0, 2)):
        super().__init__()
        torch.default_generator.manual_seed(0)
        self.order = order
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.SiLU(), nn.Linear(5, 2)).to(dtype)

    def forward(self, t, x, s):
        return self.net(torch.cat([x, t, s], dim=-1))


class Stacked(nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        torch.default_generator.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)

    def forward(self, t, x):
        return self.net(torch.stack((x, t), -1))


def three(lead, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(*lead, d, generator=generator, dtype=dtype) for d in (1, 2, 1))


class TestSeveralInputs:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("lead", [(), (5,), (2, 3)], ids=str)
    def test_a_block_for_each(self, lead, dtype):
        net, inputs = Pinn(dtype), three(lead, dtype)
        exact = rows_of(Pinn(), *((t, 1) for t in inputs))
        value = net(*inputs).detach()

        def check(method):
            y, blocks = jac.value_and_jacobian(net, inputs, method)
            torch.testing.assert_close(y, value)
            assert [b.shape for b in blocks] == [(*lead, 2, d) for d in (1, 2, 1)]
            for block, other in zip(blocks, exact, strict=True):
                torch.testing.assert_close(block.double(), other, **DTYPES[dtype])
            for wrt, wanted in {"t": 0, "x": 1, -1: 2}.items():
                torch.testing.assert_close(jac.jacobian(net, inputs, method, wrt=wrt).double(), exact[wanted], **DTYPES[dtype])
            picked = jac.jacobian(net, inputs, method, wrt=["s", "t"])
            torch.testing.assert_close([b.double() for b in picked], [exact[2], exact[0]], **DTYPES[dtype])
            y, J = jac.value_and_jacobian(net, inputs, method, wrt=1)
            torch.testing.assert_close((y, J), (value, blocks[1]), **DTYPES[dtype])

        for_each(itertools.product(["auto", *JACOBIANS]), check)

    @pytest.mark.parametrize("lead", [(), (5,), (2, 3)], ids=str)
    def test_numbers_that_are_stacked(self, lead):
        net = Stacked()
        t, x = torch.randn(lead, dtype=torch.float64), torch.randn(lead, dtype=torch.float64)
        exact = rows_of(net, (t, 0), (x, 0))
        y, blocks = jac.value_and_jacobian(net, (t, x))
        torch.testing.assert_close(y, net(t, x).detach())
        torch.testing.assert_close(blocks, exact)
        torch.testing.assert_close(jac.jacobian(net, (t, x), wrt="x"), exact[1])

    def test_a_plain_network_takes_them_in_their_order(self):
        mlp, x = network((3, 5, 2), batch=4, bias=True)
        J = jac.jacobian(mlp, x)
        torch.testing.assert_close(jac.jacobian(mlp, (x[:, :1], x[:, 1:])), (J[..., :1], J[..., 1:]))
        torch.testing.assert_close(jac.jacobian(mlp, [x[:, :1], x[:, 1:]], wrt=1), J[..., 1:])

    def test_second_order_is_over_all_in_the_order_of_the_network(self):
        net, inputs = Pinn(), three((5,))
        together = torch.cat([inputs[i] for i in net.order], -1)
        y, blocks, lap = jac.laplacian(net, inputs)
        torch.testing.assert_close((y, lap), jac.laplacian(net.net, together)[::2])
        torch.testing.assert_close(blocks, jac.jacobian(net, inputs))
        torch.testing.assert_close(jac.hessian(net, inputs), jac.hessian(net.net, together))
        H = jac.hessian_diagonal(net.net, together)
        torch.testing.assert_close(jac.hessian_diagonal(net, inputs), (H[..., 2:3], H[..., :2], H[..., 3:]))

    def test_products_and_gradients(self):
        net, inputs = Pinn(), three((5,))
        v, u = three((5,)), torch.randn(5, 2, dtype=torch.float64)
        J = jac.jacobian(net, inputs)
        torch.testing.assert_close(jac.jvp(net, inputs, v), sum((block @ t[..., None])[..., 0] for block, t in zip(J, v, strict=True)))
        torch.testing.assert_close(jac.vjp(net, inputs, u), tuple((u[:, None] @ block)[:, 0] for block in J))
        g = jac.gradient(net, inputs, u, inputs=True)
        leaves = [t.clone().requires_grad_() for t in inputs]
        nn.functional.mse_loss(net(*leaves), u).backward()
        torch.testing.assert_close(g.x, tuple(t.grad for t in leaves))
        torch.testing.assert_close(g.weights[0], net.net[0].weight.grad)
        jac.jacobian_loss(net, inputs, tuple(map(torch.ones_like, J))).backward()

    @pytest.mark.parametrize("method", ["auto", "forward:eager", "reverse:native"])
    @pytest.mark.parametrize("wrt", [None, "x", ["t", "s"]])
    def test_graphs_go_back_to_each(self, method, wrt):
        net = Pinn()
        leaves, others = ([t.requires_grad_() for t in three((5,))] for _ in range(2))
        blocks = jac.jacobian(net, leaves, method, create_graph=True, wrt=wrt)
        blocks = (blocks,) if isinstance(blocks, torch.Tensor) else blocks
        wanted = {None: [0, 1, 2], "x": [1]}.get(wrt if not isinstance(wrt, list) else 0, [0, 2])
        rows = [torch.autograd.grad(net(*others)[:, p].sum(), [others[i] for i in wanted], create_graph=True) for p in range(2)]
        exact = [torch.stack(pair, 1) for pair in zip(*rows, strict=True)]
        found, expected = (
            torch.autograd.grad(sum(b.pow(3).sum() for b in t), [*x, *net.parameters()], materialize_grads=True)
            for t, x in ((blocks, leaves), (exact, others))
        )
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize(
        ("inputs", "error", "message"),
        [
            (three((5,))[:2], ValueError, "the network takes 3 inputs, t, x, s, got 2"),
            ((*three((5,))[:2], torch.zeros(4, 1, dtype=torch.float64)), ValueError, "must have the same leading axes"),
            ((*three((5,))[:2], torch.zeros(5, 1)), TypeError, r"input s is torch.float32 on cpu but the network is torch.float64"),
            ((*three((5,))[:2], torch.zeros((), dtype=torch.float64)), ValueError, "has no axis of features"),
            ((*three((5,))[:2], 1.0), TypeError, "input s must be a torch.Tensor, got float"),
            ((*three((5,))[:2], torch.zeros(5, 2, dtype=torch.float64)), ValueError, "x has 5 features, but the network takes D=4"),
        ],
    )
    def test_what_does_not_fit_is_said(self, inputs, error, message):
        with pytest.raises(error, match=message):
            jac.jacobian(Pinn(), inputs)

    @pytest.mark.parametrize(
        "forward",
        [
            lambda self, t, x: self.net(torch.cat([t, x, x], -1)),
            lambda self, t, x: self.net(torch.cat([t, x.sin()], -1)),
            lambda self, t, x: self.net(torch.cat([t, x], 0)),
            lambda self, t, x: self.net(t) + x,
        ],
    )
    def test_a_forward_that_does_something_else_with_them_is_refused(self, forward):
        class Other(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = nn.Linear(2, 2).double()

        Other.forward = forward
        with pytest.raises(TypeError, match=r"does not begin with torch\.cat\(\[t, x\], -1\)"):
            jac.jacobian(Other(), (torch.zeros(3, 1).double(), torch.zeros(3, 1).double()))


COLUMNS = [0, -1, 2, slice(1, 4), slice(-1, None), slice(None, None, 2), slice(4, 1, -2), [3, 0], (1, 1), range(2)]


class TestSomeColumns:
    @pytest.mark.parametrize("method", ["auto", *JACOBIANS])
    def test_they_are_those_of_the_whole(self, method):
        def check(wrt, batch, shape):
            widths, dtype = shape
            mlp, x = network(widths, batch=batch, bias=True, dtype=dtype, output_activation="tanh")
            J = jac.jacobian(mlp, x, "reverse:eager")
            index = list(wrt) if isinstance(wrt, tuple | range) else wrt
            columns = torch.arange(6)[index] if not isinstance(wrt, slice) else torch.tensor(range(6)[wrt])
            y, found = jac.value_and_jacobian(mlp, x, method, wrt=wrt)
            torch.testing.assert_close(found, J[..., columns])
            torch.testing.assert_close(y, mlp(x))

        shapes = ((6, 9, 5, 3), torch.float64), ((6, 4), torch.float32), ((6, 20, 2, 21, 8), torch.float64)
        for_each(pairs(COLUMNS, [None, 1, 7, 40], shapes), check)

    @pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
    @pytest.mark.skipif(not available(), reason="no C compiler")
    def test_kernels_of_large_networks(self, mode, set_threads):
        shapes = ((40, 300, 310, 3), None), ((40, 300, 310, 3), 50), ((70, 300, 8, 300, 70), None), ((33, 300, 300, 40), 3)
        for (widths, batch), threads in itertools.product(shapes, (1, 2)):
            set_threads(threads)
            mlp, x = network(widths, batch=batch, bias=True)
            J = jac.jacobian(mlp, x, "forward:eager")
            for wrt in (slice(-2, None), slice(0, 20), [3, 1, 30, 2]):
                torch.testing.assert_close(jac.jacobian(mlp, x, f"{mode}:native", wrt=wrt), J[..., wrt])

    def test_softmax(self):
        mlp, x = network((6, 5, 3), batch=4, output_activation="softmax")
        for method in JACOBIANS:
            torch.testing.assert_close(jac.jacobian(mlp, x, method, wrt=[2, 0]), jac.jacobian(mlp, x, "reverse:eager")[..., [2, 0]])

    @pytest.mark.parametrize("mode", ["forward", "mixed"])
    def test_no_other_tangents_are_pushed(self, mode, monkeypatch):
        pushed = []
        monkeypatch.setattr(sys.modules[jac.modes.forward.__module__], "scale", lambda T, s: pushed.append(T.shape) or T * s)
        mlp, x = network((5, 6, 7, 7), batch=4)
        jac.jacobian(mlp, x, f"{mode}:eager", wrt=[3, 1])
        assert pushed == [(4, 2, 7)]

    @pytest.mark.parametrize("wrt", [-1, [2, 0, 2], slice(1, 3)], ids=str)
    @pytest.mark.parametrize("method", ["auto", *JACOBIANS])
    def test_graphs(self, method, wrt):
        mlp, x = network((3, 5, 2), batch=4, bias=True)
        for t in mlp.parameters():
            t.requires_grad_()
        leaves = [x.requires_grad_(), *mlp.parameters()]
        J = jac.jacobian(mlp, x, method, create_graph=True, wrt=wrt)
        rows = [torch.autograd.grad(mlp(x)[:, p].sum(), x, create_graph=True)[0] for p in range(2)]
        exact = torch.stack(rows, 1)[..., wrt]
        torch.testing.assert_close(J, exact)
        found, expected = (torch.autograd.grad(t.pow(3).sum(), leaves, allow_unused=True, materialize_grads=True) for t in (J, exact))
        torch.testing.assert_close(found, expected)

    @pytest.mark.parametrize(
        ("wrt", "error", "message"),
        [
            (4, ValueError, "wrt=4 picks no columns of x; choose from 0, 1, 2"),
            ([0, 9], ValueError, r"wrt=\[0, 9\] picks no columns"),
            ([], ValueError, r"wrt=\[\] picks no columns"),
            (slice(5, 7), ValueError, "picks no columns"),
            ("x", ValueError, "wrt='x' picks no columns"),
            (1.5, TypeError, "wrt must be a number, a slice or a list of columns, got 1.5"),
            (True, TypeError, "wrt must be a number"),
        ],
    )
    def test_what_is_no_column_is_refused(self, wrt, error, message):
        mlp, x = network((3, 4, 2), batch=5)
        with pytest.raises(error, match=message):
            jac.jacobian(mlp, x, wrt=wrt)

    def test_what_cannot_compute_them_says_so(self):
        mlp, x = network((3, 4, 2), batch=5)
        with pytest.raises(ValueError, match=r"reverse:torch\.func does not support wrt"):
            jac.jacobian(mlp, x, "reverse:torch.func", wrt=0)
        for options in ({"factored": True}, {"max_bytes": 2**20}):
            with pytest.raises(ValueError, match="leave out one of"):
                jac.jacobian(mlp, x, wrt=0, **options)

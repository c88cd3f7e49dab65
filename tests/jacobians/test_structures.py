"""Networks that are no plain chain, each against torch.autograd in float64, reverse over reverse."""

import copy
import itertools
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import jacobians as jac
from jacobians.kernels.native.runner import available
from jacobians.network.activations import LogCosh
from jacobians.network.from_torch import network_of


def module(forward, **parts):
    """A module of some parts with a forward."""

    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            for name in list(parts):
                part = parts.pop(name)  # the class lives until it is collected
                if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                    self.register_buffer(name, part)
                else:
                    setattr(self, name, part)

    Made.forward = forward
    return Made()


def layers(*sizes):
    return [nn.Linear(i, o) for i, o in itertools.pairwise(sizes)]


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def residual():
    a, f, g, b = layers(3, 6, 6, 6, 2)
    return module(lambda self, x: self.b(torch.tanh(self.a(x)) + self.g(torch.sin(self.f(torch.tanh(self.a(x)))))), a=a, f=f, g=g, b=b)


class Block(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.f, self.skip, self.act = nn.Linear(into, out), nn.Identity() if into == out else nn.Linear(into, out, bias=False), nn.SiLU()

    def forward(self, h):
        return self.act(self.f(h) + self.skip(h))


def dense():
    a, b, c = nn.Linear(3, 4), nn.Linear(7, 5), nn.Linear(12, 2)

    def forward(self, x):
        h = torch.tanh(self.a(x))
        g = torch.tanh(self.b(torch.cat([x, h], -1)))
        return self.c(torch.cat((x, h, g), dim=1))

    return module(forward, a=a, b=b, c=c)


def gated():
    u, v, a, b = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):  # the improved MLP of Wang, Teng & Perdikaris
        U, V, H = torch.tanh(self.u(x)), torch.tanh(self.v(x)), torch.tanh(self.a(x))
        return self.b((1 - H) * U + H * V)

    return module(forward, u=u, v=v, a=a, b=b)


def convex():
    x0, x1, x2, z1 = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(3, 1), nn.Linear(5, 5, bias=False)

    def forward(self, x):
        z = F.softplus(self.x0(x))
        z = F.softplus(self.z1(z) + self.x1(x))
        return F.linear(z, self.last) + self.x2(x)

    return module(forward, x0=x0, x1=x1, x2=x2, z1=z1, last=nn.Parameter(draw(1, 5).abs()))


def fourier():
    net = nn.Sequential(*[layer for a in layers(8, 6, 2) for layer in (a, nn.Tanh())][:-1])

    def forward(self, x):
        z = 2 * torch.pi * x @ self.B
        return self.net(torch.cat([torch.sin(z), torch.cos(z)], dim=-1))

    return module(forward, net=net, B=draw(3, 4))


def normed(norm):
    return lambda: nn.Sequential(nn.Linear(3, 6), norm(6), nn.Tanh(), nn.Linear(6, 5), nn.SiLU(), norm(5), nn.Linear(5, 2))


def scaled_norm():
    net = normed(nn.LayerNorm)()
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.LayerNorm):
                layer.weight.copy_(draw(len(layer.weight)))
                layer.bias.copy_(draw(len(layer.bias)))
    return net


def batch_norm_last():
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.BatchNorm1d(5)).double()
    for _ in range(3):
        net(draw(9, 3) * 2 + 1)
    return net.eval()


def centred():
    net = nn.Sequential(*layers(3, 5), nn.Tanh(), nn.Linear(5, 2))
    return module(
        lambda self, x: self.net((x - self.mean) / self.std) * self.factor + 0.5,
        net=net,
        mean=draw(3),
        std=draw(3).abs() + 1,
        factor=draw(2),
    )


def tanh_twice():
    net = nn.Sequential(*layers(3, 5), nn.Tanh(), nn.Linear(5, 2))
    return module(lambda self, x: -torch.square(self.net(2 * (x - 0.5))) - x[:, :2] * 3.0, net=net)


STEPS = {
    "a residual": residual,
    "residual blocks": lambda: nn.Sequential(Block(3, 5), Block(5, 5), nn.Linear(5, 2)),
    "dense skips": dense,
    "gates": gated,
    "an input-convex network": convex,
    "Fourier features": fourier,
    "LayerNorm": normed(nn.LayerNorm),
    "LayerNorm with its parameters": scaled_norm,
    "LayerNorm without them": normed(lambda n: nn.LayerNorm(n, elementwise_affine=False)),
    "RMSNorm": normed(nn.RMSNorm),
    "PReLU": lambda: nn.Sequential(nn.Linear(3, 5), nn.PReLU(), nn.Linear(5, 4), nn.PReLU(4, init=-0.3), nn.Linear(4, 2)),
    "a batch norm last": batch_norm_last,
    "an affine end and buffers": centred,
    "squares, signs and a slice": tanh_twice,
    "a factor before tanh": lambda: module(lambda self, x: self.b(torch.tanh(3 * self.a(x))), a=nn.Linear(3, 4), b=nn.Linear(4, 2)),
    "log cosh in a skip": lambda: module(lambda self, x: x + self.b(self.a(x).cosh().log()), a=nn.Linear(3, 4), b=nn.Linear(4, 3)),
    "activations one behind the other": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Softplus(), nn.Linear(4, 2)),
}

CHAINS = {
    "SIREN": lambda: module(lambda self, x: self.b(torch.sin(30 * self.a(x))), a=nn.Linear(3, 4), b=nn.Linear(4, 2)),
    "factors behind activations": lambda: module(
        lambda self, x: self.b(torch.tanh(self.a(x)) * 3 / 2) * -0.5, a=nn.Linear(3, 4), b=nn.Linear(4, 2)
    ),
    "a factor between layers": lambda: module(lambda self, x: self.b(-self.a(x).mul(2.0)), a=nn.Linear(3, 4), b=nn.Linear(4, 2)),
    "a slice of the outputs": lambda: module(lambda self, x: self.b(torch.tanh(self.a(x)))[:, 1:3], a=nn.Linear(3, 4), b=nn.Linear(4, 4)),
    "one output": lambda: module(lambda self, x: torch.tanh(self.b(self.a(x).sigmoid()))[..., -1], a=nn.Linear(3, 4), b=nn.Linear(4, 4)),
    "a squeezed output": lambda: module(lambda self, x: self.b(torch.tanh(self.a(x))).squeeze(-1), a=nn.Linear(3, 4), b=nn.Linear(4, 1)),
    "a reshaped output": lambda: module(lambda self, x: self.b(torch.tanh(self.a(x))).view(-1, 2, 3), a=nn.Linear(3, 4), b=nn.Linear(4, 6)),
    "functions of the table": lambda: module(
        lambda self, x: F.hardswish(self.b(F.logsigmoid(self.a(F.mish(self.b(F.selu(self.a(x)))))))), a=nn.Linear(3, 4), b=nn.Linear(4, 3)
    ),
    "log cosh as functions": lambda: module(lambda self, x: self.b(torch.log(torch.cosh(self.a(x)))), a=nn.Linear(3, 4), b=nn.Linear(4, 2)),
    "modules of the table": lambda: nn.Sequential(
        *[
            layer
            for act in (nn.Mish(), nn.SELU(), nn.CELU(0.7), LogCosh(), nn.LogSigmoid(), nn.Hardswish())
            for layer in (nn.Linear(3, 3), act)
        ]
    ),
    "a weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 5)), nn.Tanh(), nn.Linear(5, 2)),
    "an orthogonal weight": lambda: nn.Sequential(
        nn.Linear(3, 5), nn.Tanh(), parametrizations.orthogonal(nn.Linear(5, 5)), nn.Tanh(), nn.Linear(5, 2)
    ),
    "a spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(3, 2)).eval(),
}


def built(make, dtype=torch.float64):
    torch.manual_seed(0)
    return make().to(dtype)


class Plain(nn.Module):
    """What torch itself differentiates wrongly (LayerNorm, three times) or in single precision (CELU, Hardswish), in plain operations."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, h):
        if isinstance(self.layer, nn.Hardswish):
            return h * (h + 3).clamp(0, 6) / 6
        if isinstance(self.layer, nn.CELU):
            return torch.where(h > 0, h, self.layer.alpha * torch.expm1(h.clamp_max(0) / self.layer.alpha))
        c = h - h.mean(-1, keepdim=True)
        n = c * torch.rsqrt(c.square().mean(-1, keepdim=True) + self.layer.eps)
        return n if self.layer.weight is None else n * self.layer.weight + self.layer.bias


def truth(net, x):
    """x, y, J with a graph, and H, of a batch in float64, by reverse over reverse."""
    x = x.detach().double().requires_grad_()
    if isinstance(net, nn.Sequential):
        net = nn.Sequential(*[Plain(layer) if isinstance(layer, nn.LayerNorm | nn.CELU | nn.Hardswish) else layer for layer in net])
    y = net(x).reshape(len(x), -1)
    J = torch.stack([torch.autograd.grad(y[:, p].sum(), x, create_graph=True)[0] for p in range(y.shape[1])], 1)

    def second(g):
        if not g.requires_grad:
            return torch.zeros_like(x)
        return torch.autograd.grad(g, x, retain_graph=True, allow_unused=True, materialize_grads=True)[0]

    H = torch.stack([torch.stack([second(J[:, p, d].sum()) for d in range(J.shape[2])], 1) for p in range(J.shape[1])], 1)
    return x, y, J, H


def close(found, exact, dtype=torch.float64):
    rtol, atol = (1e-10, 1e-11) if dtype is torch.float64 else (2e-4, 2e-4)
    torch.testing.assert_close(found.detach().double(), exact.detach(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", [*STEPS, *CHAINS])
def test_every_quantity(name, dtype):
    net = built({**STEPS, **CHAINS}[name], dtype)
    exact = copy.deepcopy(net).double()
    x = draw(5, 3).to(dtype)
    _, y, J, H = truth(exact, x)
    for method in ("auto", "forward", "reverse", "mixed"):
        found = jac.value_and_jacobian(net, x, method)
        close(found[0], y, dtype)
        close(found[1], J, dtype)
        close(jac.jacobian(net, x, method, wrt=[2, 0]), J[..., [2, 0]], dtype)
        close(jac.jacobian(net, x[0], method), J[0], dtype)
        assert jac.jacobian(net, x[:0], method).shape == (0, *J.shape[1:])
    close(jac.jacobian(net, x.reshape(1, 5, 3)), J[None], dtype)
    _, one, lap = jac.laplacian(net, x)
    close(one, J, dtype)
    close(lap, H.diagonal(dim1=-2, dim2=-1).sum(-1), dtype)
    close(jac.laplacian(net, x, [0.5, 0.0, -2.0])[2], H.diagonal(dim1=-2, dim2=-1) @ torch.tensor([0.5, 0.0, -2.0]).double(), dtype)
    for method in ("auto", "symmetric", "forward-over-reverse"):
        close(jac.hessian(net, x, method), H, dtype)
    close(jac.hessian(net, x[1]), H[1], dtype)
    close(jac.hessian_diagonal(net, x), H.diagonal(dim1=-2, dim2=-1), dtype)
    v, u = draw(5, 3), draw(5, J.shape[1])
    close(jac.jvp(net, x, v.to(dtype)), (J @ v[..., None])[..., 0], dtype)
    close(jac.vjp(net, x, u.to(dtype)), (u[:, None] @ J)[:, 0], dtype)
    close(jac.hvp(net, x, v.to(dtype)), (H @ v[:, None, :, None])[..., 0], dtype)
    close(jac.hvp(net, x, v.to(dtype), u.to(dtype)), torch.einsum("npde,ne,np->nd", H, v, u), dtype)


@pytest.mark.parametrize("method", ["auto", "forward:eager", "reverse:eager"])
@pytest.mark.parametrize("name", [*STEPS, *CHAINS])
def test_graphs(name, method):
    net, x = built({**STEPS, **CHAINS}[name]), draw(4, 3)
    leaf = x.clone().requires_grad_()
    parameters = [p for p in net.parameters() if p.requires_grad]
    y, J = jac.value_and_jacobian(net, leaf, method, create_graph=True)
    at, y0, J0, _ = truth(net, x)
    options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    found = torch.autograd.grad(J.pow(3).sum() + y.square().sum(), [leaf, *parameters], **options)
    expected = torch.autograd.grad(J0.pow(3).sum() + y0.square().sum(), [at, *parameters], **options)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", STEPS)
def test_laplacians_go_back(name):
    net, x = built(STEPS[name]), draw(4, 3)
    parameters = [p for p in net.parameters() if p.requires_grad]
    options = {"allow_unused": True, "materialize_grads": True}
    _, _, lap = jac.laplacian(net, x, create_graph=True)
    at, _, J, _ = truth(net, x)
    second = [torch.autograd.grad(J[:, :, d].sum(), at, create_graph=True)[0][:, d].sum() for d in range(3)] if J.requires_grad else []
    if not lap.requires_grad or not sum(second, torch.zeros(())).requires_grad:
        pytest.skip("zero everywhere")
    torch.testing.assert_close(
        torch.autograd.grad(lap.sum(), parameters, **options), torch.autograd.grad(sum(second), parameters, **options)
    )


@pytest.mark.parametrize("name", STEPS)
def test_it_says_that_it_has_no_kernels(name):
    net = built(STEPS[name])
    text = jac.plan(net, draw(5, 3)).explain()
    assert "step by step in torch, for it is no chain of layers: " in text
    with pytest.raises(ValueError, match="computes chains of layers, and this network is none"):
        jac.jacobian(net, draw(5, 3), "forward:native")


@pytest.mark.skipif(not available(), reason="no C compiler")
@pytest.mark.parametrize("name", CHAINS)
def test_what_is_still_a_chain_has_kernels(name):
    net, x = built(CHAINS[name]), draw(5, 3)
    J = truth(net, x)[2]
    for mode in ("forward", "reverse", "mixed"):
        close(jac.jacobian(net, x, f"{mode}:native"), J)
    assert "step by step" not in jac.plan(net, x).explain()


def test_derivatives_by_parameters_of_a_chain_with_factors():
    net, x = built(CHAINS["factors behind activations"]), draw(5, 3)
    target = draw(5, 2)
    g = jac.gradient(net, x, target)
    nn.functional.mse_loss(net(x), target).backward()
    torch.testing.assert_close(tuple(g.parameters()), tuple(p.grad for p in net.parameters()))


@pytest.mark.parametrize("name", ["a residual", "a weight norm", "a slice of the outputs"])
def test_derivatives_by_parameters_that_are_not_known_are_refused(name):
    net, x = built({**STEPS, **CHAINS}[name]), draw(5, 3)
    P = net(x).shape[1]
    for call in (
        lambda: jac.gradient(net, x, torch.zeros(5, P, dtype=torch.float64)),
        lambda: jac.parameter_jacobian(net, x),
        lambda: jac.ntk(net, x),
        lambda: jac.per_sample_gradient_norms(net, x, torch.zeros(5, P, dtype=torch.float64)),
    ):
        with pytest.raises(ValueError, match="derivatives"):
            call()


class TestLaterChanges:
    """What decides the value is read at each call."""

    @pytest.mark.parametrize("name", [*STEPS, *CHAINS])
    def test_parameters_and_buffers(self, name):
        net, x = built({**STEPS, **CHAINS}[name]), draw(5, 3)
        mlp = jac.MLP.from_torch(net)
        before = jac.jacobian(mlp, x)
        with torch.no_grad():
            for t in net.state_dict().values():
                if t.is_floating_point():
                    t.mul_(1.25)
        J = truth(net, x)[2]
        for given in (mlp, net):
            close(jac.jacobian(given, x), J)
            close(jac.laplacian(given, x)[1], J)
        assert not torch.allclose(before, J.detach())

    def test_a_replaced_parameter(self):
        net, x = built(residual), draw(5, 3)
        jac.jacobian(net, x)
        net.f.weight = nn.Parameter(draw(6, 6))
        close(jac.jacobian(net, x), truth(net, x)[2])

    def test_another_layer_is_followed_for_a_module_and_refused_for_a_network_made_of_it(self):
        net, x = built(scaled_norm), draw(5, 3)
        mlp = jac.MLP.from_torch(net)
        jac.jacobian(net, x)
        net[2] = nn.Sigmoid()
        close(jac.jacobian(net, x), truth(net, x)[2])
        with pytest.raises(ValueError, match="wrap"):
            jac.jacobian(mlp, x)
        del net[1]
        net[4] = nn.Identity()
        close(jac.jacobian(net, x), truth(net, x)[2])
        assert "step by step" not in jac.plan(net, x).explain()

    def test_settings_and_flags(self):
        net, x = built(normed(nn.LayerNorm)), draw(5, 3)
        jac.jacobian(net, x)
        net[1].eps = 0.5
        close(jac.jacobian(net, x), truth(net, x)[2])
        net, x = built(batch_norm_last), draw(5, 3)
        jac.jacobian(net, x)
        with pytest.raises(ValueError, match=r"call module\.eval"):
            jac.jacobian(net.train(), x)
        close(jac.jacobian(net.eval(), x), truth(net, x)[2])

    def test_it_dies_with_its_module(self):
        net = built(residual)
        jac.jacobian(net, draw(5, 3))
        gone = weakref.ref(net), weakref.ref(network_of(net)), weakref.ref(net.f.weight)
        del net
        assert [ref() for ref in gone] == [None] * 3

    def test_copies(self):
        net, x = built(residual), draw(5, 3)
        J = jac.jacobian(net, x)
        close(jac.jacobian(copy.deepcopy(jac.MLP.from_torch(net)), x), J)
        norm = built(scaled_norm)
        close(jac.jacobian(pickle.loads(pickle.dumps(jac.MLP.from_torch(norm))), x), jac.jacobian(norm, x))


class TestParametrizations:
    def test_one_of_a_user(self):
        class Positive(nn.Module):
            def forward(self, W):
                return W.exp()

        net, x = built(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))), draw(5, 3)
        parametrize.register_parametrization(net[0], "weight", Positive())
        J = truth(net, x)[2]
        for method in ("auto", "reverse:native", "forward:eager"):
            close(jac.jacobian(net, x, method), J)

    def test_a_spectral_norm_in_training_moves_and_is_refused(self):
        net, x = built(lambda: parametrizations.spectral_norm(nn.Linear(3, 2))), draw(5, 3)
        with pytest.raises(ValueError, match=r"spectral norm in training mode.* call module\.eval\(\)"):
            jac.jacobian(net.train(), x)
        J = jac.jacobian(net.eval(), x)
        close(J, truth(net, x)[2])
        with pytest.raises(ValueError, match="spectral norm in training mode"):
            jac.jacobian(net.train(), x)

    def test_one_that_draws_is_refused(self):
        class Noisy(nn.Module):
            def forward(self, W):
                return W + torch.rand(())

        net = nn.Linear(3, 2)
        parametrize.register_parametrization(net, "weight", Noisy(), unsafe=True)
        with pytest.raises(ValueError, match="another weight each time"):
            jac.jacobian(net, torch.zeros(5, 3))


REFUSED = {
    "a convolution": lambda: nn.Sequential(nn.Conv1d(3, 2, 1), nn.Flatten()),
    "an attention": lambda: module(lambda self, x: self.a(x, x, x)[0], a=nn.MultiheadAttention(3, 1)),
    "a quotient of values": lambda: module(lambda self, x: self.a(x) / (1 + self.b(x)), a=nn.Linear(3, 2), b=nn.Linear(3, 2)),
    "another norm": lambda: nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4)),
    "samples that meet": lambda: module(lambda self, x: self.a(x) - self.a(x).mean(0), a=nn.Linear(3, 2)),
    "random numbers": lambda: module(lambda self, x: self.a(x) + torch.rand(2), a=nn.Linear(3, 2)),
    "a value that stays": lambda: module(lambda self, x: self.a(x) * float(self.c), a=nn.Linear(3, 2), c=torch.ones(())),
    "widths that are broadcast": lambda: module(lambda self, x: self.a(x) + self.b(x), a=nn.Linear(3, 2), b=nn.Linear(3, 1)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_computed_right_is_refused(name):
    with pytest.raises((TypeError, ValueError)):
        jac.jacobian(REFUSED[name]().eval(), torch.zeros(5, 3))


class TestStacks:
    def nets(self):
        return [
            jac.MLP.random(widths=[3, 4, 2], seed=1, dtype=torch.float64),
            built(lambda: nn.Sequential(*layers(3, 5), nn.Tanh(), nn.Linear(5, 2))),
            built(residual),
        ]

    def test_results_have_a_first_axis(self):
        nets, x = self.nets(), draw(5, 3)
        E = jac.MLP.stack(nets)
        torch.testing.assert_close(E(x), torch.stack([net(x) for net in nets]))
        torch.testing.assert_close(jac.jacobian(E, x), torch.stack([jac.jacobian(net, x) for net in nets]))
        torch.testing.assert_close(jac.jacobian(E, x, wrt=1), torch.stack([jac.jacobian(net, x)[..., 1] for net in nets]))
        torch.testing.assert_close(jac.jacobian(E, x[None]), jac.jacobian(E, x)[:, None])
        for function in (jac.value_and_jacobian, jac.laplacian):
            for found, *each in zip(function(E, x), *[function(net, x) for net in nets], strict=True):
                torch.testing.assert_close(found, torch.stack(each))
        for function in (jac.hessian, jac.hessian_diagonal):
            torch.testing.assert_close(function(E, x), torch.stack([function(net, x) for net in nets]))
        blocks = jac.jacobian(E, (x[:, :1], x[:, 1:]))
        torch.testing.assert_close(torch.cat(blocks, -1), jac.jacobian(E, x))
        assert len(E) == 3
        assert len([*E.parameters()]) == sum(len([*net.parameters()]) for net in nets)

    def test_graphs_go_back_to_each(self):
        nets, x = self.nets()[1:], draw(5, 3)
        jac.jacobian(jac.MLP.stack(nets), x, create_graph=True).square().sum().backward()
        for net in nets:
            (g,) = torch.autograd.grad(jac.jacobian(net, x, create_graph=True).square().sum(), [next(net.parameters())])
            torch.testing.assert_close(next(net.parameters()).grad, g)

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match=r"same input and output width, dtype and device, got 3 to 2, .*; 3 to 4"):
            jac.MLP.stack([nn.Linear(3, 2), nn.Linear(3, 4)])
        with pytest.raises(ValueError, match="got none"):
            jac.MLP.stack([])
        with pytest.raises(TypeError, match="got int"):
            jac.MLP.stack([3])
        with pytest.raises(TypeError, match="got Stack"):
            jac.jvp(jac.MLP.stack(self.nets()), draw(5, 3), draw(5, 3))

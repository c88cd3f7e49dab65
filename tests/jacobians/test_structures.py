"""Networks that are no plain chain, each against torch.autograd in float64, reverse over reverse."""

import copy
import pickle
import re
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import jacobians as jac
from benchmarks.run.environment import ROOT
from jacobians.kernels.native.runner import available
from jacobians.network.from_torch import network_of
from tests.networks import CHAINS, STEPS, batch_norm_last, built, draw, layers, module, normed, residual, scaled_norm, truth


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
    double = dtype is torch.float64  # in single precision the planner's choice alone: the same lines in torch
    for method in ("auto", "forward", "reverse", "mixed") if double else ("auto",):
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
    for method in ("auto", "symmetric", "forward-over-reverse") if double else ("auto",):
        close(jac.hessian(net, x, method), H, dtype)
    close(jac.hessian(net, x[1]), H[1], dtype)
    close(jac.hessian_diagonal(net, x), H.diagonal(dim1=-2, dim2=-1), dtype)
    first, second = [(0, 0), (0, 2)], [(0, 0, 0), (0, 1, 2), (0, 2, 2), (J.shape[1] - 1, 0, 1)]
    names = ["0", *(f"{p}_x{d}" for p, d in first), *(f"{p}_{{x{d},x{e}}}" for p, d, e in second), "0_x0 + 2*0_x1"]
    values = [y[:, 0], *(J[:, p, d] for p, d in first), *(H[:, p, d, e] for p, d, e in second), J[:, 0, 0] + 2 * J[:, 0, 1]]
    for method in ("auto", "taylor"):
        for found, value in zip(jac.derivatives(net, x, names, method).values(), values, strict=True):
            close(found, value, dtype)
    close(jac.derivatives(net, x[1], ["laplacian(0)"])["laplacian(0)"], H[1, 0].trace(), dtype)
    v, u = draw(5, 3), draw(5, J.shape[1])
    close(jac.jvp(net, x, v.to(dtype)), (J @ v[..., None])[..., 0], dtype)
    close(jac.vjp(net, x, u.to(dtype)), (u[:, None] @ J)[:, 0], dtype)
    close(jac.hvp(net, x, v.to(dtype)), (H @ v[:, None, :, None])[..., 0], dtype)
    close(jac.hvp(net, x, v.to(dtype), u.to(dtype)), torch.einsum("npde,ne,np->nd", H, v, u), dtype)


@pytest.mark.parametrize("name", [*STEPS, *CHAINS])
def test_graphs(name):
    net, x = built({**STEPS, **CHAINS}[name]), draw(4, 3)
    parameters = [p for p in net.parameters() if p.requires_grad]
    options = {"allow_unused": True, "materialize_grads": True}
    at, y0, J0, _ = truth(net, x)
    expected = torch.autograd.grad(J0.pow(3).sum() + y0.square().sum(), [at, *parameters], **options)
    for method in ("auto", "forward:eager", "reverse:eager"):
        leaf = x.clone().requires_grad_()
        y, J = jac.value_and_jacobian(net, leaf, method, create_graph=True)
        found = torch.autograd.grad(J.pow(3).sum() + y.square().sum(), [leaf, *parameters], **options)
        torch.testing.assert_close(found, expected, msg=lambda text, method=method: f"{method}: {text}")


@pytest.mark.parametrize("name", STEPS)
def test_laplacians_go_back(name):
    net, x = built(STEPS[name]), draw(4, 3)
    parameters = [p for p in net.parameters() if p.requires_grad]
    options = {"allow_unused": True, "materialize_grads": True}
    _, _, lap = jac.laplacian(net, x, create_graph=True)
    at, _, J, _ = truth(net, x)
    second = [torch.autograd.grad(J[:, :, d].sum(), at, create_graph=True)[0][:, d].sum() for d in range(3)] if J.requires_grad else []
    if not lap.requires_grad or not sum(second, torch.zeros(())).requires_grad:
        assert name == "PReLU"
        assert not lap.any()
        return
    torch.testing.assert_close(
        torch.autograd.grad(lap.sum(), parameters, **options), torch.autograd.grad(sum(second), parameters, **options)
    )


@pytest.mark.parametrize("name", STEPS)
def test_it_says_that_it_has_no_kernels_and_no_higher_derivatives(name):
    net, x = built(STEPS[name]), draw(5, 3)
    text = jac.plan(net, x).explain()
    assert "step by step in torch, for it is no chain of layers: " in text
    with pytest.raises(ValueError, match="computes chains of layers, and this network is none"):
        jac.jacobian(net, x, "forward:native")
    with pytest.raises(ValueError, match="third and fourth derivatives of chains of layers alone"):
        jac.derivatives(net, x, ["0_{x0,x0,x0}"])


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


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of attention under vmap
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Flatten()),
            "layer 3 is a Conv1d",
        ),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)), "layer 0 is a Conv2d"),
        (
            lambda: module(lambda self, x: self.a(x[:, 0], x[:, 0], x[:, 0])[0].flatten(1), a=nn.MultiheadAttention(4, 2)),
            "layer a is a Multi",
        ),
        (
            lambda: module(
                lambda self, x: F.scaled_dot_product_attention(self.q(x), self.k(x), x).flatten(1), q=nn.Linear(4, 4), k=nn.Linear(4, 4)
            ),
            r"'scaled_dot_product_attention' \(scaled_dot_product_attention\) is no step that is known",
        ),
    ],
)
def test_convolutions_and_attention_are_refused_with_the_call_that_computes_them(make, message):
    torch.default_generator.manual_seed(0)
    net, x = make().eval(), draw(2, 1, 3, 4).float()
    with pytest.raises(TypeError, match=message) as refused:
        jac.jacobian(net, x)
    (call,) = re.findall(r"take (torch\.func\.vmap\(.*\)\(x\))", str(refused.value))
    J = eval(call, {"torch": torch, "net": net, "x": x})
    at = x[1:].clone().requires_grad_()
    (row,) = torch.autograd.grad(net(at).reshape(-1)[1], at)
    torch.testing.assert_close(J[1].reshape(-1, 12)[1], row.reshape(12), rtol=1e-4, atol=1e-6)


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


class TestPiecewiseLinear:
    """Second derivatives that are zero by construction are not returned without a word."""

    kinked = staticmethod(
        lambda: module(lambda self, x: self.b(x + self.p(self.a(x).relu())), a=nn.Linear(3, 3), p=nn.PReLU(), b=nn.Linear(3, 2))
    )

    @pytest.mark.parametrize(
        "call", [jac.laplacian, jac.hessian, lambda net, x: jac.hvp(net, x, x), lambda net, x: jac.derivatives(net, x, ["0_{x0,x0}"])]
    )
    def test_a_network_of_steps_warns(self, call):
        with pytest.warns(UserWarning, match=r"the network is piecewise linear \(relu, prelu\): .* take a smooth activation"):
            call(built(self.kinked), draw(5, 3))

    def test_first_derivatives_and_smooth_networks_do_not(self, recwarn):
        jac.jacobian(built(self.kinked), draw(5, 3))
        for name in ("LayerNorm", "gates", "a batch norm last"):
            jac.hessian(built(STEPS[name]), draw(5, 3))
        assert not [w for w in recwarn if "piecewise" in str(w.message)]


DOCUMENTED = {
    "chain of layers; factors behind layers, `sin(30 * z)`; views at the end": [
        "SIREN",
        "factors behind activations",
        "a factor between layers",
        "a squeezed output",
        "a reshaped output",
        "functions of the table",
        "log cosh as functions",
        "modules of the table",
    ],
    "parametrizations, outputs left out, batch norm beside a linear layer": [
        "a slice of the outputs",
        "one output",
        "a weight norm",
        "an orthogonal weight",
        "a spectral norm",
        "a batch norm behind a linear layer",
    ],
    "affine ends and constants, `2 * (x - 0.5)`, buffers, `tanh(3 * z)`": [
        "an affine end and buffers",
        "squares, signs and a slice",
        "a factor before tanh",
        "activations one behind the other",
    ],
    "skips, projected or dense": ["a residual", "residual blocks", "dense skips", "log cosh in a skip"],
    "gates; input-convex networks": ["gates", "an input-convex network"],
    "LayerNorm, RMSNorm, a batch norm elsewhere": [
        "LayerNorm",
        "LayerNorm with its parameters",
        "LayerNorm without them",
        "RMSNorm",
        "a batch norm last",
    ],
    "PReLU": ["PReLU"],
    "fixed Fourier features, random features": ["Fourier features"],
}
QUANTITIES = {
    "y, J": [("value", (), None), ("jacobian", (), None)],
    "Laplacian": [("laplacian", (torch.ones(1, 3).double(),), None)],
    "Hessian": [("hessian", (), None)],
    "by name, order 1, 2": [("derivatives", (), "{0}_x0"), ("derivatives", (), "{0} {0}_x1 {0}_{{x0,x2}}")],
    "order 3, 4": [("derivatives", (), "{0}_{{x0,x0,x1}}"), ("derivatives", (), "{0}_{{x0,x0,x1,x2}}")],
    "by the parameters": [("gradient", None, None), ("gradient_norms", None, None), ("jacobian_gradient", (), None)],
}


def computed(net, quantity, others, asked):
    """Say what computes a quantity of a network: C, torch, or nothing."""
    mlp, x = jac.MLP.from_torch(net), draw(5, 3)
    others = (torch.zeros(5, mlp.P).double(),) if others is None else others
    asked = asked and asked.format("y0" if mlp.P > 1 else "y")
    for implementation, word in (("native", "C"), ("eager", "torch")):
        for method in jac.methods(f"*:{implementation}", quantity=quantity):
            try:
                jac.plan(mlp, x, method.name, quantity=quantity, others=others, asked=asked)
            except ValueError:
                continue
            return word
    return "no"


@pytest.mark.needs_compiler
@pytest.mark.filterwarnings("ignore:the network is piecewise linear:UserWarning")
def test_the_documentation_says_what_has_kernels():
    cases = {**STEPS, **CHAINS}
    assert sorted(name for names in DOCUMENTED.values() for name in names) == sorted(cases)
    lines = [f"| structure | {' | '.join(QUANTITIES)} |", "|:---" + "|:---:" * len(QUANTITIES) + "|"]
    for structure, names in DOCUMENTED.items():
        nets = [built(cases[name]) for name in names]
        found = [{computed(net, *asked) for net in nets for asked in quantities} for quantities in QUANTITIES.values()]
        assert all(len(words) == 1 for words in found), (structure, found)
        lines.append(f"| {structure} | {' | '.join(words.pop() for words in found)} |")
    assert "\n".join(lines) in (ROOT / "docs" / "networks.md").read_text(encoding="utf-8"), "\n".join(lines)


def test_a_stored_jacobian_goes_on_with_the_same_steps_alone(tmp_path):
    pytest.importorskip("zarr")

    def made(phi):
        return built(lambda: module(lambda self, x: self.b(x + phi(self.a(x))), a=nn.Linear(3, 3), b=nn.Linear(3, 2)))

    net, x = made(torch.tanh), draw(6, 3)
    jac.compute_to_disk(net, x, tmp_path / "J", samples_per_chunk=4)
    torch.testing.assert_close(torch.from_numpy(jac.open_stored(tmp_path / "J").array[:]), jac.jacobian(net, x))
    jac.compute_to_disk(made(torch.tanh), x, tmp_path / "J", samples_per_chunk=4)
    with pytest.raises(ValueError, match="steps"):
        jac.compute_to_disk(made(torch.sin), x, tmp_path / "J", samples_per_chunk=4)

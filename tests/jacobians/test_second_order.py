"""Laplacians, Hessians and what is pulled back through them and through J: every method, against autograd alone in float64."""

import copy
import itertools

import mpmath
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import hessian as autograd_hessian

import jacobians as jac
from jacobians.kernels.native import input_derivatives, pullback, runner
from jacobians.network.activations import RULES, activation
from jacobians.planning.inputs import problem_of
from jacobians.planning.registry import find_quantity
from tests import oracles
from tests.cases import ACTIVATIONS, BATCHES, WIDTHS, for_each, network, served

QUANTITIES = ("laplacian", "hessian", "jacobian_gradient", "laplacian_gradient")
EVERY = [m for quantity in QUANTITIES for m in jac.methods(quantity=quantity)]
SECOND = [m for m in EVERY if m.implementation != "torch.compile" and m.device in {None, "cpu"}]
OURS = [m.name for m in SECOND if m.hand_written]
NATIVE = [m.name for m in SECOND if m.implementation == "native"]
OF_BATCHES = [m.name for m in SECOND if m.runtime == "jax" or m.short == "forward-over-reverse:torch.func"]
TOLERANCE = {torch.float64: 1e-11, torch.float32: 3e-5}  # relative, Frobenius, of each tensor
EXACT = {}  # of networks that several methods are held against
needs_c = pytest.mark.skipif(not runner.available(), reason="no C compiler")


def by_hessians(mlp, x):
    """H of each output at each sample by `torch.autograd.functional.hessian` in float64."""
    exact, samples = mlp.to(dtype=torch.float64), x.detach().double().reshape(-1, mlp.D)
    rows = [torch.stack([autograd_hessian(lambda x, p=p: exact(x)[p], sample) for p in range(mlp.P)]) for sample in samples]
    H = torch.stack(rows) if rows else torch.zeros(0, mlp.P, mlp.D, mlp.D, dtype=torch.float64)
    return H.reshape(*x.shape[:-1], mlp.P, mlp.D, mlp.D)


def inputs_of(quantity, x):
    weights = torch.linspace(0.5, 1.5, x.shape[-1], dtype=x.dtype)
    return (x, torch.stack([torch.ones_like(weights), weights])) if quantity == "laplacian" else (x,)


def compute(method, problem, mlp, inputs):
    if len(inputs) == 1:
        inputs = (*inputs, *[t.to(inputs[0].dtype) for t in find_quantity(method.quantity).draw(problem, torch.Generator())])
    if method.implementation == "folx":
        inputs = (inputs[0], inputs[1][:1])
    computation = method.prepare(mlp, problem, jac.Request())
    with torch.no_grad():
        found = computation.restore(computation.run(computation.convert(inputs[0] if len(inputs) == 1 else inputs))[1])
    inputs, problem = tuple(t.double() for t in inputs), problem.with_(dtype="float64")
    key = (problem, mlp.activations, *(t.double().numpy().tobytes() for t in (*inputs, *mlp.parameters())))
    if key not in EXACT:
        EXACT[key] = find_quantity(method.quantity).exact(mlp.to(dtype=torch.float64), problem, inputs)
    return found, EXACT[key]


def check(name, mlp, x, refusal=None):
    method = jac.find_method(name)
    problem = problem_of(mlp, x).with_(quantity=method.quantity)
    if not served(name, problem, refusal):
        return
    found, exact = compute(method, problem, mlp, inputs_of(method.quantity, x))
    assert len(found) == len(exact)
    scale = max((t.norm().item() for t in exact), default=1.0)
    for one, other in zip(found, exact, strict=True):
        assert one.shape == other.shape
        assert one.dtype == x.dtype
        error = (one.double() - other).norm().item() / max(other.norm().item(), 1e-3 * scale, 1e-30)
        assert error <= TOLERANCE[x.dtype], (name, tuple(one.shape), error)


def test_the_oracles_are_the_hessians_of_autograd():
    for batch in (None, 3):
        mlp, x = network((3, 6, 5, 2), batch=batch, bias=True, activation="softplus")
        H = by_hessians(mlp, x)
        problem = problem_of(mlp, x)
        weights = torch.randn(2, 3, dtype=torch.float64)
        torch.testing.assert_close(find_quantity("hessian").exact(mlp, problem, (x,))[0], H)
        lap = find_quantity("laplacian").exact(mlp, problem, (x, weights))[2]
        torch.testing.assert_close(lap, torch.einsum("...pdd,md->...pm", H, weights))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("method", [m.name for m in SECOND])
def test_every_method(method, dtype):
    def each(batch):
        mlp, x = network((4, 6, 5, 3), batch=batch, bias=True, dtype=dtype)
        check(method, mlp, x, "is written for a batch; pass x[None]" if batch is None and method in OF_BATCHES else None)

    for_each(itertools.product([None, 7]), each)


@pytest.mark.parametrize("method", OURS)
def test_shapes(method):
    def each(widths, batch):
        nothing = batch == 0 and "_gradient/" in method
        check(method, *network(widths, batch=batch, bias=False), "has nothing to do for an empty batch" if nothing else None)

    for_each(itertools.product(WIDTHS.values(), BATCHES), each)


@pytest.mark.parametrize("method", OURS)
def test_activations(method):
    def each(name, output):
        mlp, x = network((4, 6, 5, 3), batch=5, bias=True, activation=name, output_activation=output)
        check(method, mlp, x / 4)  # an output far out on tanh has nothing left but the rounding of 1 - h²

    for_each(itertools.product(ACTIVATIONS, ["identity", "tanh"]), each)


@needs_c
@pytest.mark.parametrize("method", NATIVE)
def test_blocks_and_threads(monkeypatch, set_threads, method):
    """Batches that fill blocks, miss them by one, and are shared out between threads."""

    def each(threads, N):
        set_threads(threads)
        check(method, *network((3, 18, 40, 2), batch=N, bias=True, dtype=torch.float32))

    monkeypatch.setattr(input_derivatives, "FEWEST_OPERATIONS", 0)
    for_each(itertools.product([1, 2, 3], [1, 2, 16, 17, 33, 64, 65, 130]), each)


BIG = ((65, 33, 31, 7), (3, 130, 129, 2), (130, 20, 1))


@needs_c
@pytest.mark.parametrize("sizes", [((1, 1), (5, 33, 65), (17, 1, 40, 3)), pytest.param(BIG, marks=pytest.mark.long)], ids=str)
@pytest.mark.parametrize("method", NATIVE)
def test_sizes_that_are_no_multiple_of_a_vector(method, sizes):
    for_each(
        itertools.product(sizes, TOLERANCE),
        lambda widths, dtype: check(method, *network(widths, batch=37, bias=True, dtype=dtype)),
    )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_curvature_and_third_derivative_are_those_of_autograd(name):
    rule = activation(name)
    z = torch.cat([torch.linspace(-6, 6, 301, dtype=torch.float64), torch.tensor([-700.0, -40.0, 40.0, 300.0], dtype=torch.float64)])
    z = z.clamp(max=6) if name == "exp" else z.clamp(-6, 6) if "tanh'" in name else z  # beyond, autograd has inf - inf
    leaf = z.clone().requires_grad_()
    expected, d = [], rule.value(leaf)
    for _ in range(3):
        d = torch.autograd.grad(d.sum(), leaf, create_graph=True)[0] if d.requires_grad else torch.zeros_like(z)
        expected.append(d.detach())
    h = rule.value(z)
    found = [rule.slope(z, h), rule.curvature(z, h), rule.third(z, h)]
    for order, (one, other) in enumerate(zip(found, expected, strict=True)):
        one = torch.full_like(z, float(order == 0)) if one is None else one
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


MP = {
    "tanh": mpmath.tanh,
    "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
    "softplus": lambda z: mpmath.log(1 + mpmath.exp(z)),
    "gelu": lambda z: z * mpmath.erfc(-z / mpmath.sqrt(2)) / 2,
    "gelu(approximate='tanh')": lambda z: z / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (z + mpmath.mpf("0.044715") * z**3))),
    "silu": lambda z: z / (1 + mpmath.exp(-z)),
    "sine(omega=3.0)": lambda z: mpmath.sin(3 * z),
    "softsign": lambda z: z / (1 + abs(z)),
    "exp": mpmath.exp,
    "mish": lambda z: z * mpmath.tanh(mpmath.log(1 + mpmath.exp(z))),
    "log_sigmoid": lambda z: -mpmath.log(1 + mpmath.exp(-z)),
    "log_cosh": lambda z: mpmath.log(mpmath.cosh(z)),
}


@pytest.mark.parametrize("name", MP)
def test_second_and_third_derivatives_in_many_digits(name):
    """Of the table, and as the kernel has them: of a network of one neuron, φ'' is its Laplacian and φ''' that one's derivative by x."""
    z = torch.tensor([-9.5, -3.25, -0.75, -0.125, 0.25, 1.5, 4.75, 12.0], dtype=torch.float64)
    with mpmath.workdps(60):
        exact = [[float(mpmath.diff(MP[name], mpmath.mpf(v), order)) for v in z.tolist()] for order in (2, 3)]
    rule = activation(name)
    h = rule.value(z)
    x = z[:, None].clone().requires_grad_()
    mlp = jac.MLP([torch.ones(1, 1, dtype=torch.float64)], output_activation=name)
    for method in ("forward:eager", "forward:native") if runner.available() else ("forward:eager",):
        _, _, lap = jac.laplacian(mlp, x, method=method, create_graph=True)
        (third,) = torch.autograd.grad(lap.sum(), x)
        for found, other in zip((lap[:, 0], third[:, 0]), exact, strict=True):
            torch.testing.assert_close(found, torch.tensor(other, dtype=torch.float64), rtol=1e-8, atol=1e-12)
    for found, other in zip((rule.curvature(z, h), rule.third(z, h)), exact, strict=True):
        torch.testing.assert_close(found, torch.tensor(other, dtype=torch.float64), rtol=1e-8, atol=1e-12)


LAPLACIANS = ("laplacian/forward:native", "laplacian/forward:eager")
GRADCHECKED = (*LAPLACIANS, "hessian/symmetric:eager", "reverse:native", "loss")
KINKS = {"relu", "leaky_relu", "elu", "selu", "celu", "relu6", "hardtanh", "hardswish"}
SMOOTH = [name for name in RULES if name not in KINKS]  # others have kinks, which finite differences may meet


# Every activation once in C and once in torch, with biases in a batch; without one or both, where activations make no difference, tanh.
@pytest.mark.parametrize(
    ("what", "name", "batch", "bias"),
    [
        *((what, name, 3, True) for what in GRADCHECKED for name in (SMOOTH if what in LAPLACIANS else ("tanh", "gelu"))),
        *((what, "tanh", batch, bias) for what in GRADCHECKED for batch, bias in ((None, True), (None, False), (3, False))),
    ],
)
def test_gradcheck_in_x_and_all_parameters(what, name, batch, bias):
    if "native" in what and not runner.available():
        pytest.skip("no C compiler")
    template, x = network((2, 4, 3, 2), batch=batch, activation=name, output_activation="tanh", bias=bias)
    weights = torch.tensor([0.5, -2.0], dtype=torch.float64)
    biased = [b is not None for b in template.biases]

    def f(x, *parameters):
        rest = iter(parameters)
        pairs = [(next(rest), next(rest) if b else None) for b in biased]
        mlp = jac.MLP([W for W, _ in pairs], [b for _, b in pairs], name, "tanh")
        if what.startswith("laplacian"):
            return jac.laplacian(mlp, x, weights, method=what, create_graph=True)
        if what.startswith("hessian"):
            return jac.hessian(mlp, x, method=what, create_graph=True)
        if what == "loss":
            return jac.jacobian_loss(mlp, x, torch.ones(problem_of(mlp, x).jacobian_shape, dtype=x.dtype))
        return jac.value_and_jacobian(mlp, x, method=what, create_graph=True)

    leaves = [t.detach().clone().requires_grad_() for t in (x, *template.parameters())]
    assert gradcheck(f, leaves, fast_mode=True)
    if what.endswith("eager") and bias:
        assert gradgradcheck(f, leaves, fast_mode=True)


@pytest.mark.parametrize("output", ["identity", "sigmoid"])
@pytest.mark.parametrize("widths", [(3, 9, 8, 2), (2, 9, 8, 5), (4, 3)], ids=str)
@pytest.mark.parametrize("batch", [None, 40])
def test_the_loss_of_a_jacobian(widths, batch, output):
    mlp, x = network(widths, batch=batch, bias=True, output_activation=output)
    leaves = [t.requires_grad_() for t in (x, *mlp.parameters())]
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(problem_of(mlp, x).jacobian_shape, generator=generator, dtype=x.dtype)
    for given in (None, target):
        J = jac.jacobian(mlp, x, "reverse:eager", create_graph=True)
        exact = (J if given is None else J - given).square().mean()
        loss = jac.jacobian_loss(mlp, x, given)
        torch.testing.assert_close(loss, exact)
        expected = torch.autograd.grad(3 * exact, leaves, materialize_grads=True)
        first = torch.autograd.grad(3 * loss, leaves, retain_graph=True, materialize_grads=True)
        first[1].zero_()  # what is handed out is the caller's own
        torch.testing.assert_close(torch.autograd.grad(3 * loss, leaves, materialize_grads=True), expected)
    with torch.no_grad():
        torch.testing.assert_close(jac.jacobian_loss(mlp, x, target), exact.detach())


def test_products_with_the_jacobian_and_the_hessian():
    for batch in (None, 4):
        for output in ("identity", "tanh", "softmax"):
            mlp, x = network((3, 6, 5, 2), batch=batch, bias=True, output_activation=output)
            J = oracles.autograd(mlp, x)
            v, u = torch.randn_like(x), torch.randn(*x.shape[:-1], 2, dtype=x.dtype)
            torch.testing.assert_close(jac.jvp(mlp, x, v), (J @ v[..., None])[..., 0])
            torch.testing.assert_close(jac.vjp(mlp, x, u), (u[..., None, :] @ J)[..., 0, :])
            if output == "softmax":
                with pytest.raises(ValueError, match="hvp has no second derivative of softmax"):
                    jac.hvp(mlp, x, v)
                continue
            H = by_hessians(mlp, x)
            torch.testing.assert_close(jac.hvp(mlp, x, v), torch.einsum("...pde,...e->...pd", H, v))
            torch.testing.assert_close(jac.hvp(mlp, x, v, u), torch.einsum("...pde,...e,...p->...d", H, v, u))
            torch.testing.assert_close(jac.hessian_diagonal(mlp, x), H.diagonal(dim1=-2, dim2=-1))
            leaves = [t.detach().requires_grad_() for t in (x, v, u)]
            assert gradcheck(lambda x, v, u, mlp=mlp: jac.hvp(mlp, x, v, u, create_graph=True), leaves, fast_mode=True)
            assert gradcheck(lambda x, v, mlp=mlp: jac.jvp(mlp, x, v, create_graph=True), leaves[:2], fast_mode=True)
            assert gradcheck(lambda x, u, mlp=mlp: jac.vjp(mlp, x, u, create_graph=True), (leaves[0], leaves[2]), fast_mode=True)
            assert not jac.hvp(mlp, leaves[0], v).requires_grad


class TestAutograd:
    """What a training loop does to the graph that the kernels are part of."""

    pytestmark = needs_c

    @pytest.fixture
    def module(self):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 7), nn.SiLU(), nn.Linear(7, 2)).double()

    @pytest.fixture
    def x(self):
        return torch.randn(11, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    @staticmethod
    def loss(mlp, x, native):
        """One that uses y, J and the Laplacian."""
        end = "native" if native else "eager"
        y, J = jac.value_and_jacobian(mlp, x, f"reverse:{end}", create_graph=True)
        _, J2, lap = jac.laplacian(mlp, x, method=f"forward:{end}", create_graph=True)
        return (y * J.sum(-1)).mean() + (lap * J2[..., 0]).square().mean()

    def test_accumulation_and_hooks(self, module, x):
        mlp, seen = jac.MLP.from_torch(module), []
        module[0].weight.register_hook(lambda g: seen.append(g.clone()))
        grads = []
        for native in (True, False):
            module.zero_grad()
            self.loss(mlp, x, native).backward()
            self.loss(mlp, x, native).backward()
            grads.append([p.grad.clone() for p in module.parameters()])
        torch.testing.assert_close(*grads)
        torch.testing.assert_close(seen[0] + seen[1], grads[0][0])

    def test_several_losses_on_one_jacobian(self, module, x):
        mlp, parameters = jac.MLP.from_torch(module), list(module.parameters())
        found = []
        for method in ("forward:native", "forward:eager"):
            J = jac.jacobian(mlp, x, method, create_graph=True)
            first = torch.autograd.grad(J.square().sum(), parameters, retain_graph=True, materialize_grads=True)
            second = torch.autograd.grad(J[:, 0].sum(), parameters, materialize_grads=True)
            found.append((first, second))
        torch.testing.assert_close(*found)
        with pytest.raises(RuntimeError, match="a second time"):
            torch.autograd.grad(jac.jacobian(mlp, x, "forward:native").sum() + J.sum(), parameters)

    def test_mixed_requires_grad(self, module, x):
        module[0].weight.requires_grad_(False)
        module[2].bias.requires_grad_(False)
        mlp, leaf, found = jac.MLP.from_torch(module), x.clone().requires_grad_(), []
        for native in (True, False):
            module.zero_grad()
            leaf.grad = None
            self.loss(mlp, leaf, native).backward()
            found.append([leaf.grad, *[p.grad for p in module.parameters()]])
        assert [g is None for g in found[0]] == [g is None for g in found[1]]
        torch.testing.assert_close(*[[g for g in grads if g is not None] for grads in found])
        for p in module.parameters():
            p.requires_grad_(False)
        self.loss(mlp, leaf.detach().requires_grad_(), True).backward()
        assert not jac.jacobian(mlp, x, "forward:native", create_graph=True).requires_grad

    @pytest.mark.parametrize("part", [0, 1, 2])
    def test_one_of_the_three_alone(self, module, x, part):
        mlp, parameters = jac.MLP.from_torch(module), list(module.parameters())
        found = [
            torch.autograd.grad(
                jac.laplacian(mlp, x, method=f"forward:{end}", create_graph=True)[part].square().sum(), parameters, materialize_grads=True
            )
            for end in ("native", "eager")
        ]
        torch.testing.assert_close(*found)

    def test_a_third_derivative_is_refused_with_what_to_do(self, module, x):
        mlp, leaf = jac.MLP.from_torch(module), x.clone().requires_grad_()
        for value in (
            jac.jacobian(mlp, leaf, "reverse:native", create_graph=True).square().sum(),
            jac.laplacian(mlp, leaf, method="forward:native", create_graph=True)[2].sum(),
            jac.jacobian_loss(mlp, leaf),
        ):
            (g,) = torch.autograd.grad(value, leaf, create_graph=True)
            with pytest.raises(RuntimeError, match=r"compute with method='forward:eager' or 'reverse:eager'"):
                torch.autograd.grad(g.sum(), leaf)
        value = jac.jacobian(mlp, leaf, "reverse:eager", create_graph=True).square().sum()
        (g,) = torch.autograd.grad(value, leaf, create_graph=True)
        assert torch.autograd.grad(g.sum(), leaf)[0].abs().sum() > 0

    def test_parameters_changed_between_the_passes_are_noticed(self, module, x):
        mlp = jac.MLP.from_torch(module)
        J = jac.jacobian(mlp, x, "reverse:native", create_graph=True)
        with torch.no_grad():
            module[0].weight.add_(1.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            J.sum().backward()

    def test_training_by_torchs_optimizers_sees_each_step(self, module, x):
        """Two modules trained side by side, one through the kernels and one through autograd: the same parameters to rounding."""
        other = copy.deepcopy(module)
        for net, native in ((module, True), (other, False)):
            optimizer, mlp = torch.optim.Adam(net.parameters(), lr=0.05), jac.MLP.from_torch(net)
            for _ in range(20):
                optimizer.zero_grad()
                self.loss(mlp, x, native).backward()
                optimizer.step()
        torch.testing.assert_close(list(module.parameters()), list(other.parameters()), rtol=1e-6, atol=1e-8)
        assert not torch.equal(module[0].weight, module[0].weight * 0)

    def test_a_module_may_change_dtype_be_copied_and_loaded(self, module, x):
        mlp = jac.MLP.from_torch(module)
        before = jac.laplacian(mlp, x, create_graph=True)[2]
        module.float()
        _, _, lap = jac.laplacian(mlp, x.float(), create_graph=True)
        assert lap.dtype == torch.float32
        torch.testing.assert_close(lap.double(), before, rtol=1e-4, atol=1e-5)
        with pytest.raises(TypeError, match=r"x is torch\.float64 but the network is torch\.float32"):
            jac.laplacian(mlp, x)
        module.double()
        twin = copy.deepcopy(mlp)
        state = {name: value + 0.1 for name, value in module.state_dict().items()}
        module.load_state_dict(state)
        torch.testing.assert_close(jac.laplacian(twin, x)[2], before.detach(), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(jac.laplacian(mlp, x)[2], before)
        module[0].weight = nn.Parameter(torch.zeros_like(module[0].weight))
        assert jac.laplacian(mlp, x, create_graph=True)[2].abs().max() < 1e-12

    def test_what_a_push_kept_gives_what_is_computed_again(self, monkeypatch, module, x):
        found = []
        for most in (0, 2**40):
            monkeypatch.setattr(pullback, "KEPT_BYTES", most)
            mlp = jac.MLP.from_torch(module)
            _, J, lap = jac.laplacian(mlp, x, torch.eye(3).tolist(), method="forward:native", create_graph=True)
            found.append(torch.autograd.grad((lap.square().sum() + J.sum()), list(module.parameters()), materialize_grads=True))
        for one, other in zip(*found, strict=True):
            assert torch.equal(one, other)


def test_transforms_take_the_readable_methods():
    mlp, x = network((3, 6, 5, 2), batch=4, bias=True)
    _, _, lap = jac.laplacian(mlp, x)
    each = torch.func.vmap(lambda x: jac.laplacian(mlp, x)[2])(x)
    torch.testing.assert_close(each, lap)
    torch.testing.assert_close(torch.func.vmap(lambda x: jac.hessian(mlp, x))(x), by_hessians(mlp, x))
    grad = torch.func.grad(lambda x: jac.laplacian(mlp, x)[2].sum())(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(grad, torch.autograd.grad(jac.laplacian(mlp, leaf, create_graph=True)[2].sum(), leaf)[0])


def test_nothing_is_recorded_unless_asked_for():
    mlp, x = network((3, 6, 5, 2), batch=4, bias=True)
    for p in mlp.parameters():
        p.requires_grad_()
    for t in (*jac.laplacian(mlp, x.requires_grad_()), jac.hessian(mlp, x), jac.hessian_diagonal(mlp, x)):
        assert not t.requires_grad


@pytest.mark.filterwarnings("ignore:the network is piecewise linear:UserWarning")
def test_an_input_that_is_not_finite_has_no_derivatives():
    mlp, x = network((3, 6, 5, 2), batch=20, bias=True, activation="relu")
    x[3, 1] = torch.inf
    for method in ("forward:eager", "forward:native") if runner.available() else ("forward:eager",):
        _, J, lap = jac.laplacian(mlp, x, method=method)
        assert J[3].isnan().all()
        assert lap[3].isnan().all() or method == "forward:native"  # of a linear piece nothing is left to spoil
        assert J[[0, 19]].isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda mlp, x: jac.laplacian(mlp, x, [1.0, 2.0]), r"weights must have shape \(3,\) or \(M, 3\)"),
        (lambda mlp, x: jac.laplacian(mlp, x, torch.ones(3, requires_grad=True, dtype=x.dtype)), "weights are constants"),
        (lambda mlp, x: jac.laplacian(mlp, x, method="reverse"), "unknown method 'reverse'"),
        (lambda mlp, x: jac.hessian(mlp, x[:, :2]), "x has 2 features"),
        (lambda mlp, x: jac.jvp(mlp, x, x[0]), r"v must have shape \(4, 3\), got \(3,\)"),
        (lambda mlp, x: jac.vjp(mlp, x, x), r"u must have shape \(4, 2\)"),
        (lambda mlp, x: jac.hvp(mlp, x, x.float()), "v must be torch.float64"),
        (lambda mlp, x: jac.jacobian_loss(mlp, x, x), r"target must have the shape of J, \(4, 2, 3\)"),
        (lambda mlp, x: jac.jacobian_loss(mlp, x, torch.zeros(4, 2, 3)), "target must be a constant torch.float64"),
        (
            lambda mlp, x: jac.laplacian(jac.MLP(mlp.weights, output_activation="softmax"), x),
            "no hand-written method computes the laplacian of this network: .* has no second derivative of softmax",
        ),
    ],
)
def test_bad_input(call, message):
    mlp, x = network((3, 6, 2), batch=4)
    with pytest.raises((TypeError, ValueError), match=message):
        call(mlp, x)

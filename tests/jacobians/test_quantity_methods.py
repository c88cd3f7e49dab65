"""Every method of every quantity but the Jacobian, against dense matrices by torch.func, over losses, activations, shapes and threads."""

import itertools
from functools import cache

import pytest
import torch
import torch.fx.experimental.proxy_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.functional import hessian

import jacobians as jac
from jacobians.kernels.native import gradient as kernel
from jacobians.network.activations import RULES as ACTIVATIONS
from jacobians.network.losses import RULES as LOSSES
from jacobians.planning.inputs import problem_of
from jacobians.planning.registry import find_quantity
from jacobians.quantities.sgd_step import RATE
from tests.cases import for_each, in_threads, network, served
from tests.jacobians.test_losses import TORCH
from tests.oracles import parameter_jacobian, relative_error

BY_PARAMETERS = {"gradient", "gradient_norms", "ggn", "ntk", "sgd_step"}  # test_second_order.py has the others
OTHERS = [
    method
    for method in jac.methods("*/*")
    if method.implementation != "torch.compile" and method.device in {None, "cpu"} and method.quantity in BY_PARAMETERS
]
OURS = [method.name for method in OTHERS if method.hand_written]
NATIVE = [method.name for method in OTHERS if method.implementation == "native"]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}  # torch adds 1e-12 to y (1 - y) in the second derivative of bce


def loss_of(loss, y, target):
    """The loss by torch."""
    return loss.scale * TORCH[loss.name](y, target, reduction=loss.reduction)


def split(mlp, vector):
    """A vector of all parameters as tensors of their shapes."""
    parts = vector.split([p.numel() for p in mlp.parameters()])
    return tuple(part.reshape(p.shape) for part, p in zip(parts, mlp.parameters(), strict=True))


def expected(quantity, mlp, inputs, loss):
    """What a quantity is, from the dense parameter Jacobian in float64."""
    mlp, x, *others = mlp.to(dtype=torch.float64), *[t.double() if t.is_floating_point() else t for t in inputs]
    J, y = parameter_jacobian(mlp, x), mlp(x)
    F = J.flatten(0, 1)
    if quantity == "ntk":
        (N, P), M = y.shape, F @ F.mT
        return (M.unflatten(0, (N, P)).unflatten(2, (N, P)).transpose(1, 2),)
    target = others[0]
    leaf = y.clone().requires_grad_()
    value = loss_of(loss, leaf, target)
    (C,) = torch.autograd.grad(value, leaf)
    if quantity == "gradient_norms":
        own = jac.Loss(loss.name, loss.reduction, loss.scale)
        norms = []
        for n in range(len(x)):
            at = y[n : n + 1].clone().requires_grad_()
            (c,) = torch.autograd.grad(loss_of(own, at, target[n : n + 1]), at)
            norms.append((c.flatten() @ J[n]).norm())
        return (torch.stack(norms),)
    if quantity == "ggn":
        H = hessian(lambda y: loss_of(loss, y, target), y).reshape(y.numel(), y.numel())
        return split(mlp, F.mT @ (H @ (F @ others[1])))
    g = split(mlp, C.flatten() @ F)
    if quantity == "sgd_step":
        return value.detach(), *(p - RATE * d for p, d in zip(mlp.parameters(), g, strict=True))
    return value.detach(), *g


def case(quantity, widths, N, loss, *, bias=True, dtype=torch.float64, activation="tanh", output=None):
    """A network, the inputs of a quantity, and its problem."""
    output = output or ("sigmoid" if loss.name == "bce" else "identity")
    mlp, x = network(widths, batch=N, bias=bias, dtype=dtype, activation=activation, output_activation=output)
    what = find_quantity(quantity)
    problem = problem_of(mlp, x).with_(quantity=quantity, loss=str(loss) if what.loss else None)
    drawn = what.draw(problem, torch.Generator().manual_seed(7))
    return mlp, (x, *[t.to(dtype) if t.is_floating_point() else t for t in drawn]), problem


@cache
def exact_of(quantity, widths, N, loss, **options):
    """What several methods are held against."""
    mlp, inputs, _ = case(quantity, widths, N, loss, **options)
    return expected(quantity, mlp, inputs, loss)


def compute(name, mlp, inputs, problem):
    """Prepare and run a method as the benchmarks do."""
    method = jac.find_method(name)
    computation = method.prepare(mlp, problem, jac.Request())
    with torch.no_grad():
        found = computation.run(computation.convert(inputs[0] if len(inputs) == 1 else inputs))[1]
        return tuple(t.clone() for t in computation.restore(found))


def check(name, widths, N, loss, refusal=None, **options):
    mlp, inputs, problem = case(jac.find_method(name).quantity, widths, N, loss, **options)
    if not served(name, problem, refusal):
        return
    found, exact = compute(name, mlp, inputs, problem), exact_of(problem.quantity, widths, N, loss, **options)
    assert len(found) == len(exact)
    scale = max(t.norm().item() for t in exact)
    for one, other in zip(found, exact, strict=True):
        assert one.shape == other.shape
        assert one.dtype == inputs[0].dtype
        error = (one.double() - other).norm().item() / max(other.norm().item(), 1e-3 * scale, 1e-30)
        assert error <= TOLERANCE[inputs[0].dtype], (name, tuple(one.shape), error)


# Losses that a library does not know.
REFUSED = {
    "gradient/reverse:numpy": (("bce", "bce_with_logits"), "this notebook code knows mse, l1, cross_entropy, not"),
    "gradient_norms/reverse:backpack": (("l1", "bce", "bce_with_logits"), "BackPACK differentiates mse, cross_entropy, not"),
    "ggn/products:curvlinops": (("l1", "bce"), "curvlinops takes mse, cross_entropy, bce_with_logits, not"),
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("method", [method.name for method in OTHERS])
def test_every_method_and_loss(method, dtype):
    unknown, reason = REFUSED.get(method, ((), None))

    def each(loss):
        given = jac.Loss(loss, scale=0.5) if method in OURS else jac.Loss(loss)
        check(method, (4, 6, 5, 3), 7, given, dtype=dtype, refusal=reason if loss in unknown else None)

    for_each(itertools.product(LOSSES if find_quantity(jac.find_method(method).quantity).loss else ["mse"]), each)


@pytest.mark.parametrize("method", OURS)
def test_shapes(method):
    for_each(
        itertools.product([(3, 4), (1, 1, 1), (5, 9, 2, 17, 3), (2, 40, 40, 31), (70, 20, 130, 2)], [False, True]),
        lambda widths, bias: check(method, widths, 5, jac.Loss("mse", "sum"), bias=bias),
    )


@pytest.mark.parametrize("method", OURS)
def test_activations(method):
    for_each(
        itertools.product(ACTIVATIONS),
        lambda activation: check(method, (4, 6, 5, 3), 7, jac.Loss("mse"), activation=activation),
    )


@pytest.mark.parametrize("sizes", [(1, 16, 65), pytest.param((2, 33, 64, 130), marks=pytest.mark.long)], ids=str)
@pytest.mark.parametrize("method", NATIVE)
def test_blocks_and_threads(monkeypatch, set_threads, method, sizes):
    """Batches that fill blocks, miss them by one, and are shared out between threads in both ways."""
    monkeypatch.setattr(kernel, "FEWEST_OPERATIONS", 0)
    monkeypatch.setattr("jacobians.kernels.native.tangent_kernel.FEWEST_OPERATIONS", 0)
    monkeypatch.setattr(kernel, "FEWEST_BYTES", 0)

    def each(N, threads, together_bytes):
        monkeypatch.setattr(kernel, "TOGETHER_BYTES", together_bytes)
        set_threads(threads)
        check(method, (3, 18, 7, 2), N, jac.Loss("cross_entropy"))

    for_each(itertools.product(sizes, [1, 2, 3], [0, 2**60]), each)


@pytest.mark.long
def test_more_samples_than_are_summed_at_once(monkeypatch):
    monkeypatch.setattr(kernel, "TOGETHER_BYTES", 0)
    monkeypatch.setattr(kernel, "TOGETHER_SAMPLES", 192)
    check("gradient/reverse:native", (3, 130, 7), 600, jac.Loss("mse"))


def test_a_long_inner_dimension():
    check("gradient/reverse:native", (1100, 9, 1100, 2), 3, jac.Loss("mse", "sum"))


@settings(max_examples=30, deadline=None)
@given(
    widths=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    N=st.integers(1, 70),
    loss=st.sampled_from(["mse", "l1", "bce_with_logits", "cross_entropy"]),
    bias=st.booleans(),
    method=st.sampled_from(NATIVE),
)
def test_any_shape(widths, N, loss, bias, method):
    if jac.find_method(method).quantity == "gradient_norms" or N * widths[-1] < 400:
        check(method, tuple(widths), N, jac.Loss(loss), bias=bias)


@pytest.mark.parametrize("quantity", sorted(BY_PARAMETERS))
@pytest.mark.parametrize("loss", LOSSES)
def test_the_oracles_are_right_themselves(quantity, loss):
    loss = jac.Loss(loss)
    mlp, inputs, problem = case(quantity, (4, 6, 5, 3), 7, loss)
    for one, other in zip(find_quantity(quantity).exact(mlp, problem, inputs), expected(quantity, mlp, inputs, loss), strict=True):
        assert relative_error(one, other) < 1e-12


@pytest.mark.parametrize("method", NATIVE)
class TestKernels:
    def test_the_same_call_gives_the_same_bits_and_changes_nothing(self, method):
        mlp, inputs, problem = case(jac.find_method(method).quantity, (20, 40, 40, 3), 130, jac.Loss("mse"))
        before = [t.clone() for t in (*mlp.parameters(), *inputs)]
        first, second = compute(method, mlp, inputs, problem), compute(method, mlp, inputs, problem)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert all(torch.equal(a, b) for a, b in zip((*mlp.parameters(), *inputs), before, strict=True))

    def test_what_is_not_finite_shows(self, method):
        mlp, inputs, problem = case(jac.find_method(method).quantity, (4, 6, 3), 5, jac.Loss("mse"), activation="relu")
        for value in (float("nan"), float("inf")):
            x = inputs[0].clone()
            x[3, 1] = value
            found = compute(method, mlp, (x, *inputs[1:]), problem)
            assert not all(torch.isfinite(t).all() for t in found)

    def test_strided_inputs_and_parameters(self, method):
        mlp, inputs, problem = case(jac.find_method(method).quantity, (4, 6, 3), 5, jac.Loss("mse"))
        turned = jac.MLP([W.T.contiguous().T for W in mlp.weights], mlp.biases)
        strided = tuple(torch.stack([t, t], -1)[..., 0] for t in inputs)
        for one, other in zip(compute(method, turned, strided, problem), compute(method, mlp, inputs, problem), strict=True):
            torch.testing.assert_close(one, other)

    def test_threads_may_share_a_plan(self, method):
        mlp, inputs, problem = case(jac.find_method(method).quantity, (4, 20, 3), 40, jac.Loss("mse"))
        if problem.quantity == "sgd_step":
            pytest.skip("it trains parameters of its own")
        exact = compute(method, mlp, inputs, problem)
        computation = jac.find_method(method).prepare(mlp, problem, jac.Request())
        found = [None] * 8

        def work(index):
            for _ in range(20):
                found[index] = computation.restore(computation.run(inputs[0] if len(inputs) == 1 else inputs)[1])

        in_threads(work, 8)
        for one in found:
            torch.testing.assert_close(tuple(one), exact)


class TestCalls:
    def test_class_indices_out_of_range(self):
        mlp, (x, target), _ = case("gradient", (4, 6, 3), 5, jac.Loss("cross_entropy"))
        jac.gradient(mlp, x, target, "cross_entropy")
        for wrong in (3, -1):
            target = target.clone()
            target[2] = wrong
            with pytest.raises(ValueError, match="class indices must lie in 0 … 2"):
                jac.gradient(mlp, x, target, "cross_entropy")

    @pytest.mark.parametrize("make", [lambda x: x.as_subclass(torch.nn.Parameter), lambda x: torch._neg_view(-x)])
    def test_tensors_whose_numbers_stand_elsewhere(self, make):
        mlp, (x, target), _ = case("gradient", (4, 6, 3), 5, jac.Loss("mse"))
        exact = jac.gradient(mlp, x, target).vector
        torch.testing.assert_close(jac.gradient(mlp, make(x), target).vector.detach(), exact)

    def test_transforms_see_every_operation(self):
        mlp, (x, target), _ = case("gradient", (4, 6, 3), 5, jac.Loss("mse"))
        exact = torch.stack([jac.gradient(mlp, x[n : n + 1], target[n : n + 1]).vector for n in range(5)])
        each = torch.func.vmap(lambda x, t: jac.gradient(mlp, x[None], t[None]).vector)(x, target)
        torch.testing.assert_close(each, exact)
        jac.gradient(mlp, x, target)  # its plan is kept
        slope = torch.func.grad(lambda x: jac.gradient(mlp, x, target).loss)(x)
        torch.testing.assert_close(slope, jac.gradient(mlp, x, target, inputs=True).x)
        traced = torch.fx.experimental.proxy_tensor.make_fx(lambda x: jac.gradient(mlp, x, target).vector)(x)
        torch.testing.assert_close(traced(x + 1), jac.gradient(mlp, x + 1, target).vector)

    @pytest.mark.parametrize("loss", ["mse", "bce_with_logits", "cross_entropy"])
    def test_gradients_of_gradients(self, loss):
        mlp, (x, target), _ = case("gradient", (3, 4, 2), 2, jac.Loss(loss))
        parameters = [p.requires_grad_() for p in mlp.parameters()]

        def of(*parameters):
            net = jac.MLP(parameters[::2], parameters[1::2])
            return tuple(jac.gradient(net, x, target, loss, create_graph=True).parameters())

        assert torch.autograd.gradcheck(of, parameters)
        g = jac.gradient(mlp, x, target, loss, create_graph=True)
        torch.autograd.grad(sum(t.square().sum() for t in g.parameters()), parameters)
        assert not jac.gradient(mlp, x, target, loss).vector.requires_grad

    def test_plans_of_a_quantity(self):
        mlp, (x, target), _ = case("gradient", (4, 6, 3), 5, jac.Loss("l1"))
        plan = jac.plan(mlp, x, quantity="gradient", others=(target,), loss="l1")
        assert plan.method.startswith("gradient/reverse:")
        torch.testing.assert_close(plan(x, target)[1:], tuple(jac.gradient(mlp, x, target, "l1").parameters()))
        assert "predicted" in plan.explain()
        with pytest.raises(ValueError, match="this plan is for"):
            plan(x, target[:3])
        with pytest.raises(ValueError, match="unknown quantity 'gradients': did you mean 'gradient'"):
            jac.plan(mlp, x, quantity="gradients")
        with pytest.raises(ValueError, match="the ntk has no loss, got 'mse'"):
            jac.plan(mlp, x, quantity="ntk", loss="mse")
        with pytest.raises(ValueError, match="the ntk is one of a batch, got a single x"):
            jac.plan(mlp, x[0], quantity="ntk")
        with pytest.raises(ValueError, match="unknown method 'gradient/forward'"):
            jac.gradient(mlp, x, target, method="gradient/forward")
        with pytest.raises(ValueError, match="unknown method 'forward:native'; choose from auto, reverse, gradient/reverse:eager"):
            jac.gradient(mlp, x, target, method="forward:native")

    def test_a_measured_plan(self):
        mlp, (x, target), _ = case("gradient", (4, 6, 3), 5, jac.Loss("mse"), dtype=torch.float32)
        plan = jac.plan(mlp, x, quantity="gradient", others=(target,), effort="measure")
        assert set(plan.choice.measured) >= {plan.method}

    def test_a_gradient_in_both_forms(self):
        mlp, (x, target), _ = case("gradient", (4, 6, 3), 5, jac.Loss("mse"))
        for method in ("reverse:eager", "auto"):
            g = jac.gradient(mlp, x, target, method=method, inputs=True)
            assert [t.shape for t in g.parameters()] == [p.shape for p in mlp.parameters()]
            torch.testing.assert_close(g.vector, torch.cat([t.flatten() for t in g.parameters()]))
            assert g.x.shape == x.shape
            assert [b.shape for b in g.biases] == [b.shape for b in mlp.biases]

    def test_kernels_of_two_batches_and_traces(self):
        mlp, (x,), _ = case("ntk", (5, 30, 9, 3), 130, jac.Loss("mse"))
        exact = expected("ntk", mlp, (x,), None)[0]
        for method in ("structured:native", "structured:eager"):
            torch.testing.assert_close(jac.ntk(mlp, x[:70], x[50:], method=method), exact[:70, 50:])
            torch.testing.assert_close(jac.ntk(mlp, x, trace=True, method=method), torch.einsum("abpp->ab", exact))
        whole = jac.ntk(mlp, x, method="structured:native")
        assert torch.equal(whole, whole.permute(1, 0, 3, 2))

    @pytest.mark.parametrize("dtype", TOLERANCE)
    @pytest.mark.parametrize("N", [1, 16, 17, 31, 32, 33, 48, 49, 63, 64, 65, 129])
    @pytest.mark.parametrize("P", [1, 3])
    def test_symmetric_kernels_of_any_size(self, P, N, dtype):
        mlp, (x,), _ = case("ntk", (3, 9, 5, P), N, jac.Loss("mse"), dtype=dtype)
        native, eager = jac.ntk(mlp, x, method="structured:native"), jac.ntk(mlp, x, method="structured:eager")
        torch.testing.assert_close(native, eager)
        assert torch.equal(native, native.permute(1, 0, 3, 2))
        torch.testing.assert_close(jac.ntk(mlp, x, trace=True), torch.einsum("abpp->ab", eager))
        torch.testing.assert_close(jac.ntk(mlp, x, x[: N // 2 + 1], method="structured:native"), eager[:, : N // 2 + 1])

    def test_the_readable_kernel_in_tiles(self):
        from jacobians.quantities.ntk import kernel_of

        mlp, (x,), _ = case("ntk", (5, 9, 3), 13, jac.Loss("mse"))
        torch.testing.assert_close(kernel_of(mlp, x, tile_bytes=1), kernel_of(mlp, x))

    def test_products_take_a_vector_or_tensors(self):
        mlp, (x, target, v), _ = case("ggn", (5, 9, 3), 13, jac.Loss("cross_entropy"))
        torch.testing.assert_close(
            jac.ggn_product(mlp, x, target, "cross_entropy", v), jac.ggn_product(mlp, x, target, "cross_entropy", split(mlp, v))
        )
        with pytest.raises(ValueError, match="v must have shape \\(84,\\), got \\(3,\\)"):
            jac.ggn_product(mlp, x, target, "cross_entropy", v[:3])
        with pytest.raises(TypeError, match=r"v must be torch.float64 on cpu"):
            jac.ggn_product(mlp, x, target, "cross_entropy", v.float())

    def test_a_least_squares_problem_is_its_own_gauss_newton_model(self):
        """Closed form: with one linear layer and mse, `G v` is the Hessian's product, `2/(N P) Σ_n V x x^T`."""
        mlp, (x, target, v), _ = case("ggn", (4, 3), 6, jac.Loss("mse"), bias=False)
        (product,) = jac.ggn_product(mlp, x, target, "mse", v)
        torch.testing.assert_close(product, 2 / target.numel() * v.reshape(3, 4) @ x.mT @ x)


@pytest.mark.parametrize("name", ["toy"])
def test_a_new_quantity_is_one_object_and_a_method(name):
    quantity = jac.Quantity(
        name, "Sum of the outputs", {"direct": "Σ y"}, lambda p, m: jac.Cost(1, 1), lambda mlp, p, inputs: (mlp(inputs[0]).sum(),),
        lambda p, m: 0,
    )  # fmt: skip
    from jacobians.planning import registry

    jac.register_quantity(quantity)
    try:

        @jac.register(f"{name}/direct:eager", hand_written=True)
        def prepare(mlp, problem, request):
            return jac.Computation(run=lambda x: (None, (mlp(x).sum(),)))

        mlp, x = network((3, 4, 2), batch=5)
        assert jac.plan(mlp, x, quantity=name)(x)[0] == mlp(x).sum()
        with pytest.raises(ValueError, match="already registered"):
            jac.register_quantity(quantity)
        with pytest.raises(ValueError, match="unknown mode 'reverse'; choose from direct"):
            jac.register(f"{name}/reverse:eager")
    finally:
        registry.unregister(f"{name}/direct:eager")
        registry._QUANTITIES.pop(name)

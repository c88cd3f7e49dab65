"""Every method on every shared case, against three oracles."""

import itertools
from functools import cache

import pytest
import torch
from torch.func import vmap

import jacobians as jac
from tests import oracles
from tests.cases import ACTIVATIONS, ALL, BATCHES, OURS, PEERS, TOLERANCE, WIDTHS, for_each, network, pairs


def fit(widths, method):
    """The same widths with one output, for a method that serves no others."""
    supported = jac.find_method(method).unsupported(jac.Problem(widths=widths)) is None
    return widths if supported else (*widths[:-1], 1)


@cache
def exact_of(widths, **options):
    """The oracle's J of a shared case, which every method is held against."""
    return oracles.autograd(*network(widths, **options))


def assert_case(method, widths, **options):
    assert_right(*network(widths, **options), method, exact_of(widths, **options))


def assert_right(mlp, x, method, exact=None):
    before = [t.clone() for t in (x, *mlp.weights)]
    y, J = jac.value_and_jacobian(mlp, x, method=method)
    exact = oracles.autograd(mlp, x) if exact is None else exact
    assert J.shape == exact.shape
    assert J.dtype == x.dtype
    assert oracles.relative_error(J, exact) < TOLERANCE[x.dtype]
    assert y.shape == (*x.shape[:-1], mlp.P)
    torch.testing.assert_close(y, mlp(x))
    torch.testing.assert_close(jac.jacobian(mlp, x, method=method), J, rtol=1e-4, atol=1e-6)
    for now, then in zip((x, *mlp.weights), before, strict=True):
        assert torch.equal(now, then), "an input was changed"


@pytest.mark.parametrize("method", OURS)
def test_ours_on_every_shape(method):
    def check(widths, batch, bias, dtype):
        assert_case(method, widths, batch=batch, bias=bias, dtype=dtype)

    for_each(pairs(WIDTHS.values(), BATCHES, [False, True], TOLERANCE), check)


@pytest.mark.parametrize("method", OURS)
def test_ours_with_every_activation(method):
    def check(widths, activation, output, batch):
        assert_case(method, widths, batch=batch, activation=activation, output_activation=output, bias=True)

    outputs, batches = ("identity", "tanh", "sigmoid"), (None, 4)
    for_each(pairs([(4, 6, 6, 3)], ACTIVATIONS, outputs, batches), check)
    for_each(pairs([(3, 4)], ["tanh"], outputs, batches), check)


@pytest.mark.parametrize("method", PEERS)
def test_peers(method):
    for_each(
        itertools.product([(3, 4), (4, 6, 6, 3)], BATCHES),
        lambda widths, batch: assert_right(*network(fit(widths, method), batch=batch, bias=True), method),
    )


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of torch.func, where a function has no batching rule
@pytest.mark.parametrize("method", PEERS)
def test_peers_with_every_activation(method):
    for_each(
        itertools.product(ACTIVATIONS),
        lambda activation: assert_right(*network(fit((4, 6, 6, 3), method), activation=activation, bias=True), method),
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_oracles_agree(activation):
    mlp, x = network((4, 6, 5, 3), batch=3, activation=activation, output_activation="sigmoid", bias=True, seed=3)
    exact = oracles.autograd(mlp, x)
    assert exact.abs().max() > 1e-3
    assert oracles.relative_error(oracles.numpy_product(mlp, x), exact) < 1e-12
    assert oracles.relative_error(oracles.central_differences(mlp, x), exact) < 1e-8


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_ours_against_central_differences_and_numpy(activation):
    widths = (5, 9, 3) if activation == "exp" else (5, 9, 2, 17, 3)  # exp of exp of exp overflows
    mlp, x = network(widths, batch=4, activation=activation, bias=True)
    product, differences = oracles.numpy_product(mlp, x), oracles.central_differences(mlp, x)
    for method in OURS:
        J = jac.jacobian(mlp, x, method=method)
        assert oracles.relative_error(J, product) < 1e-12, method
        assert oracles.relative_error(J, differences) < 1e-8, method


@pytest.mark.long
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("L", "K"), [(50, 30), (10, 1000), (50, 1000)])
def test_deep_and_wide(L, K, dtype):
    mlp, x = network((3, *[K] * L, 2), dtype=dtype)
    exact = oracles.autograd(mlp, x)
    for method in OURS:
        assert oracles.relative_error(jac.jacobian(mlp, x, method=method), exact) < TOLERANCE[dtype], method


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [None, 6])
@pytest.mark.parametrize("method", [name for name in OURS if name.endswith(":eager")])
def test_half_precision(method, batch, dtype):
    mlp, x = network((12, 20, 2, 20, 12), batch=batch, dtype=dtype, bias=True)
    J = jac.jacobian(mlp, x, method=method)
    assert J.dtype == dtype
    assert oracles.relative_error(J, oracles.autograd(mlp, x)) < 20 * torch.finfo(dtype).eps


class TestCasesOfOtherProjects:
    """What functorch, curvlinops and others check their Jacobians with, adapted."""

    @pytest.mark.parametrize("method", [method for method in ALL if method != "reverse:sum-trick"])
    def test_one_tanh_layer(self, method):
        A = torch.arange(12, dtype=torch.float64).reshape(4, 3) / 10 - 0.5
        b = torch.tensor([0.1, -0.2, 0.3, -0.4], dtype=torch.float64)
        x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
        mlp = jac.MLP([A], [b], output_activation="tanh")
        exact = (1 - torch.tanh(A @ x + b) ** 2)[:, None] * A
        torch.testing.assert_close(jac.jacobian(mlp, x, method=method), exact, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("method", [m.name for m in jac.methods() if m.differentiable and m.hand_written])
    def test_vmap_of_a_jacobian_is_the_batched_one(self, method):
        mlp, x = network((4, 8, 8, 3), batch=6, bias=True)
        mode = {"forward": jac.forward, "reverse": jac.reverse, "mixed": jac.mixed}[method.split(":")[0]]
        one_by_one = vmap(lambda sample: mode(mlp, sample)[1])(x)
        torch.testing.assert_close(one_by_one, jac.jacobian(mlp, x, method=method), rtol=1e-12, atol=1e-14)

    def test_loop_equals_vectorized_reverse_equals_vectorized_forward_equals_ours(self):
        mlp, x = network((6, 10, 10, 4), bias=True)
        names = ["reverse:autograd-loop", "reverse:autograd-vectorized", "forward:autograd-vectorized", *OURS]
        first, *others = [jac.jacobian(mlp, x, method=name) for name in names]
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("method", ALL)
    @pytest.mark.parametrize(
        ("widths", "batch"), [((64, 128, 64), 512), ((784, 512, 256, 64, 10), 128)], ids=["64-128-64", "784-512-256-64-10"]
    )
    def test_published_batches(self, method, widths, batch):
        if ":notebook" in method and batch * max(widths) ** 2 > 5e7:
            batch = 8  # its diagonal matrices of 512 x 512 per sample would take 134 MB a layer
        if method.startswith("forward") and widths[0] > 700:
            batch = 8  # 784 tangents of each of 128 samples would take over 200 MB a layer
        mlp, x = network(fit(widths, method), batch=batch, dtype=torch.float32, bias=True)
        J = jac.jacobian(mlp, x, method=method)
        sample = [0, batch // 2, batch - 1]
        assert oracles.relative_error(J[sample], oracles.autograd(mlp, x[sample])) < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", [name for name in OURS if not name.endswith(":native")])
def test_cuda(method):
    mlp, x = network((5, 33, 33, 4), batch=7, dtype=torch.float32, bias=True, device="cuda")
    J = jac.jacobian(mlp, x.cuda(), method=method)
    assert oracles.relative_error(J.cpu(), oracles.autograd(mlp.to("cpu"), x)) < 1e-5

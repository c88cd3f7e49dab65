"""The Triton kernels without a GPU: run by Triton's interpreter on tensors of the CPU, and compiled ahead of time. `make test-cuda`."""

from importlib import import_module

import pytest
import torch

import jacobians as jac
from jacobians.kernels.cuda import blocks
from jacobians.kernels.cuda.graph import Replay
from jacobians.kernels.cuda.wide import WIDE_ROWS
from jacobians.network.activations import activation
from jacobians.planning.inputs import problem_of
from jacobians.planning.registry import Request, find_quantity
from tests import cases, oracles
from tests.cases import network
from tests.jacobians.test_cuda_graph import record

pytest.importorskip("triton", reason="Triton is not installed: make test-cuda")
CODES = import_module("jacobians.kernels.cuda.elementary").CODES
on_cpu = pytest.mark.skipif(not blocks.interpreted(), reason="Triton does not interpret here: make test-cuda")
compiled = pytest.mark.skipif(blocks.interpreted(), reason="needs Triton, not interpreting: make test-cuda")
METHODS = ("forward:triton", "reverse:triton")
HERE, ELSEWHERE = ([name for name in cases.ACTIVATIONS if (activation(name).name in CODES) == here] for here in (True, False))
SHAPES = [
    ((1, 1, 1), 1),
    ((3, 8, 8, 8, 5), 17),
    ((2, 30, 30, 10), None),
    ((5, 9, 2, 17, 3), 33),
    ((3, 64, 64, 1), 70),
    ((12, 20, 2, 20, 40), 5),
    ((33, 7, 7, 2), 4),
]


@on_cpu
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("method", [*METHODS, "laplacian/forward:triton", "gradient/reverse:triton", "jacobian_gradient/forward:triton"])
def test_weights_without_masks_and_weights_that_begin_anywhere(method, aligned):
    """Of 16 neurons a layer nothing is padded; whether four numbers can be read at once is looked at in each call."""
    mlp, x = network((3, 16, 16, 16, 2), batch=5, bias=True, dtype=torch.float32)
    vector = torch.zeros(sum(W.numel() for W in mlp.weights) + 65)
    start = -vector.data_ptr() // 4 % 16 + (0 if aligned else 1)
    for W in mlp.weights:
        W.data = vector[start : start + W.numel()].view_as(W).copy_(W)
        start += W.numel()
    chain = blocks.BlockKernel(mlp, problem_of(mlp, x), "forward", True)
    chain.look_up()
    assert chain.unpadded == aligned
    if method.startswith("gradient"):
        of_loss(method, mlp, x, jac.Loss("mse"))
    elif method.startswith("jacobian_gradient"):
        through(mlp, x)
    else:
        check(method, mlp, x)


@on_cpu
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("widths", "batch"), SHAPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_shapes(method, widths, batch, bias):
    mlp, x = network(widths, batch=batch, bias=bias, dtype=torch.float32)
    reason = jac.find_method(method).unsupported(problem_of(mlp, x))
    if reason is not None:
        assert "registers" in reason
        return
    y, J = jac.value_and_jacobian(mlp, x, method)
    assert oracles.relative_error(J, oracles.autograd(mlp, x)) < 1e-5
    torch.testing.assert_close(y, mlp(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(jac.jacobian(mlp, x, method), J)


@on_cpu
@pytest.mark.parametrize("output", ["identity", "tanh"])
@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("method", [*METHODS, "laplacian/forward:triton"])
def test_activations(method, name, output):
    mlp, x = network((4, 6, 5, 3), batch=5, bias=True, activation=name, output_activation=output, dtype=torch.float32)
    check(method, mlp, x / 4)


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("method", [*METHODS, "laplacian/forward:triton", "jacobian_gradient/forward:triton"])
def test_an_activation_that_triton_lacks_is_refused_by_name(method, name):
    problem = jac.Problem(widths=(4, 6, 5, 3), batch=5, activation=name, device="cuda", quantity=jac.find_method(method).quantity)
    assert f"has no activation {activation(name).name!r} in Triton" in jac.find_method(method).unsupported(problem)


def check(method, mlp, x):
    known = jac.find_method(method)
    problem = problem_of(mlp, x).with_(quantity=known.quantity)
    inputs = (x, *[t.float() for t in find_quantity(known.quantity).draw(problem, torch.Generator())])
    found = jac.planning.registry.find_method(method).prepare(mlp, problem, Request()).run(inputs[0] if len(inputs) == 1 else inputs)[1]
    exact = find_quantity(known.quantity).exact(mlp.to(dtype=torch.float64), problem, tuple(t.double() for t in inputs))
    for one, other in zip(found if isinstance(found, tuple) else (found,), exact, strict=True):
        assert one.shape == other.shape
        assert oracles.relative_error(one, other) < 2e-5


@on_cpu
@pytest.mark.parametrize(("widths", "batch"), [*SHAPES[:5], ((14, 9, 2), 3)], ids=str)
def test_laplacians(widths, batch):
    check("laplacian/forward:triton", *network(widths, batch=batch, bias=True, dtype=torch.float32))


@on_cpu
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("widths", "batch"), [*SHAPES, ((3, 40, 40, 60), 300)], ids=str)
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_gradients(widths, batch, loss, bias):
    mlp, x = network(widths, batch=batch, bias=bias, dtype=torch.float32)
    of_loss("gradient/reverse:triton", mlp, x, jac.Loss(loss))


@on_cpu
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("widths", "batch"), [*SHAPES, ((3, 40, 40, 60), 300), ((15, 9, 9, 2), 3)], ids=str)
def test_training_through_a_jacobian(widths, batch, bias):
    through(*network(widths, batch=batch, bias=bias, dtype=torch.float32))


@on_cpu
@pytest.mark.parametrize("output", ["identity", "sigmoid"])
@pytest.mark.parametrize("name", HERE)
def test_training_through_a_jacobian_with_activations(name, output):
    mlp, x = network((4, 6, 5, 3), batch=5, bias=True, activation=name, output_activation=output, dtype=torch.float32)
    through(mlp, x / 4)


WIDE = [
    ((1, 1), None),
    ((7, 4), 2),
    ((1, 140, 70, 1), None),
    ((3, 130, 130, 2), 2),
    ((520, 40, 33, 1), None),
    ((7, 40, 260, 12), None),
    ((15, 20, 300), 1),
]


@on_cpu
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("widths", "batch"), WIDE, ids=str)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_wide_networks_layer_by_layer(monkeypatch, mode, widths, batch, bias):
    monkeypatch.setattr(Replay.__init__, "__defaults__", (record,))
    mlp, x = network(widths, batch=batch, bias=bias, dtype=torch.float32)
    method = jac.find_method(f"{mode}:triton-graph")
    reason = method.unsupported(problem_of(mlp, x))
    if reason is not None:
        assert "registers" in reason
        return
    for at in (x, x / 2):
        y, J = jac.value_and_jacobian(mlp, at, method.name)
        assert oracles.relative_error(J, oracles.autograd(mlp, at)) < 1e-5
        torch.testing.assert_close(y, mlp(at), rtol=1e-5, atol=1e-5)


@on_cpu
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of the interpreter's NumPy, at inf - inf
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_wide_networks_with_activations_and_what_is_not_finite(monkeypatch, mode):
    monkeypatch.setattr(Replay.__init__, "__defaults__", (record,))
    for name in HERE:
        mlp, x = network((4, 6, 5, 3), batch=2, bias=True, activation=name, output_activation="sigmoid", dtype=torch.float32)
        assert oracles.relative_error(jac.jacobian(mlp, x / 4, f"{mode}:triton-graph"), oracles.autograd(mlp, x / 4)) < 2e-5
    mlp = jac.MLP.random(widths=(3, 6, 5, 3), activation=["relu", "sine", "tanh"][:2], dtype=torch.float32)
    x = torch.tensor([[1.0, torch.inf, 0.0], [1.0, 2.0, 3.0]])
    J = jac.jacobian(mlp, x, f"{mode}:triton-graph")
    assert J[0].isnan().all()
    assert oracles.relative_error(J[1:], oracles.autograd(mlp, x[1:])) < 1e-5


def through(mlp, x):
    method = jac.find_method("jacobian_gradient/forward:triton")
    problem = problem_of(mlp, x).with_(quantity="jacobian_gradient")
    reason = method.unsupported(problem)
    if reason is not None:
        assert "registers" in reason
        return
    computation = method.prepare(mlp, problem, Request())
    found = computation.restore(computation.run(x)[1])
    exact = find_quantity("jacobian_gradient").exact(mlp.to(dtype=torch.float64), problem, (x.double(),))
    scale = max(t.norm() for t in exact)
    for one, other in zip(found, exact, strict=True):
        assert one.shape == other.shape
        assert (one.double() - other).norm() <= 3e-5 * max(other.norm(), 1e-2 * scale)


@on_cpu
@pytest.mark.parametrize(
    "loss", [jac.Loss("l1", "sum"), jac.Loss("bce_with_logits"), jac.Loss("mse", scale=0.5), jac.Loss("cross_entropy", "sum")], ids=str
)
@pytest.mark.parametrize("name", ["tanh", "gelu", "leaky_relu"])
def test_losses(loss, name):
    mlp, x = network((4, 6, 5, 3), batch=37, bias=True, activation=name, dtype=torch.float32)
    of_loss("gradient/reverse:triton", mlp, x, loss)


def of_loss(method, mlp, x, loss):
    problem = problem_of(mlp, x).with_(quantity="gradient", loss=str(loss))
    generator = torch.Generator().manual_seed(3)
    classes = torch.randint(0, mlp.P, x.shape[:-1], generator=generator)
    numbers = torch.rand(*x.shape[:-1], mlp.P, generator=generator)
    for target in [numbers, *([classes] if loss.classes else [])]:
        computation = jac.find_method(method).prepare(mlp, problem, Request())
        found = computation.restore(computation.run((x, target))[1])
        exact = find_quantity("gradient").exact(
            mlp.to(dtype=torch.float64), problem, (x.double(), target if target is classes else target.double())
        )
        for one, other in zip(found, exact, strict=True):
            assert one.shape == other.shape
            assert oracles.relative_error(one, other) < 3e-5
        again = computation.restore(computation.run((x, target))[1])
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True)), "no order is left to chance"


@on_cpu
def test_views_that_are_read_otherwise_are_left_to_torch():
    """A negative view, of x or of a weight, and a weight that was transposed where it stood."""
    mlp, x = network((3, 8, 8, 2), batch=4, bias=True, dtype=torch.float32)
    for method in METHODS:
        plan = jac.plan(mlp, x, method)
        plan(x)
        assert oracles.relative_error(plan(torch._neg_view(x)), oracles.autograd(mlp, -x)) < 1e-5
        mlp.weights[1].data = mlp.weights[1].data.T
        assert oracles.relative_error(plan(x), oracles.autograd(mlp, x)) < 1e-5
        mlp.weights[1].data = torch._neg_view(mlp.weights[1].data.T)
        assert oracles.relative_error(plan(x), oracles.autograd(mlp, x)) < 1e-5
        mlp.weights[1].data = mlp.weights[1].data.clone()


@on_cpu
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of the interpreter's NumPy, at inf - inf
def test_parameters_are_read_as_they_are_at_the_call():
    mlp, x = network((3, 8, 2), batch=4, bias=True, dtype=torch.float32)
    plan = jac.plan(mlp, x, "reverse:triton")
    first = plan(x)
    mlp.weights[0].mul_(1.5)
    assert not torch.allclose(plan(x), first)
    assert oracles.relative_error(plan(x), oracles.autograd(mlp, x)) < 1e-5
    mlp.weights[1].data = mlp.weights[1].data.clone() * 2
    assert oracles.relative_error(plan(x), oracles.autograd(mlp, x)) < 1e-5
    x[2, 1] = torch.inf
    assert plan(x)[2].isnan().all()
    assert plan(x)[[0, 1, 3]].isfinite().all()
    assert torch.func.vmap(lambda x: jac.jacobian(mlp, x, "reverse:triton"))(x[:2]).shape == (2, 2, 3)


@compiled
@pytest.mark.parametrize("target", [80, 90, 100])
def test_nothing_spills_and_every_product_has_its_stated_precision(target):
    """And no product has a precision that nobody wrote down: Triton makes one in tf32 of a sum over rows where it can."""
    from jacobians.kernels.cuda.elementary import DOT
    from tools.cuda_resources import SHAPES as MEASURED
    from tools.cuda_resources import resources, resources_of_layer

    for kind, problem in MEASURED:
        needs = resources(kind, problem, target)
        assert needs.stack == 0, (kind, problem.widths, needs)
        assert needs.registers <= 255
        assert needs.shared <= 100_000
        assert needs.precisions == {DOT.value}, (kind, problem.widths)
    for mode in ("forward", "reverse"):
        for rows in (1, 2, 4, 8, 16, 32, 64):
            needs = resources_of_layer(mode, rows, target)
            assert needs.stack == 0 or rows > WIDE_ROWS, (mode, rows)
            assert needs.precisions <= {DOT.value}, (mode, rows)

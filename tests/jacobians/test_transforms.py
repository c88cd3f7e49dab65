"""Kernels read memory: under transforms, modes and traces, and of tensors that are not plain, the torch modes answer instead."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import jacobians as jac
from jacobians.kernels.native import program, runner
from jacobians.planning import transforms
from tests.cases import network

METHODS = ("auto", "forward:native", "reverse:native", "mixed:native", "reverse:eager")
pytestmark = pytest.mark.skipif(not runner.available(), reason="no C compiler")
ignore_traces = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning")


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def case():
    return network((5, 7, 9, 6), batch=4, bias=True)


def exact(mlp, x):
    return jac.jacobian(mlp, x, "reverse:autograd-vectorized")


def second_derivative(mlp, x):
    """Of Σ J², by autograd alone."""
    leaf = x.clone().requires_grad_()
    J = torch.autograd.functional.jacobian(lambda x: mlp(x).sum(0), leaf, create_graph=True)
    return torch.autograd.grad(J.square().sum(), leaf)[0]


def test_outside_nothing_is_active():
    assert not transforms.active()
    assert not transforms.tracing()


def test_a_default_device_is_no_transform():
    with torch.device("cpu"):
        assert not transforms.active()
        with torch.overrides.TorchFunctionMode():
            assert transforms.active()


def test_a_bound_of_memory_on_a_tensor_that_is_not_plain(case):
    from torch.testing._internal.two_tensor import TwoTensor

    mlp, x = case
    lean = min(program.working_bytes(mode, jac.planning.plan.problem_of(mlp, x), lean=True) for mode in ("forward", "reverse"))
    assert lean < program.working_bytes("forward", jac.planning.plan.problem_of(mlp, x))
    with pytest.raises(ValueError, match="is too little for"):
        jac.jacobian(mlp, TwoTensor(x, x), max_bytes=lean)
    torch.testing.assert_close(jac.jacobian(mlp, torch._neg_view(-x), max_bytes=2**25), exact(mlp, x))


class TestTransforms:
    def test_vmap(self, case, method):
        mlp, x = case
        torch.testing.assert_close(torch.func.vmap(lambda one: jac.jacobian(mlp, one, method))(x), exact(mlp, x))

    def test_grad_without_create_graph_is_no_silent_zero(self, case, method):
        mlp, x = case
        found = torch.func.grad(lambda x: jac.jacobian(mlp, x, method).square().sum())(x)
        torch.testing.assert_close(found, second_derivative(mlp, x))

    def test_a_dual_input_carries_its_tangent(self, case, method):
        mlp, x = case
        v = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
        with forward_ad.dual_level():
            J = jac.jacobian(mlp, forward_ad.make_dual(x, v), method)
            tangent = forward_ad.unpack_dual(J).tangent
        h = 1e-6
        torch.testing.assert_close(tangent, (exact(mlp, x + h * v) - exact(mlp, x - h * v)) / (2 * h), rtol=1e-6, atol=1e-7)

    @ignore_traces
    def test_jit_trace(self, case, method):
        mlp, x = case
        traced = torch.jit.trace(lambda x: jac.jacobian(mlp, x, method), (torch.ones_like(x),))
        torch.testing.assert_close(traced(x), exact(mlp, x))

    @ignore_traces
    def test_jit_trace_of_a_plan(self, case, method):
        mlp, x = case
        plan = jac.plan(mlp, x, method)
        torch.testing.assert_close(torch.jit.trace(plan.__call__, (torch.ones_like(x),))(x), exact(mlp, x))

    def test_make_fx(self, case, method):
        from torch.fx.experimental.proxy_tensor import make_fx

        mlp, x = case
        plan = jac.plan(mlp, x, method)
        for function in (plan, lambda x: jac.jacobian(mlp, x, method)):
            torch.testing.assert_close(make_fx(function)(torch.ones_like(x))(x), exact(mlp, x))

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("method", ["auto", "forward:native"])
    def test_compile_has_one_graph(self, case, method):
        mlp, x = case
        compiled = torch.compile(lambda x: jac.jacobian(mlp, x, method), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), exact(mlp, x))

    def test_value_comes_along(self, case, method):
        mlp, x = case
        y, J = torch.func.vmap(lambda one: jac.value_and_jacobian(mlp, one, method))(x)
        torch.testing.assert_close((y, J), (mlp(x), exact(mlp, x)))


class TestTensorsThatAreNotPlain:
    def test_fake(self, case, method):
        from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

        mlp, x = case
        fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(x)
        J = jac.jacobian(mlp, fake, method)
        assert isinstance(J, FakeTensor)
        assert J.shape == (4, 6, 5)

    def test_fake_weights(self, case, method):
        from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

        mlp, x = case
        with FakeTensorMode() as mode:
            fake = jac.MLP([mode.from_tensor(W) for W in mlp.weights], [mode.from_tensor(b) for b in mlp.biases])
            assert isinstance(jac.jacobian(fake, mode.from_tensor(x), method), FakeTensor)

    def test_subclasses(self, case, method):
        from torch.testing._internal.two_tensor import TwoTensor

        mlp, x = case
        J = jac.jacobian(mlp, TwoTensor(x, x), method)
        assert isinstance(J, TwoTensor)
        torch.testing.assert_close(J.a, exact(mlp, x))
        pairs = jac.MLP([TwoTensor(W, W) for W in mlp.weights])
        torch.testing.assert_close(jac.jacobian(pairs, x, method).a, exact(jac.MLP(mlp.weights), x))

    def test_negative_views(self, case, method):
        mlp, x = case
        z = torch.complex(torch.zeros_like(x), -x)
        assert z.conj().imag.is_neg()
        torch.testing.assert_close(jac.jacobian(mlp, z.conj().imag, method), exact(mlp, x))
        negative = jac.MLP([torch._neg_view(-W) for W in mlp.weights], [torch._neg_view(-b) for b in mlp.biases])
        torch.testing.assert_close(jac.jacobian(negative, x, method), exact(mlp, x))

    @pytest.mark.parametrize("method", ["forward:native", "reverse:native"])
    def test_freed_storage_is_an_error_and_no_crash(self, case, method):
        mlp, x = case
        plan = jac.plan(mlp, x, method)
        plan(x)
        empty = x.clone()
        empty.untyped_storage().resize_(0)
        with pytest.raises(ValueError, match=r"x of shape \(4, 5\) has no memory any more"):
            plan(empty)
        mlp.weights[1].untyped_storage().resize_(0)
        with pytest.raises(ValueError, match=r"a parameter of shape \(9, 7\) has no memory any more"):
            plan(x)


def test_functional_call_of_a_module_that_calls_us(method):
    class Sensitivity(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
            self.mlp = jac.MLP.from_torch(self.net)

        def forward(self, x):
            return jac.jacobian(self.mlp, x, method)

    model, x = Sensitivity(), torch.randn(5, 3, dtype=torch.float64)
    others = {name: torch.randn(t.shape, generator=torch.Generator().manual_seed(3), dtype=t.dtype) for name, t in model.named_parameters()}
    loaded = copy.deepcopy(model)
    loaded.load_state_dict(others)
    before = model(x)
    torch.testing.assert_close(torch.func.functional_call(model, others, (x,)), exact(loaded.mlp, x).detach())
    torch.testing.assert_close(model(x), before)

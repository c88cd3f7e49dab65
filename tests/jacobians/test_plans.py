"""Plans, the one-call functions, and bad input."""

import gc
import itertools
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import jacobians as jac
from jacobians.planning import registry
from tests import oracles
from tests.cases import ALL, OURS, for_each, in_threads, network


@pytest.fixture
def mlp():
    return jac.MLP.random(L=2, D=3, K=5, P=4)


class TestBadInput:
    @pytest.mark.parametrize(
        ("x", "error", "message"),
        [
            ([1.0, 2.0, 3.0], TypeError, r"x must be a torch\.Tensor, got list; convert it with torch\.as_tensor"),
            (torch.ones(3, dtype=torch.int64), TypeError, r"x must be floating-point, got torch\.int64"),
            (torch.ones(3, dtype=torch.complex64), TypeError, "x must be floating-point"),
            (torch.ones(3, dtype=torch.float64), TypeError, r"x is torch\.float64 but the network is torch\.float32"),
            (torch.tensor(1.0), ValueError, r"shape \(D,\) or \(N, D\), got shape \(\)"),
            (torch.ones(2, 2, 4), ValueError, r"x has (4 features|shape)|got shape \(2, 2, 4\)"),
            (torch.ones(4), ValueError, r"x has 4 features.*takes D=3; expected \(3,\) or \(N, 3\)"),
            (torch.ones(5, 2), ValueError, "x has 2 features"),
            (torch.ones(3, device="meta"), ValueError, "x is on meta but the network is on cpu"),
        ],
    )
    @pytest.mark.parametrize("call", [jac.jacobian, jac.value_and_jacobian, jac.plan])
    def test_x(self, mlp, call, x, error, message):
        with pytest.raises(error, match=message):
            call(mlp, x)

    def test_mlp(self):
        with pytest.raises(TypeError, match=r"expected a jacobians\.MLP or a torch nn\.Module, got list"):
            jac.jacobian([torch.nn.Linear(2, 3)], torch.ones(2))

    def test_method(self, mlp):
        with pytest.raises(ValueError, match=r"unknown method 'backward'; choose from auto, forward, reverse, .*reverse:torch\.func"):
            jac.jacobian(mlp, torch.ones(3), method="backward")
        with pytest.raises(TypeError, match="method must be a name, got int"):
            jac.jacobian(mlp, torch.ones(3), method=3)

    def test_a_plan_refuses_another_shape(self, mlp):
        plan = jac.plan(mlp, torch.ones(3))
        with pytest.raises(ValueError, match=r"this plan is for x of shape \(3,\).*got x of shape \(2, 3\).*make another"):
            plan(torch.ones(2, 3))

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"widths": (2, 3), "batch": -1}, ValueError),
            ({"widths": (2, 3), "batch": 1.5}, TypeError),
            ({"widths": (2, 3), "dtype": "int8"}, ValueError),
        ],
    )
    def test_problem(self, arguments, error):
        with pytest.raises(error, match="must be"):
            jac.Problem(**arguments)


@pytest.mark.parametrize("method", OURS)
def test_what_is_not_finite_shows_and_leaves_its_neighbours_untouched(method):
    def check(activation, bad):
        for widths in ((3, 4), (3, 5, 5, 4)):
            mlp, _ = network(widths, activation=activation, dtype=torch.float32)
            assert not torch.isfinite(jac.jacobian(mlp, torch.tensor([1.0, bad, 2.0]), method=method)).any()
        mlp, x = network((3, 5, 5, 4), batch=3, activation=activation)
        good = jac.jacobian(mlp, x, method=method)
        x[1, 0] = bad
        J = jac.jacobian(mlp, x, method=method)
        assert not torch.isfinite(J[1]).any()
        torch.testing.assert_close(J[[0, 2]], good[[0, 2]], rtol=1e-12, atol=0)

    for_each(itertools.product(["tanh", "relu", "identity"], [float("nan"), float("inf"), -float("inf")]), check)


@pytest.mark.parametrize("method", ALL)
class TestPlans:
    def test_computes_with_the_weights_as_they_are_at_the_call(self, method):
        mlp, x = network((3, 5, 1), batch=2, bias=True)
        plan = jac.plan(mlp, x, method)
        plan(x)
        mlp.weights[0].mul_(1.5)
        mlp.weights[1].data.add_(0.25)  # .data hides the change from autograd's version counter
        mlp.biases[0].sub_(0.125)
        assert oracles.relative_error(plan(x), oracles.autograd(mlp, x)) < 1e-12

    def test_results_are_never_overwritten(self, method):
        for widths in ((3, 1), (3, 5, 1)):
            mlp, x = network(widths, batch=2)
            plan = jac.plan(mlp, x, method)
            first = plan(x)
            kept = first.clone()
            plan(x + 1)
            first_again = plan(x)
            assert torch.equal(first, kept)
            first_again.zero_()
            assert torch.equal(first, kept)
            assert mlp.weights[0].abs().sum() > 0

    def test_serves_threads(self, method):
        mlp, _ = network((3, 16, 16, 1), batch=8)
        inputs = [torch.randn(8, 3, dtype=torch.float64) for _ in range(4)]
        plan = jac.plan(mlp, inputs[0], method)
        expected = [plan(x) for x in inputs]
        wrong = []

        def work(i):
            for _ in range(20):
                if not torch.allclose(plan(inputs[i]), expected[i], rtol=1e-12, atol=1e-14):
                    wrong.append(i)

        in_threads(work, 4)
        assert not wrong


def test_a_plan_says_what_it_is(mlp):
    plan = jac.plan(mlp, torch.ones(6, 3))
    first, reason, *candidates = plan.explain().splitlines()
    assert first == f"{plan.method} for x of shape (6, 3), float32, cpu, widths 3-5-5-4"
    assert reason.startswith("the shortest predicted time, ")
    assert candidates[0].startswith(f"  {plan.method}: predicted ")
    assert len(candidates) == len(plan.choice.predicted) >= 3


def test_auto_takes_the_mode_with_fewer_operations():
    for D, P, mode in ((1, 100, "forward"), (100, 1, "reverse")):
        mlp = jac.MLP.random(L=3, D=D, K=50, P=P)
        assert jac.plan(mlp, torch.ones(D)).method.startswith(mode)


def test_plans_are_kept_with_the_network_and_die_with_it(mlp):
    jac.jacobian(mlp, torch.ones(3))
    kept = dict(mlp._plans)
    jac.jacobian(mlp, torch.zeros(3))
    assert mlp._plans == kept
    jac.jacobian(mlp, torch.ones(2, 3))
    assert len(mlp._plans) == 2


def test_a_dead_network_is_collected():
    mlp = jac.MLP.random(L=2, D=3, K=5, P=4)
    jac.jacobian(mlp, torch.ones(3))
    alive = weakref.ref(mlp)
    del mlp
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("method", OURS)
def test_a_batch_is_one_product_per_layer(method):
    """No batched product with an expanded weight, no loop over samples: L or L + 1 products for the chain, L + 1 for the values."""
    mlp, x = network((3, 8, 8, 8, 5), batch=64)

    class Count(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Count() as count, torch.no_grad():
        {"forward": jac.forward, "reverse": jac.reverse, "mixed": jac.mixed}[method.split(":")[0]](mlp, x)
    assert "bmm" not in count.names
    assert sum(name in {"mm", "addmm"} for name in count.names) == 3 + 3
    assert not {"diag", "diag_embed", "eye"} & set(count.names)


class TestRegistry:
    def test_names_and_order(self):
        names = [method.name for method in jac.methods()]
        assert len(set(names)) == len(names)
        assert jac.methods()[0].hand_written
        assert {"forward:eager", "reverse:eager", "forward:notebook", "reverse:jax", "reverse:autograd-loop"} <= set(names)
        assert [m.name for m in jac.methods("*:notebook")] == ["forward:notebook", "reverse:notebook"]

    @pytest.mark.parametrize("name", ["reverse", "sideways:eager", "reverse:"])
    def test_refuses_a_malformed_name(self, name):
        with pytest.raises(ValueError, match="named mode:implementation"):
            registry.register(name)

    def test_refuses_a_taken_name(self):
        with pytest.raises(ValueError, match="already registered"):
            registry.register("reverse:eager")

    def test_a_missing_library_is_a_reason_not_a_crash(self, mlp, monkeypatch):
        from jacobians.peers import jax as peer

        monkeypatch.setattr(peer.importlib.util, "find_spec", lambda name: None)
        assert "pip install" in jac.find_method("reverse:jax").unsupported(jac.Problem(widths=(2, 3)))
        with pytest.raises(ValueError, match=r"JAX is not installed; install it with: pip install"):
            jac.jacobian(mlp, torch.ones(3), method="reverse:jax")


class TestCost:
    def test_counts_the_products_by_hand(self):
        p = jac.Problem(widths=(2, 3, 5))
        values = 2 * 2 * 3 + 2 * 3  # W_1 x, then tanh and its slope
        assert jac.cost(p, "forward").flops == values + 2 * (2 * 3 * 5 + 3)
        assert jac.cost(p, "reverse").flops == values + 5 * (2 * 2 * 3 + 3)
        assert jac.cost(p, "forward").bytes == 4 * (2 * 3 + 3 * 5 + 2 + 2 * 5)

    def test_grows_with_the_batch(self):
        one, many = (jac.cost(jac.Problem(widths=(2, 3, 5), batch=n), "reverse") for n in (1, 10))
        assert many.flops == 10 * one.flops

    def test_agrees_with_torchs_own_counter_on_the_batched_products(self):
        from torch.utils.flop_counter import FlopCounterMode

        mlp, x = network((7, 30, 20, 10, 3), batch=50)
        for mode, compute in (("forward", jac.forward), ("reverse", jac.reverse)):
            with FlopCounterMode(display=False) as counter:
                compute(mlp, x)
            ours = jac.cost(jac.Problem(widths=mlp.widths, batch=50), mode).flops
            assert ours == pytest.approx(counter.get_total_flops(), rel=0.1)
            assert ours > counter.get_total_flops()  # torch counts no scalings and no activations

    def test_refuses_an_unknown_mode(self):
        with pytest.raises(ValueError, match="no operation count for mode 'sideways'"):
            jac.cost(jac.Problem(widths=(2, 3)), "sideways")

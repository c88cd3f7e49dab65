"""Replayed graphs: the buffers they share, with a recording that needs no GPU; and the real one where there is a GPU."""

import pytest
import torch

import jacobians as jac
from jacobians.kernels.cuda import graph
from jacobians.kernels.cuda.graph import Replay
from jacobians.planning.inputs import problem_of
from jacobians.planning.registry import NotPlain, find_quantity
from tests import oracles
from tests.cases import in_threads, network


class FakeGraph:
    """Replays as a CUDA graph does: the recorded computation, from the same inputs, into the same results."""

    recorded = 0

    def __init__(self, compute):
        type(self).recorded += 1
        self.compute, self.results = compute, tuple(t.clone() for t in compute())

    def replay(self):
        for kept, new in zip(self.results, self.compute(), strict=True):
            if kept is not None:
                kept.copy_(new)


def record(compute):
    graph = FakeGraph(compute)
    for result in graph.results:
        if result is not None:
            result.fill_(float("nan"))  # a capture computes nothing
    return graph, graph.results


@pytest.fixture
def replay():
    FakeGraph.recorded = 0
    mlp, x = network((3, 9, 9, 4), batch=5, bias=True)
    return mlp, x, Replay(mlp, lambda: lambda x: jac.reverse(mlp, x, value=True), record)


def test_results_are_right_and_never_overwritten(replay):
    mlp, x, run = replay
    _, first = run(x)
    kept = first.clone()
    y, second = run(x + 1)
    assert torch.equal(first, kept)
    assert oracles.relative_error(first, oracles.autograd(mlp, x)) < 1e-12
    assert oracles.relative_error(second, oracles.autograd(mlp, x + 1)) < 1e-12
    torch.testing.assert_close(y, mlp(x + 1))
    assert FakeGraph.recorded == 1


def test_weights_that_change_are_read_and_weights_that_move_are_noticed(replay):
    mlp, x, run = replay
    run(x)
    mlp.weights[1].mul_(1.5)
    assert oracles.relative_error(run(x)[1], oracles.autograd(mlp, x)) < 1e-12
    assert FakeGraph.recorded == 1
    mlp.weights[1].data = mlp.weights[1].data.clone() * 2
    assert oracles.relative_error(run(x)[1], oracles.autograd(mlp, x)) < 1e-12
    assert FakeGraph.recorded == 2


def test_threads_take_turns(replay):
    mlp, x, run = replay
    inputs = [x + shift for shift in range(4)]
    expected = [oracles.autograd(mlp, one) for one in inputs]
    wrong = []

    def call(index):
        for _ in range(20):
            if oracles.relative_error(run(inputs[index])[1], expected[index]) > 1e-12:
                wrong.append(index)

    in_threads(call, 4)
    assert not wrong
    assert FakeGraph.recorded == 1


def test_the_cpu_is_refused_with_a_reason():
    problem = jac.Problem(widths=(3, 4))
    assert jac.find_method("reverse:cuda-graph").unsupported(problem) == "runs on CUDA, not on cpu"
    assert jac.find_method("reverse:cuda-graph").unsupported(problem.with_(device="cuda")) is None


QUANTITIES = sorted({m.quantity for m in jac.methods("*/*:cuda-graph")})


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_quantity_is_replayed_at_other_inputs(monkeypatch, quantity):
    monkeypatch.setattr(graph, "capture", record)
    monkeypatch.setattr(graph.Replay.__init__, "__defaults__", (record,))
    mlp, x = network((3, 9, 9, 4), batch=5, bias=True)
    what = find_quantity(quantity)
    problem = problem_of(mlp, x).with_(quantity=quantity, loss="cross_entropy" if what.loss else None)
    others = what.draw(problem, torch.Generator().manual_seed(0))
    for method in jac.methods(f"{quantity}/*:cuda-graph"):
        FakeGraph.recorded = 0
        run = method.prepare(mlp, problem, jac.Request()).run
        for shift in (0.0, 1.0):
            inputs = (x + shift, *others)
            found = run(inputs[0] if len(inputs) == 1 else inputs)[1]
            for one, exact in zip(found, what.exact(mlp, problem, inputs), strict=True):
                torch.testing.assert_close(one, exact.detach())
        assert FakeGraph.recorded == 1
        assert method.unsupported(problem) == "runs on CUDA, not on cpu"


def test_what_is_no_plain_tensor_is_left_to_torch(replay):
    from torch.testing._internal.two_tensor import TwoTensor

    _, x, run = replay
    with pytest.raises(NotPlain, match="no plain tensor"):
        run(TwoTensor(x, x))
    with pytest.raises(NotPlain, match="no plain tensor"):
        run(torch._neg_view(x))


def test_a_parameter_that_is_read_otherwise_at_the_same_address(replay):
    """Transposed in place a weight stands where it stood: a recording that is not made again would read it as before."""
    mlp, x, run = replay
    run(x)
    mlp.weights[1].data = mlp.weights[1].data.T
    assert oracles.relative_error(run(x)[1], oracles.autograd(mlp, x)) < 1e-12
    assert FakeGraph.recorded == 2
    mlp.weights[1].data = torch._neg_view(mlp.weights[1].data)
    with pytest.raises(NotPlain, match="a parameter is no plain tensor"):
        run(x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", ["forward", "reverse", "mixed"])
def test_on_a_gpu(mode):
    mlp, x = network((5, 33, 33, 4), batch=7, dtype=torch.float32, bias=True, device="cuda")
    plan = jac.plan(mlp, x.cuda(), f"{mode}:cuda-graph")
    for shift in (0.0, 1.0):
        assert oracles.relative_error(plan(x.cuda() + shift).cpu(), oracles.autograd(mlp.to("cpu"), x + shift)) < 1e-5

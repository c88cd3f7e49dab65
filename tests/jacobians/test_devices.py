"""The paths of an accelerator, where there is none: on tensors that have a device, a shape and a dtype but no numbers.

A tensor that some line makes on the CPU meets one of the device in an operation, and that is an error on such tensors as it is on a GPU.
"""

import contextlib
import importlib.util
import os
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import jacobians as jac
from jacobians.kernels.cuda import blocks, graph, sums
from jacobians.planning.inputs import problem_of
from jacobians.planning.registry import find_quantity
from tests.cases import for_each, network, served
from tests.jacobians.test_cuda_graph import record

WIDTHS = (4, 6, 5, 3)
DEVICE = "meta"
TRITON = importlib.util.find_spec("triton") is not None
# What a user has on a GPU without JAX: its arrays are its own business.
METHODS = [m for q in jac.quantities() for m in jac.methods(quantity=q.name) if m.implementation in {"eager", "cuda-graph", "torch.func"}]


def on_device(mlp):
    parts = ([torch.empty(t.shape, dtype=t.dtype, device=DEVICE) for t in some] for some in (mlp.weights, mlp.biases))
    return jac.MLP(*parts, mlp.activations[0])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_nothing_is_made_on_another_device(method, monkeypatch):
    monkeypatch.setattr(graph.Replay.__init__, "__defaults__", (record,))
    monkeypatch.setattr(graph, "capture", record)
    quantity = find_quantity(method.quantity)

    def check(batch):
        mlp, x = network(WIDTHS, batch=batch, dtype=torch.float32, bias=True)
        problem = problem_of(mlp, x).with_(quantity=quantity.name, loss="cross_entropy" if quantity.loss else None, device="cuda")
        refused = batch is None and method.short == "forward-over-reverse:torch.func"
        if not served(method.name, problem, "is written for a batch; pass x[None]" if refused else None):
            return
        others = [t.float() if t.is_floating_point() else t for t in quantity.draw(problem.with_(device="cpu"), torch.Generator())]
        expected = quantity.exact(mlp, problem.with_(device="cpu"), (x, *others))
        # FakeTensors look at the devices of every operation; a graph takes plain tensors only, whose own checks are fewer.
        with contextlib.nullcontext() if method.implementation == "cuda-graph" else FakeTensorMode():
            inputs = tuple(torch.empty(t.shape, dtype=t.dtype, device=DEVICE) for t in (x, *others))
            computation = method.prepare(on_device(mlp), problem, jac.Request())
            found = computation.run(inputs[0] if len(inputs) == 1 else inputs)[1]
        found = (found,) if isinstance(found, torch.Tensor) else computation.restore(found) if computation.restore else found
        assert [(t.shape, t.dtype, t.device.type) for t in found] == [(t.shape, torch.float32, DEVICE) for t in expected]

    for_each([(7,)] if quantity.batched else [(None,), (7,)], check)


class Streams:
    """Stands in for `torch.cuda`: keeps the order of what is asked of it."""

    def __init__(self):
        self.log, self.now = [], "main"
        self.cuda = SimpleNamespace(
            Stream=lambda: self.stream("side"),
            current_stream=lambda: self.stream(self.now),
            stream=self.within,
            CUDAGraph=lambda: "graph",
            graph=lambda graph: self.recording(graph),
        )

    def stream(self, name):
        return SimpleNamespace(name=name, wait_stream=lambda other: self.log.append(f"{name} waits for {other.name}"))

    @contextlib.contextmanager
    def within(self, stream):
        self.now = stream.name
        yield
        self.now = "main"

    @contextlib.contextmanager
    def recording(self, graph):
        self.log.append("recording begins")
        yield
        self.log.append("recording ends")


def test_a_capture_warms_up_on_a_stream_of_its_own(monkeypatch):
    """As CUDA wants it: the side stream sees the inputs, the main stream sees the workspaces, and the recording is one computation."""
    streams = Streams()
    monkeypatch.setattr(graph, "torch", SimpleNamespace(cuda=streams.cuda))
    found = graph.capture(lambda: (streams.log.append(f"computed on {streams.now}"), "result")[1:])
    assert found == ("graph", ("result",))
    warm = ["computed on side"] * graph.WARM_UP
    assert streams.log == [
        "side waits for main", *warm, "main waits for side", "recording begins", "computed on main", "recording ends",
    ]  # fmt: skip


class Kernels:
    """Stands in for the Triton kernels: keeps how each was launched."""

    def __init__(self):
        self.launches = []

    def __getattr__(self, name):
        kernels = self

        class Kernel:
            def __getitem__(self, grid):
                return lambda *arguments, **constants: kernels.launches.append((name, grid, arguments, constants))

        return Kernel()


@pytest.mark.parametrize("N", [0, 1, 7, 1000])
@pytest.mark.parametrize("kind", ["forward", "reverse", "laplacian", "gradient", "jacobian_gradient"])
def test_triton_is_launched_over_all_samples_on_one_device(kind, N, monkeypatch):
    kernels = Kernels()
    monkeypatch.setattr(blocks.importlib, "import_module", lambda name: kernels)
    monkeypatch.setattr(blocks, "setting", lambda rule: (0, 0.0, 0.0, 1.0))  # the codes stand in a module that needs Triton
    mlp, x = network(WIDTHS, batch=N, dtype=torch.float32, bias=True)
    problem = jac.Problem(widths=WIDTHS, batch=N, bias=True, device=DEVICE)
    x, mlp = x.to(DEVICE), on_device(mlp)
    monkeypatch.setattr(torch, "tensor", with_device(torch.tensor))
    if kind == "gradient":
        sums.Sums(mlp, problem.with_(quantity=kind, loss="mse"))(x, x.new_empty(N, 3))
    elif kind == "jacobian_gradient":
        sums.Sums(mlp, problem.with_(quantity=kind))(x)
    else:
        y, J, laplacian = blocks.BlockKernel(mlp, problem, kind, True)(x, x.new_empty(4))
        assert (y.shape, J.shape) == ((N, 3), (N, 3, 4))
        assert (laplacian is not None) == (kind == "laplacian")
    if not N:
        assert kernels.launches == []
        return
    ((name, grid, arguments, constants),) = kernels.launches
    names = {"reverse": "pulled", "gradient": "differentiated", "jacobian_gradient": "there_and_back"}
    assert name == names.get(kind, "pushed")
    assert {t.device.type for t in arguments if isinstance(t, torch.Tensor)} == {DEVICE}
    assert all(t.is_contiguous() for t in arguments if isinstance(t, torch.Tensor))
    if kind in blocks.SUMMED:
        assert grid[0] <= blocks.MULTIPROCESSORS
        count = arguments[8 if kind == "gradient" else 7]
    else:
        count = grid[0]
    assert (count - 1) * constants["BN"] < N <= count * constants["BN"]
    if kind == "reverse":
        assert grid[1] * constants["S"] >= 3


def with_device(tensor):
    """Let `torch.tensor` of a device without numbers go by way of the CPU, which it otherwise refuses."""
    return lambda data, *, dtype=None, device=None: tensor(data, dtype=dtype).to(device or "cpu")


def test_what_triton_cannot_serve_is_said(monkeypatch):
    method = jac.find_method("forward:triton")
    problem = jac.Problem(widths=(3, 8, 2), batch=4, device="cuda")
    assert "runs on CUDA" in (method.unsupported(problem.with_(device="cpu")) or "runs on CUDA" * blocks.interpreted())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert method.unsupported(problem) == blocks.INSTALL
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for change, reason in (
        ({"dtype": "float64"}, "computes in float32"),
        ({"widths": (3, 4)}, "needs a hidden layer"),
        ({"widths": (3, 200, 2)}, "at most 64 neurons"),
        ({"widths": (40, 8, 2)}, "at most 16 rows of a sample"),
        ({"widths": (3, 8, 8, 2), "activation": "tanh;relu"}, "one hidden activation"),
        ({"batch": 2**30}, "counts at most 2³¹ numbers"),
        ({"batch": 2**28}, None),
        ({"output_activation": "softmax"}, "has no softmax"),
    ):
        found = method.unsupported(problem.with_(**change)) if reason or TRITON else None
        assert reason in found if reason else found is None


def test_tritons_interpreter_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "1")
    assert blocks.interpreted()
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not blocks.interpreted()

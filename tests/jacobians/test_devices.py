"""The paths of an accelerator, where there is none: on tensors that have a device, a shape and a dtype but no numbers.

A tensor that some line makes on the CPU meets one of the device in an operation, and that is an error on such tensors as it is on a GPU.
"""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import jacobians as jac
from jacobians.kernels.cuda import blocks, graph, sums
from jacobians.planning.registry import find_quantity
from tests.cases import network
from tests.jacobians.test_cuda_graph import record

WIDTHS = (4, 6, 5, 3)
DEVICE = "meta"
# What a user has on a GPU without JAX: its arrays are its own business.
METHODS = [m for q in jac.quantities() for m in jac.methods(quantity=q.name) if m.implementation in {"eager", "cuda-graph", "torch.func"}]


def on_device(mlp):
    parts = ([torch.empty(t.shape, dtype=t.dtype, device=DEVICE) for t in some] for some in (mlp.weights, mlp.biases))
    return jac.MLP(*parts, mlp.activations[0])


@pytest.mark.parametrize("batch", [None, 7])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_nothing_is_made_on_another_device(method, batch, monkeypatch):
    monkeypatch.setattr(graph.Replay.__init__, "__defaults__", (record,))
    monkeypatch.setattr(graph, "capture", record)
    quantity = find_quantity(method.quantity)
    mlp, x = network(WIDTHS, batch=batch, dtype=torch.float32, bias=True)
    problem = jac.Problem(
        widths=WIDTHS, batch=batch, bias=True, quantity=quantity.name, loss="cross_entropy" if quantity.loss else None, device="cuda"
    )
    reason = "one sample is a batch of one" if quantity.batched and batch is None else method.unsupported(problem)
    if reason is not None:
        pytest.skip(reason)
    others = [t.float() if t.is_floating_point() else t for t in quantity.draw(problem.with_(device="cpu"), torch.Generator())]
    expected = quantity.exact(mlp, problem.with_(device="cpu"), (x, *others))
    # FakeTensors look at the devices of every operation; a graph takes plain tensors only, whose own checks are fewer.
    with contextlib.nullcontext() if method.implementation == "cuda-graph" else FakeTensorMode():
        inputs = tuple(torch.empty(t.shape, dtype=t.dtype, device=DEVICE) for t in (x, *others))
        computation = method.prepare(on_device(mlp), problem, jac.Request())
        found = computation.run(inputs[0] if len(inputs) == 1 else inputs)[1]
    found = (found,) if isinstance(found, torch.Tensor) else computation.restore(found) if computation.restore else found
    assert [(t.shape, t.dtype, t.device.type) for t in found] == [(t.shape, torch.float32, DEVICE) for t in expected]


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

"""A change of a wrapped module is found at the next call, or refused in one line: never computed as it was before."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as of_torch
from torch.nn.utils import parametrizations, prune

import jacobians as jac
from jacobians.network.from_torch import Scaled

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SLOPE = 0.1
SLOPES = [0.1]


def linear(i, o):
    return nn.Linear(i, o).double()


def sequential(*middle):
    return nn.Sequential(linear(3, 4), *(middle or (nn.Tanh(),)), linear(4, 2))


def nested():
    return nn.Sequential(nn.Sequential(linear(3, 4), nn.Sequential(nn.Tanh(), linear(4, 4))), nn.ReLU(), linear(4, 2))


def norms():
    pair = lambda: (nn.BatchNorm1d(4), nn.BatchNorm1d(4))  # noqa: E731
    net = nn.Sequential(linear(3, 4), nn.Tanh(), *pair(), linear(4, 4), *pair()).double()
    for m in net:
        if isinstance(m, nn.BatchNorm1d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    return net.eval()


def act(h):
    return torch.tanh(h)


class Own(nn.Module):
    """A forward of its own that reads what the tests change."""

    scale_of_class = 0.3

    def __init__(self):
        super().__init__()
        self.net, self.block = sequential(), nn.Sequential(linear(2, 2), nn.Softplus())
        self.flag, self.slope, self.act, self.settings, self.fixed = True, 0.1, torch.tanh, {"slope": 0.2}, (0.4, 0.5)

    def forward(self, x):
        y = self.act(self.net(x)) if self.flag else self.net(x)
        y = self.block(y)
        return y if self.training else F.leaky_relu(self.block[0](y), self.slope)


class Settings(Own):
    def forward(self, x):
        h = F.leaky_relu(self.net(x), self.settings["slope"])
        return F.leaky_relu(self.block[0](h), self.fixed[0] if SLOPE < 0.2 else self.scale_of_class)


class Method(Own):
    def forward(self, x):
        return self.last(self.net(x))

    def last(self, h):
        return act(h) if self.block[0].in_features == 2 else h


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.steep = linear(3, 2), 0.3

    def forward(self, x):
        return F.elu(self.fc(x), self.steep)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.head = Block(), linear(2, 2)

    def forward(self, x):
        return self.head(self.block(x))


def set_(path, **values):
    def change(net, monkeypatch):
        m = net.get_submodule(path)
        for name, value in values.items():
            setattr(m, name, value)

    return change


def do(path, call):
    return lambda net, monkeypatch: call(net.get_submodule(path))


def patch(owner, name, value):
    return lambda net, monkeypatch: monkeypatch.setattr(owner, name, value)


def in_place(path, call):
    def change(net, monkeypatch):
        with torch.no_grad():
            call(net.get_submodule(path))

    return change


def twice(*_):
    return 2 * _[-1]


def swap(net, monkeypatch):
    items = list(net._modules.items())
    net._modules.clear()
    net._modules.update(items[::-1])


def act_times_two(h):
    return torch.relu(h)


SQUARE = lambda: nn.Sequential(linear(3, 3), nn.Tanh(), linear(3, 3))  # noqa: E731
CHANGES = {
    # parameters
    "weight in place": (sequential, in_place("0", lambda m: m.weight.mul_(2)), "found"),
    "weight by .data": (sequential, in_place("0", lambda m: m.weight.data.mul_(2)), "found"),
    "weight.data replaced": (sequential, do("0", lambda m: setattr(m.weight, "data", m.weight.data * 3)), "found"),
    "weight.data transposed": (SQUARE, do("0", lambda m: setattr(m.weight, "data", m.weight.data.mT)), "found"),
    "weight.data negative view": (sequential, do("0", lambda m: setattr(m.weight, "data", torch._neg_view(m.weight.data))), "found"),
    "weight.data of another shape": (sequential, do("0", lambda m: setattr(m.weight, "data", m.weight.data[:3])), "refused"),
    "weight.data float32": (sequential, do("0", lambda m: setattr(m.weight, "data", m.weight.data.float())), "refused"),
    "weight replaced": (sequential, do("0", lambda m: setattr(m, "weight", nn.Parameter(torch.ones(4, 3).double()))), "found"),
    "weight replaced, wider": (sequential, do("0", lambda m: setattr(m, "weight", nn.Parameter(torch.ones(5, 3).double()))), "refused"),
    "weight deleted": (sequential, do("0", lambda m: delattr(m, "weight")), "refused"),
    "weights tied": (SQUARE, lambda net, _: setattr(net[2], "weight", net[0].weight), "found"),
    "bias None": (sequential, set_("0", bias=None), "found"),
    "bias replaced": (sequential, do("2", lambda m: setattr(m, "bias", nn.Parameter(torch.ones(2).double()))), "found"),
    "load_state_dict": (sequential, do("", lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()})), "found"),
    "load_state_dict(assign)": (
        sequential,
        do("", lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}, assign=True)),
        "found",
    ),
    "float()": (sequential, do("", lambda m: m.float()), "refused"),
    "requires_grad_(False)": (sequential, do("", lambda m: m.requires_grad_(False)), "found"),
    # structure
    "appended": (sequential, do("", lambda m: m.append(nn.Tanh())), "refused"),
    "head replaced": (sequential, do("", lambda m: m.__setitem__(2, linear(4, 2))), "refused"),
    "head of a traced module replaced": (Own, do("net", lambda m: m.__setitem__(2, linear(4, 2))), "refused"),
    "appended to a container of a traced module": (Own, do("net", lambda m: m.append(nn.ReLU())), "refused"),
    "child of a traced module replaced": (Outer, set_("", head=linear(2, 2)), "refused"),
    "grandchild replaced": (nested, do("0.1", lambda m: m.__setitem__(1, linear(4, 4))), "refused"),
    "grandchild deleted": (nested, do("0.1", lambda m: m.__delitem__(0)), "refused"),
    "order reversed": (SQUARE, swap, "refused"),
    "child None": (sequential, do("", lambda m: m._modules.__setitem__("1", None)), "refused"),
    "class replaced": (sequential, set_("1", **{"__class__": nn.Sigmoid}), "refused"),
    "unused child added to a traced module": (Outer, set_("", unused=nn.ReLU()), "refused"),
    # hooks and code
    "hook on a layer": (sequential, do("0", lambda m: m.register_forward_hook(twice)), "refused"),
    "hook on an activation": (sequential, do("1", lambda m: m.register_forward_hook(twice)), "refused"),
    "pre-hook": (sequential, do("2", lambda m: m.register_forward_pre_hook(lambda m, x: (2 * x[0],))), "refused"),
    "hook on the whole": (sequential, do("", lambda m: m.register_forward_hook(twice)), "refused"),
    "hook on a nested container": (nested, do("0.1", lambda m: m.register_forward_hook(twice)), "refused"),
    "hook on a block of a traced module": (Outer, do("block", lambda m: m.register_forward_hook(twice)), "refused"),
    "hook on a container of a traced module": (Own, do("net", lambda m: m.register_forward_hook(twice)), "refused"),
    "backward hook": (sequential, do("1", lambda m: m.register_full_backward_hook(lambda m, i, o: (2 * i[0],))), "refused"),
    "global hook": (sequential, lambda net, mp: mp.setitem(of_torch._global_forward_hooks, 1, twice), "refused"),
    "global pre-hook": (sequential, lambda net, mp: mp.setitem(of_torch._global_forward_pre_hooks, 1, lambda m, x: None), "refused"),
    "forward of a layer": (sequential, set_("1", forward=torch.relu), "refused"),
    "forward of the whole": (sequential, set_("", forward=torch.relu), "refused"),
    "forward of a nested container": (nested, set_("0", forward=torch.relu), "refused"),
    "forward of a class": (Outer, patch(Outer, "forward", lambda self, x: self.head(torch.tanh(self.block(x)))), "refused"),
    "forward of a block's class": (Outer, patch(Block, "forward", lambda self, x: self.fc(x)), "refused"),
    "forward of a layer's class": (sequential, patch(nn.Tanh, "forward", lambda self, x: torch.relu(x)), "refused"),
    "code of a forward": (Outer, patch(Block.forward, "__code__", (lambda self, x: self.fc(x)).__code__), "refused"),
    "method that forward calls": (Method, patch(Method, "last", lambda self, h: torch.relu(h)), "refused"),
    "weight norm": (sequential, do("0", lambda m: parametrizations.weight_norm(m)), "refused"),
    "spectral norm": (sequential, do("0", lambda m: parametrizations.spectral_norm(m)), "refused"),
    "pruned": (sequential, do("0", lambda m: prune.l1_unstructured(m, "weight", 0.5)), "refused"),
    # settings
    "LeakyReLU.negative_slope": (lambda: sequential(nn.LeakyReLU(0.1)), set_("1", negative_slope=0.5), "refused"),
    "ELU.alpha": (lambda: sequential(nn.ELU()), set_("1", alpha=0.5), "refused"),
    "Softplus.beta": (lambda: sequential(nn.Softplus()), set_("1", beta=3.0), "refused"),
    "Softplus.threshold": (lambda: sequential(nn.Softplus()), set_("1", threshold=0.1), "refused"),
    "GELU.approximate": (lambda: sequential(nn.GELU()), set_("1", approximate="tanh"), "refused"),
    "Sine.omega": (lambda: sequential(jac.Activation("sine").to_torch()), set_("1", omega=3.0), "refused"),
    "Scaled.scale": (lambda: sequential(Scaled(nn.Tanh(), 2.0)), set_("1", scale=3.0), "refused"),
    "Scaled.activation": (lambda: sequential(Scaled(nn.Tanh(), 2.0)), set_("1", activation=nn.Sigmoid()), "refused"),
    "setting deleted": (lambda: sequential(nn.ELU()), do("1", lambda m: delattr(m, "alpha")), "refused"),
    "setting of an activation in a traced module": (Own, set_("block.1", beta=4.0), "refused"),
    "Dropout.p in training": (lambda: sequential(nn.Dropout(0.0)).train(), set_("1", p=0.5), "refused"),
    "Dropout to training": (lambda: sequential(nn.Dropout(0.5)).eval(), do("", lambda m: m.train()), "refused"),
    "Dropout(0) to eval": (lambda: sequential(nn.Dropout(0.0)), do("", lambda m: m.eval()), "found"),
    "Flatten.start_dim": (lambda: nn.Sequential(nn.Flatten(), *sequential()), set_("0", start_dim=0), "refused"),
    "train and eval of a plain chain": (sequential, do("", lambda m: m.eval()), "found"),
    "attribute that nobody reads": (sequential, set_("0", note="hello"), "found"),
    # batch norms
    "running mean": (norms, in_place("2", lambda m: m.running_mean.add_(1)), "found"),
    "running variance of the second": (norms, in_place("3", lambda m: m.running_var.mul_(3)), "found"),
    "γ and β of both behind": (norms, in_place("", lambda m: [m[5].weight.mul_(2), m[6].bias.add_(1)]), "found"),
    "eps": (norms, set_("2", eps=0.5), "found"),
    "statistics replaced": (norms, set_("3", running_mean=torch.ones(4).double()), "found"),
    "statistics None": (norms, set_("2", running_mean=None, running_var=None), "refused"),
    "γ None": (norms, set_("2", weight=None), "found"),
    "weight reshaped beside a norm": (norms, do("0", lambda m: setattr(m.weight, "data", m.weight.data.reshape(3, 4))), "refused"),
    "weight flattened beside a norm": (norms, do("4", lambda m: setattr(m.weight, "data", m.weight.data.reshape(-1))), "refused"),
    "to training": (norms, do("", lambda m: m.train()), "refused"),
    # a forward of its own
    "to eval, where forward asks": (Own, do("", lambda m: m.eval()), "refused"),
    "flag": (Own, set_("", flag=False), "refused"),
    "callable attribute": (Own, set_("", act=torch.sigmoid), "refused"),
    "setting read by forward": (lambda: Own().eval(), set_("", slope=0.7), "refused"),
    "dict read by forward": (Settings, do("", lambda m: m.settings.update(slope=0.9)), "refused"),
    "dict replaced": (Settings, set_("", settings={"slope": 0.9}), "refused"),
    "tuple replaced": (Settings, set_("", fixed=(0.9,)), "refused"),
    "global read by forward": (Settings, lambda net, mp: mp.setitem(Settings.forward.__globals__, "SLOPE", 0.3), "refused"),
    "attribute of the class": (
        Settings,
        lambda net, mp: (
            mp.setitem(Settings.forward.__globals__, "SLOPE", 0.3),
            mp.setattr(Settings, "scale_of_class", 0.6, raising=False),
        ),
        "refused",
    ),
    "function that forward calls": (Method, lambda net, mp: mp.setitem(Method.forward.__globals__, "act", act_times_two), "refused"),
    "attribute of a child that forward reads": (Method, set_("block.0", in_features=5), "refused"),
    "setting of a block": (Outer, set_("block", steep=0.9), "refused"),
    "attribute of a forward that decides nothing": (Own, set_("", slope=0.7), "found"),
    "train and eval of a forward that does not ask": (Outer, do("", lambda m: m.eval()), "found"),
}


def exact(net, x):
    return torch.autograd.functional.jacobian(lambda x: net(x).sum(0), x).movedim(0, 1)


@pytest.mark.parametrize("name", CHANGES)
def test_a_later_change(name, monkeypatch):
    torch.default_generator.manual_seed(0)
    make, change, verdict = CHANGES[name]
    net = make()
    mlp = jac.MLP.from_torch(net)
    torch.testing.assert_close(jac.jacobian(mlp, X), exact(net, X))
    plan = jac.plan(mlp, X)
    change(net, monkeypatch)
    calls = [lambda: jac.jacobian(mlp, X), lambda: plan(X), lambda: jac.jacobian(mlp, X, "forward:eager"), lambda: jac.laplacian(mlp, X)[1]]
    for call in calls:
        if verdict == "refused":
            with pytest.raises((ValueError, TypeError)) as caught:
                call()
            assert "\n" not in str(caught.value)
        elif name != "bias None" or call is not calls[1]:  # the plan itself is for the biases that there were
            torch.testing.assert_close(call(), exact(net, X))


def test_two_norms_in_a_row_are_folded_in_their_order():
    torch.default_generator.manual_seed(0)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.bfloat16, 0.05)):
        net = norms().to(dtype)
        x = X.to(dtype)
        y = jac.MLP.from_torch(net)(x)
        torch.testing.assert_close(y.double(), copy.deepcopy(net).double()(x.double()), rtol=tolerance, atol=tolerance)


class Listed(Own):
    def forward(self, x):
        return F.leaky_relu(self.net(x), SLOPES[0])


class Drawn(Own):
    def forward(self, x):
        return F.leaky_relu(self.net(x), float(torch.rand(())))


class Library(Own):
    def forward(self, x):
        return F.leaky_relu(self.net(x), random.random())


class Buffer(Own):
    def __init__(self):
        super().__init__()
        self.register_buffer("rate", torch.tensor(0.3))

    def forward(self, x):
        return F.leaky_relu(self.net(x), float(self.rate))


class Opaque(Own):
    def __init__(self):
        super().__init__()
        self.box = pytest

    def forward(self, x):
        return self.net(x) if self.box else x


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Listed, "reads the global 'SLOPES', a list that may change unnoticed"),
        (Drawn, "draws random numbers"),
        (Library, "draws random numbers|reads the global 'random', a module"),
        (Buffer, "reads the buffer 'rate'"),
        (Opaque, "reads the attribute 'box'"),
    ],
)
def test_a_forward_that_reads_what_may_change_unnoticed_is_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        jac.MLP.from_torch(kind())


@pytest.mark.parametrize("factor", [1.01, 1 + 1e-6])
def test_the_comparison_at_wrapping_sees_small_differences(factor, monkeypatch):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    original = F.linear
    for dtype in (torch.float32, torch.bfloat16):
        with monkeypatch.context() as patched:
            patched.setattr(nn.Linear, "forward", lambda self, x: factor * original(x, self.weight, self.bias))
            with pytest.raises(ValueError, match="computes something else than the chain of its layers"):
                jac.MLP.from_torch(net.to(dtype))


@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_a_default_device_is_not_where_networks_are_drawn_or_compared(device):
    net = sequential()
    torch.set_default_device(device)
    try:
        mlp, other = jac.MLP.from_torch(net), jac.MLP.random(L=1, D=3, K=4, P=2)
    finally:
        torch.set_default_device(None)
    torch.testing.assert_close(other.weights, jac.MLP.random(L=1, D=3, K=4, P=2).weights)
    torch.testing.assert_close(jac.jacobian(mlp, X), exact(net, X))


@pytest.mark.parametrize(
    "make", [lambda: nn.Sequential(nn.Flatten(0), linear(3, 2)), lambda: nn.Sequential(nn.Flatten(1, 1), linear(3, 2))]
)
def test_flatten_must_keep_the_samples(make):
    with pytest.raises(ValueError, match="must keep the samples apart"):
        jac.MLP.from_torch(make())


def test_wrapping_leaves_a_module_as_it_was():
    shared = linear(3, 3)
    net = nn.Sequential(shared, nn.Tanh(), shared, nn.BatchNorm1d(3).double()).eval()
    before = [(id(t), t.requires_grad, t._version) for t in (*net.parameters(), *net.buffers())]
    jac.jacobian(jac.MLP.from_torch(net), X)
    assert [(id(t), t.requires_grad, t._version) for t in (*net.parameters(), *net.buffers())] == before

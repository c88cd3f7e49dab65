"""Torch modules: what is accepted computes what the module computes, now and after every change; anything else is refused by name."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import jacobians as jac
from tests import oracles


def small():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def with_norms():
    torch.default_generator.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(),
        nn.BatchNorm1d(6),
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.SiLU(),
        nn.Dropout(0.3),
        nn.Sequential(nn.Linear(8, 7, bias=False), nn.LeakyReLU(0.3)),
        nn.BatchNorm1d(7, affine=False),
        nn.Identity(),
        nn.Linear(7, 3),
    ).double()
    net.train()
    for _ in range(5):
        net(3 + 2 * torch.randn(20, 6, dtype=torch.float64))
    return net.eval()


class Chain(nn.Module):
    """A plain module whose forward is a chain."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.act, self.rest = (
            nn.Linear(3, 5),
            nn.Linear(5, 4),
            nn.ELU(0.5),
            nn.Sequential(nn.Linear(4, 4), nn.Softsign(), nn.Linear(4, 2)),
        )

    def forward(self, x):
        h = F.leaky_relu(self.a(x), 0.2)
        return self.rest(self.act(self.b(h))).sigmoid()


def check(net, x):
    """The network's value and every mode's Jacobian against the module's own."""
    mlp = jac.MLP.from_torch(net)
    torch.testing.assert_close(mlp(x), net(x))
    J = torch.autograd.functional.jacobian(lambda x: net(x).sum(0), x).movedim(0, 1)
    for method in ("auto", "forward", "reverse", "mixed", "reverse:native"):
        assert oracles.relative_error(jac.jacobian(mlp, x, method), J) < 1e-11, method
    return mlp


class LoRA(nn.Linear):
    def forward(self, x):
        return super().forward(x) + x.sum(-1, keepdim=True)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x):
        return x + self.a(x)


class Branch(Skip):
    def forward(self, x):
        return self.a(x) if x.sum() > 0 else x


class Functional(Skip):
    def forward(self, x):
        return F.linear(x, self.a.weight)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Residual(nn.Linear(3, 3), nn.Tanh()),
        lambda: nn.Sequential(nn.Linear(3, 3), Residual(nn.Linear(3, 3))),
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3))),
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.BatchNorm1d(4)).eval(),
        lambda: nn.Sequential(nn.Tanh(), nn.Linear(3, 3)),
        lambda: nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.ReLU()),
        Skip,
        Functional,
    ],
)
def test_what_is_no_chain_is_read_as_steps(make):
    net, x = make().double(), torch.randn(4, 3, dtype=torch.float64)
    exact = torch.autograd.functional.jacobian(lambda x: net(x).sum(0), x).movedim(0, 1)
    torch.testing.assert_close(jac.jacobian(jac.MLP.from_torch(net), x), exact)


def hooked(register):
    net = small()
    getattr(net[0], register)(lambda *args: None)
    return net


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: 3, TypeError, r"expected a torch nn\.Module, got int"),
        (lambda: nn.Sequential(LoRA(3, 4), nn.Tanh()), TypeError, "layer 0 is a LoRA, a subclass of Linear"),
        (lambda: hooked("register_forward_hook"), ValueError, "layer 0 .* has a forward_hook"),
        (lambda: hooked("register_full_backward_hook"), ValueError, "layer 0 .* has a backward_hook"),
        (
            lambda: nn.Sequential(nn.Linear(3, 4), nn.Conv1d(1, 1, 1)),
            TypeError,
            r"layer 1 is a Conv1d, which is not taken; take torch\.func\.vmap",
        ),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout()), ValueError, r"layer 1 \(Dropout\) is random in training mode"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), ValueError, r"layer 1 \(BatchNorm1d\) couples the samples"),
        (
            lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)).eval(),
            ValueError,
            "track_running_stats=True",
        ),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Flatten()), ValueError, r"layer 1 \(Flatten\) must come first"),
        (nn.Sequential, ValueError, "no Linear layer"),
        (lambda: nn.Sequential(nn.LazyLinear(4)), TypeError, "layer 0 is an uninitialised LazyLinear; call the module once"),
        (lambda: nn.Sequential(nn.Linear(3, 4, device="meta")), ValueError, "layer 0 .* is on the meta device"),
        (lambda: with_none(), ValueError, "layer 1 is None; remove it"),
        (Branch, TypeError, "the forward of Branch cannot be traced by torch.fx"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_what_would_be_wrong_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        jac.MLP.from_torch(make())


def with_none():
    net = small()
    net._modules["1"] = None
    return net


def test_what_nobody_foresaw_is_found_by_one_evaluation(monkeypatch):
    """With the check of the type taken away, the comparison with the module's own value is what is left."""
    net = nn.Sequential(LoRA(3, 4), nn.Tanh())
    net[0].__class__ = nn.Linear
    assert jac.MLP.from_torch(net).widths == (3, 4)
    original = F.linear
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 2 * original(x, self.weight, self.bias))
    with pytest.raises(ValueError, match="computes something else than the chain of its layers"):
        jac.MLP.from_torch(net)


def test_wrapping_leaves_the_module_as_it_was():
    """Also one that stands in the network twice."""
    layer = nn.Linear(3, 3)
    net = nn.Sequential(layer, nn.Tanh(), layer)
    before = dict(net.named_parameters())
    jac.MLP.from_torch(net)
    assert {name: id(p) for name, p in net.named_parameters()} == {name: id(p) for name, p in before.items()}
    assert all(isinstance(p, nn.Parameter) and p.dtype == torch.float32 for p in net.parameters())

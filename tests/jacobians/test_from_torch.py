"""Torch modules: what is accepted computes what the module computes, now and after every change; anything else is refused by name."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

import jacobians as jac
from jacobians.network.from_torch import Scaled
from tests import oracles


def small():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def with_norms():
    torch.manual_seed(0)
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


@pytest.mark.parametrize(
    "make", [small, with_norms, Chain, lambda: nn.Linear(3, 2), lambda: nn.Sequential(nn.Linear(3, 4), Scaled(nn.ReLU(), 5.0))]
)
def test_what_is_accepted_is_right(make):
    net = make().double()
    D = next(p for p in net.parameters() if p.ndim == 2).shape[1]
    check(net, torch.randn(6, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64))


def test_tied_layers():
    shared = nn.Linear(4, 4)
    mlp = check(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), shared, nn.ReLU(), shared).double(), torch.randn(2, 3, dtype=torch.float64))
    assert mlp.weights[1] is mlp.weights[2]


class TestTheModuleStaysTheOwner:
    def test_its_parameters_are_shared(self):
        net = small()
        mlp = jac.MLP.from_torch(net)
        assert mlp.weights[0] is net[0].weight
        assert list(map(id, mlp.parameters())) == list(map(id, net.parameters()))

    @pytest.mark.parametrize("method", ["reverse:native", "reverse:eager"])
    def test_changes_are_seen(self, method):
        net, x = small().double(), torch.randn(4, 3, dtype=torch.float64)
        mlp = jac.MLP.from_torch(net)
        jac.jacobian(mlp, x, method)

        def same():
            torch.testing.assert_close(jac.jacobian(mlp, x, method), jac.jacobian(jac.MLP.from_torch(net), x, "forward").detach())

        optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
        net(x).square().sum().backward()
        optimizer.step()
        same()
        net[0].weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
        same()
        net.load_state_dict({name: torch.randn_like(t) for name, t in net.state_dict().items()}, assign=True)
        same()
        net.float()
        x = x.float()
        same()

    def test_running_statistics_are_those_at_the_call(self):
        net = with_norms()
        mlp, x = jac.MLP.from_torch(net), torch.randn(4, 6, dtype=torch.float64)
        net[3].running_mean.add_(1.0)
        torch.testing.assert_close(mlp(x), net(x))

    def test_copies_and_pickles_have_modules_of_their_own(self):
        mlp = jac.MLP.from_torch(small())
        for other in (copy.deepcopy(mlp), pickle.loads(pickle.dumps(mlp))):
            torch.testing.assert_close(other.weights[0], mlp.weights[0])
            assert other.weights[0] is not mlp.weights[0]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda net: net.append(nn.ReLU()), "the layers of the Sequential have changed since it was wrapped"),
            (lambda net: net.__setitem__(2, nn.Linear(4, 2)), "the layers of the Sequential have changed"),
            (lambda net: net[0].register_forward_hook(lambda *args: None), r"layer 0 \(Linear\) has a forward_hook"),
            (lambda net: net[2].register_forward_pre_hook(lambda *args: None), r"layer 2 \(Linear\) has a forward_pre_hook"),
            (lambda net: parametrizations.weight_norm(net[0]), r"layer 0 .* has a parametrization of weight"),
            (lambda net: parametrizations.spectral_norm(net[0]), r"layer 0 .* has a parametrization of weight"),
            (lambda net: prune.l1_unstructured(net[0], "weight", 0.5), r"layer 0 \(Linear\) has a forward_pre_hook"),
            (lambda net: setattr(net[1], "forward", torch.relu), r"layer 1 \(Tanh\) has a forward of its own"),
        ],
        ids=["appended", "replaced", "hook", "pre-hook", "weight norm", "spectral norm", "pruning", "forward"],
    )
    def test_a_change_of_what_it_computes_is_an_error(self, change, message):
        net = small()
        mlp = jac.MLP.from_torch(net)
        x = torch.ones(3)
        for method in ("reverse:native", "forward:eager"):
            jac.jacobian(mlp, x, method)
        change(net)
        for method in ("reverse:native", "forward:eager"):
            with pytest.raises(ValueError, match=message):
                jac.jacobian(mlp, x, method)
        if "layers of" not in message:
            with pytest.raises(ValueError, match=message):
                jac.MLP.from_torch(net)

    def test_training_mode_is_noticed(self):
        net = with_norms()
        mlp = jac.MLP.from_torch(net)
        net.train()
        with pytest.raises(ValueError, match=r"layer 1 \(BatchNorm1d\) couples the samples of a batch here.*call module\.eval\(\)"):
            jac.jacobian(mlp, torch.ones(2, 6, dtype=torch.float64))


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


def hooked(register):
    net = small()
    getattr(net[0], register)(lambda *args: None)
    return net


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: 3, TypeError, r"expected a torch nn\.Module, got int"),
        (lambda: nn.Sequential(LoRA(3, 4), nn.Tanh()), TypeError, "layer 0 is a LoRA, a subclass of Linear"),
        (lambda: Residual(nn.Linear(3, 3), nn.Tanh()), TypeError, "is a Residual, a subclass of Sequential"),
        (lambda: nn.Sequential(nn.Linear(3, 3), Residual(nn.Linear(3, 3))), TypeError, "layer 1 is a Residual"),
        (lambda: hooked("register_forward_hook"), ValueError, "layer 0 .* has a forward_hook"),
        (lambda: hooked("register_full_backward_hook"), ValueError, "layer 0 .* has a backward_hook"),
        (lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3))), ValueError, "has a parametrization of weight"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Conv1d(1, 1, 1)), TypeError, "layer 1 is a Conv1d; supported are Linear"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout()), ValueError, r"layer 1 \(Dropout\) is random in training mode"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), ValueError, r"layer 1 \(BatchNorm1d\) couples the samples"),
        (
            lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)).eval(),
            ValueError,
            "track_running_stats=True",
        ),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.BatchNorm1d(4)).eval(), ValueError, "behind the last activation"),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.Flatten()), ValueError, r"layer 1 \(Flatten\) must come first"),
        (lambda: nn.Sequential(nn.Tanh(), nn.Linear(2, 3)), ValueError, r"layer 0 \(Tanh\) must follow a Linear"),
        (lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.ReLU()), ValueError, r"layer 2 \(ReLU\) must follow a Linear"),
        (nn.Sequential, ValueError, "no Linear layer"),
        (lambda: nn.Sequential(nn.LazyLinear(4)), TypeError, "layer 0 is an uninitialised LazyLinear; call the module once"),
        (lambda: nn.Sequential(nn.Linear(3, 4, device="meta")), ValueError, "layer 0 .* is on the meta device"),
        (lambda: with_none(), ValueError, "layer 1 is None; remove it"),
        (Skip, TypeError, "is no step of a chain"),
        (Branch, TypeError, "the forward of Branch cannot be traced by torch.fx"),
        (Functional, TypeError, "in the forward of Functional is no step of a chain"),
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

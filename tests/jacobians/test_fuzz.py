"""Random networks from modules, a random later change, a random call: the result is torch's in float64, or a refusal in one line.

`make test` runs 200 examples, the same each time; `make fuzz` runs 20,000 others and prints how many were refused. What ever failed
becomes a case of its own here or in test_later_changes.py.
"""

import copy
import os
from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import jacobians as jac
from jacobians.network.from_torch import Scaled

EXAMPLES = int(os.environ.get("FUZZ", "0"))
ACTIVATIONS = [
    nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU, nn.Softplus, nn.Softsign, lambda: nn.ELU(0.7), lambda: nn.LeakyReLU(0.3), nn.ReLU,
    lambda: jac.Activation("sine").to_torch(), lambda: Scaled(nn.Tanh(), 1.5), nn.Identity, lambda: nn.GELU(approximate="tanh"),
]  # fmt: skip


class Own(nn.Module):
    """A forward of its own around a chain."""

    def __init__(self, net):
        super().__init__()
        self.net, self.flag, self.slope = net, True, 0.2

    def forward(self, x):
        y = self.net(x)
        return nn.functional.leaky_relu(y, self.slope) if self.flag and not self.training else y


def build(widths, kinds, wrap, dtype, extra):
    """A module: alternating layers, some with norms, dropout, shared or parametrized; in a container or with a forward of its own."""
    layers, shared = [], {}
    for index, (i, o) in enumerate(pairwise(widths)):
        made = nn.Linear(i, o, bias=(index + len(kinds)) % 3 != 0)
        linear = shared.setdefault((i, o), made) if extra == "shared" else made
        layers.append(linear)
        if extra == "norm" and index + 2 < len(widths):
            layers.append(nn.BatchNorm1d(o, affine=index % 2 == 0))
        if index + 2 < len(widths):
            layers.append(ACTIVATIONS[kinds[index % len(kinds)]]())
        if extra == "dropout" and index + 2 < len(widths):
            layers.append(nn.Dropout(0.3))
    if extra == "parametrized":
        parametrizations.weight_norm(layers[0])
    if extra == "hook":
        layers[-1].register_forward_hook(lambda m, i, o: 2 * o)
    net = nn.Sequential(*layers)
    if wrap == "nested":
        net = nn.Sequential(nn.Sequential(*layers[:2]), *layers[2:])
    if wrap == "flat":
        net = nn.Sequential(nn.Flatten(), *layers)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    net = (Own(net) if wrap == "own" else net).to(dtype)
    return net if extra == "training" else net.eval()


def linears(net):
    return [m for m in net.modules() if isinstance(m, nn.Linear)]


def of(net, *kinds):
    return next((m for m in net.modules() if isinstance(m, kinds)), net)


def data(change):
    def apply(net):
        p = linears(net)[0].weight
        p.data = change(p.data)

    return apply


def another_weight(layer):
    owner, name = (layer.parametrizations["weight"], "original") if parametrize.is_parametrized(layer, "weight") else (layer, "weight")
    if hasattr(owner, name):  # a weight norm has two
        setattr(owner, name, nn.Parameter(torch.randn_like(getattr(owner, name))))


CHANGES = [
    lambda net: None,
    lambda net: linears(net)[0].weight.data.mul_(1.5),
    lambda net: linears(net)[-1].weight.data.add_(0.1),
    lambda net: another_weight(linears(net)[0]),
    lambda net: setattr(linears(net)[-1], "bias", None),
    lambda net: setattr(linears(net)[0], "bias", nn.Parameter(torch.ones_like(linears(net)[0].weight[:, 0]))),
    data(lambda W: W.flip(0)),
    data(lambda W: torch._neg_view(W)),
    data(lambda W: W.t().contiguous().t()),
    data(lambda W: W.reshape(W.shape[1], W.shape[0])),
    data(lambda W: W[:1]),
    data(lambda W: W.double() if W.dtype == torch.float32 else W.float()),
    lambda net: net.double(),
    lambda net: net.float(),
    lambda net: net.train(),
    lambda net: net.eval(),
    lambda net: net.requires_grad_(False),
    lambda net: net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()}),
    lambda net: of(net, nn.Sequential).append(nn.Tanh()),
    lambda net: of(net, nn.Sequential).__delitem__(0),
    lambda net: linears(net)[0].register_forward_hook(lambda m, i, o: o * 2),
    lambda net: net.register_forward_pre_hook(lambda m, i: (i[0] * 2,)),
    lambda net: of(net, nn.Sequential).register_forward_hook(lambda m, i, o: o * 2),
    lambda net: setattr(of(net, nn.LeakyReLU), "negative_slope", 0.9),
    lambda net: setattr(of(net, nn.ELU), "alpha", 0.1),
    lambda net: setattr(of(net, nn.Softplus), "beta", 4.0),
    lambda net: setattr(of(net, nn.GELU), "approximate", "tanh"),
    lambda net: setattr(of(net, Scaled), "scale", 3.0),
    lambda net: setattr(of(net, nn.BatchNorm1d), "eps", 0.3),
    lambda net: [m.running_mean.add_(1) for m in net.modules() if isinstance(m, nn.BatchNorm1d)],
    lambda net: setattr(of(net, nn.BatchNorm1d), "running_mean", None),
    lambda net: setattr(of(net, nn.Dropout), "p", 0.9),
    lambda net: setattr(net, "flag", False),
    lambda net: setattr(net, "slope", 0.7),
    lambda net: setattr(of(net, nn.Tanh, nn.Sigmoid), "forward", torch.relu),
    lambda net: setattr(of(net, nn.Tanh, nn.Sigmoid, nn.SiLU), "__class__", nn.Softsign),
    lambda net: parametrizations.spectral_norm(linears(net)[0]),
]  # fmt: skip


def jacobian(f, x):
    return torch.autograd.functional.jacobian(f, x, create_graph=True)


def exact(quantity, net, x, target):
    """By autograd in float64, sample by sample."""
    net, x = copy.deepcopy(net).double().requires_grad_(), x.double()
    ps = [p for m in linears(net) for p in (m.weight, m.bias) if p is not None]
    one = lambda x: net(x[None])[0]  # noqa: E731
    if quantity == "gradient":
        loss = nn.functional.mse_loss(net(x), target.double())
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, ps, materialize_grads=True, allow_unused=True)])
    rows = [jacobian(one, sample).detach() for sample in x]
    if quantity == "laplacian":
        trace = lambda sample, p: torch.autograd.functional.hessian(lambda x: one(x)[p], sample).diagonal().sum()  # noqa: E731
        rows = [torch.stack([trace(sample, p) for p in range(len(row))]) for sample, row in zip(x, rows, strict=True)]
    return torch.stack(rows)


def found(quantity, mlp, plan, x, target, method):
    if quantity == "gradient":
        return jac.gradient(mlp, x, target, method=method or "auto").vector
    if quantity == "laplacian":
        return jac.laplacian(mlp, x, method=(method and method.replace("reverse", "forward")) or "auto")[2]
    return plan(x) if method == "plan" else jac.jacobian(mlp, x, method or "auto")


VERDICTS = Counter()


def judge(widths, kinds, wrap, extra, dtype, change, quantity, method, batch, layout, seed):
    torch.default_generator.manual_seed(seed)
    net = build(widths, kinds, wrap, dtype, extra)
    x = torch.randn(batch, widths[0], dtype=dtype)
    x = {"strided": lambda: torch.cat([x, x], 1)[:, : widths[0]], "expanded": lambda: x[:1].expand(batch, -1)}.get(layout, lambda: x)()
    target = torch.randn(batch, widths[-1], dtype=dtype)
    before = [(id(t), t.requires_grad, t._version) for t in (*net.parameters(), *net.buffers())]
    made = refusal(lambda: (mlp := jac.MLP.from_torch(net), plan := jac.plan(mlp, x), found(quantity, mlp, plan, x, target, method)))
    if isinstance(made, str):
        VERDICTS["refused at wrapping"] += 1
        return
    assert before == [(id(t), t.requires_grad, t._version) for t in (*net.parameters(), *net.buffers())]
    with torch.no_grad():
        CHANGES[change](net)
    result = refusal(lambda: found(quantity, made[0], made[1], x, target, method))
    if isinstance(result, str):
        VERDICTS["refused after the change"] += 1
        return
    VERDICTS["computed"] += 1
    expected = exact(quantity, net, x, target)
    assert result.shape == expected.shape
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    assert (result.double() - expected).norm() <= tolerance * (expected.norm() + 1e-2), (result, expected)


def refusal(call):
    """What a call returns, or the line it refuses with."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        text = str(error)
    assert text
    assert "\n" not in text
    return text


CASE = {
    "widths": st.lists(st.integers(1, 6), min_size=2, max_size=5),
    "kinds": st.lists(st.integers(0, len(ACTIVATIONS) - 1), min_size=1, max_size=4),
    "wrap": st.sampled_from(["none", "nested", "flat", "own"]),
    "extra": st.sampled_from(["", "norm", "dropout", "shared", "parametrized", "hook", "training"]),
    "dtype": st.sampled_from([torch.float64, torch.float32]),
    "change": st.integers(0, len(CHANGES) - 1),
    "quantity": st.sampled_from(["jacobian", "gradient", "laplacian"]),
    "method": st.sampled_from(["", "plan", "reverse:native", "reverse:eager"]),
    "batch": st.integers(1, 5),
    "layout": st.sampled_from(["plain", "strided", "expanded"]),
    "seed": st.integers(0, 999),
}


@settings(
    max_examples=EXAMPLES or 200,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(**CASE)
@pytest.mark.filterwarnings("ignore:the network is piecewise linear:UserWarning")
def test_a_changed_network_is_computed_right_or_refused(**case):
    if case["method"] == "plan" and case["quantity"] != "jacobian":
        case["method"] = ""
    if case["extra"] == "shared" and case["quantity"] == "gradient":  # ours has the derivative by each layer, torch their sum
        case["quantity"] = "jacobian"
    judge(**case)


def test_the_examples_are_not_all_refused():
    """Behind the one above, whose verdicts it counts."""
    if EXAMPLES:
        print(dict(VERDICTS))
    if VERDICTS:
        assert min(VERDICTS["computed"], VERDICTS["refused after the change"]) > 0.03 * VERDICTS.total()

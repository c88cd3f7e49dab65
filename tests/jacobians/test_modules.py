"""A torch module wherever a network is taken: wrapped once, followed, and never kept alive."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn

import jacobians as jac
from jacobians.network.from_torch import network_of

pytestmark = pytest.mark.filterwarnings("ignore:the network is piecewise linear:UserWarning")  # Own has a leaky ReLU


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()


class Own(nn.Module):
    """A forward of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.slope = nn.Linear(3, 4).double(), nn.Linear(4, 2).double(), 0.2

    def forward(self, x):
        return self.b(nn.functional.leaky_relu(self.a(x), self.slope))


X = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
T = torch.zeros(5, 2, dtype=torch.float64)
CALLS = {
    "jacobian": lambda net: jac.jacobian(net, X),
    "jacobian in factors": lambda net: jac.jacobian(net, X, factored=True).A,
    "jacobian within a bound": lambda net: jac.jacobian(net, X, max_bytes=2**24),
    "value_and_jacobian": lambda net: jac.value_and_jacobian(net, X),
    "laplacian": lambda net: jac.laplacian(net, X),
    "hessian": lambda net: jac.hessian(net, X),
    "hessian_diagonal": lambda net: jac.hessian_diagonal(net, X),
    "jvp": lambda net: jac.jvp(net, X, X),
    "vjp": lambda net: jac.vjp(net, X, T + 1),
    "hvp": lambda net: jac.hvp(net, X, X),
    "jacobian_loss": lambda net: jac.jacobian_loss(net, X).detach(),
    "gradient": lambda net: jac.gradient(net, X, T).vector,
    "gradient within a bound": lambda net: jac.gradient(net, X, T, max_bytes=2**24).vector,
    "per_sample_gradients": lambda net: jac.per_sample_gradients(net, X, T).weights,
    "per_sample_gradient_norms": lambda net: jac.per_sample_gradient_norms(net, X, T),
    "parameter_jacobian": lambda net: jac.parameter_jacobian(net, X).dense(),
    "ntk": lambda net: jac.ntk(net, X),
    "ggn_product": lambda net: jac.ggn_product(net, X, T, "mse", [torch.ones_like(p) for p in net.parameters()]),
    "derivatives": lambda net: jac.derivatives(net, X, ["y0", "y1_x0", "y0_{x0,x2}"]),
    "plan": lambda net: jac.plan(net, X)(X),
    "forward": lambda net: jac.forward(net, X)[1].detach(),
    "reverse": lambda net: jac.reverse(net, X)[1].detach(),
    "mixed": lambda net: jac.mixed(net, X)[1].detach(),
}


@pytest.mark.parametrize("make", [small, Own])
@pytest.mark.parametrize("name", CALLS)
def test_every_function_takes_a_module(name, make):
    net = make()
    torch.testing.assert_close(CALLS[name](net), CALLS[name](jac.MLP.from_torch(net)))


MADE_IN_THE_CALL = [
    lambda: jac.jacobian(small(), X),
    lambda: jac.jacobian(small(), X, wrt=0),
    lambda: jac.jacobian(small(), X, factored=True),
    lambda: jac.jacobian(small(), X, max_bytes=2**24),
    lambda: jac.laplacian(small(), X),
    lambda: jac.hessian_diagonal(small(), X),
    lambda: jac.hvp(small(), X, X),
    lambda: jac.jacobian_loss(small(), X),
    lambda: jac.derivatives(small(), X, ["y0_x0"]),
    lambda: jac.gradient(small(), X, T, max_bytes=2**24),
    lambda: jac.per_sample_gradients(small(), X, T),
    lambda: jac.ggn_product(small(), X, T, "mse", torch.ones(26).double()),
    lambda: jac.ntk(small(), X),
    lambda: jac.plan(small(), X)(X),
    lambda: jac.forward(small(), X),
    lambda: jac.reverse(small(), X),
    lambda: jac.mixed(small(), X),
]


@pytest.mark.parametrize("call", MADE_IN_THE_CALL)
def test_a_module_that_nothing_else_holds_lives_as_long_as_the_call(call):
    call()


def test_sgd_takes_a_module_and_trains_it():
    net, other = small(), small()
    jac.SGD(net, lr=0.1).minimize(X, T)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    nn.functional.mse_loss(other(X), T).backward()
    optimizer.step()
    torch.testing.assert_close([*net.parameters()], [*other.parameters()])


def test_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match=r"expected a jacobians\.MLP or a torch nn\.Module, got list; pass"):
        jac.jacobian([nn.Linear(3, 2)], X)


@pytest.mark.parametrize(
    ("function", "others"),
    [
        *((f, ()) for f in (jac.jacobian, jac.value_and_jacobian, jac.laplacian, jac.hessian, jac.hessian_diagonal, jac.jacobian_loss)),
        *((f, ()) for f in (jac.ntk, jac.parameter_jacobian)),
        *((f, (T,)) for f in (jac.vjp, jac.gradient, jac.per_sample_gradients, jac.per_sample_gradient_norms)),
        *((f, (X,)) for f in (jac.jvp, jac.hvp)),
        (jac.derivatives, (["y0_x0"],)),
    ],
)
def test_one_that_is_made_in_the_call(function, others):
    function(small(), X, *others)


@pytest.mark.parametrize("make", [small, Own, lambda: nn.Linear(3, 2).double()])
class TestItsLife:
    def test_it_is_wrapped_once_and_does_not_live_on(self, make):
        net = make()
        for call in (jac.jacobian, jac.hessian):
            call(net, X)
        assert network_of(net) is network_of(net)
        gone = weakref.ref(net), weakref.ref(network_of(net))
        parameters = [weakref.ref(p) for p in net.parameters()]
        gc.disable()  # counting references is enough
        try:
            del net
            assert [ref() for ref in (*gone, *parameters)] == [None] * (2 + len(parameters))
        finally:
            gc.enable()

    def test_copies_and_files_hold_nothing_of_it(self, make):
        plain, net = make(), make()
        plain.load_state_dict(net.state_dict())
        size = len(pickle.dumps(plain))
        J = jac.jacobian(net, X)
        assert len(pickle.dumps(net)) == size
        assert vars(net).keys() == vars(plain).keys()
        file = io.BytesIO()
        torch.save(net.state_dict(), file)
        other = copy.deepcopy(net)
        torch.testing.assert_close(jac.jacobian(other, X), J)
        with torch.no_grad():
            next(other.parameters()).mul_(2)
        torch.testing.assert_close(jac.jacobian(net, X), J)

    def test_a_plan_keeps_its_module(self, make):
        net = make()
        J = jac.jacobian(net, X)
        plan = jac.plan(net, X)
        del net
        torch.testing.assert_close(plan(X), J)


def test_a_network_without_its_module_says_so():
    net = Own()
    mlp = network_of(net)
    del net
    with pytest.raises(ValueError, match="has been deleted; keep it, or wrap it"):
        jac.jacobian(mlp, X)


def truth(net):
    return torch.autograd.functional.jacobian(lambda x: net(x).sum(0), X).movedim(0, 1)


def swap_activation(net):
    net[1] = nn.Sigmoid()


def swap_layer(net):
    net[2] = nn.Linear(4, 2).double()


def widen(net):
    net[0], net[2] = nn.Linear(3, 7).double(), nn.Linear(7, 2).double()


def deepen(net):
    net.extend([nn.ReLU(), nn.Linear(2, 3).double()])


def without_bias(net):
    net[0].bias = None


@pytest.mark.parametrize("change", [swap_activation, swap_layer, widen, deepen, without_bias])
@pytest.mark.parametrize("method", ["auto", "reverse:native", "forward:eager"])
def test_a_change_of_its_layers_is_followed(change, method):
    net = small()
    jac.jacobian(net, X, method)
    change(net)
    torch.testing.assert_close(jac.jacobian(net, X, method), truth(net))


@pytest.mark.parametrize("change", [swap_activation, swap_layer, widen, deepen])
@pytest.mark.parametrize("name", ["jvp", "hvp", "parameter_jacobian", "jacobian_loss", "jacobian within a bound"])
def test_a_change_of_its_layers_is_followed_by_what_has_no_plan(change, name):
    net = small()
    calls = CALLS | {"jvp": lambda net: jac.jvp(net, X, X)}
    calls[name](net)
    change(net)
    torch.testing.assert_close(calls[name](net), calls[name](jac.MLP.from_torch(net)))


def test_an_attribute_that_its_forward_reads_is_followed():
    net = Own()
    jac.jacobian(net, X)
    net.slope = 0.7
    torch.testing.assert_close(jac.jacobian(net, X), truth(net))


def test_a_training_flag_is_refused_while_it_matters():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).double().eval()
    J = jac.jacobian(net, X)
    with pytest.raises(ValueError, match=r"random in training mode; call module.eval\(\)"):
        jac.jacobian(net.train(), X)
    torch.testing.assert_close(jac.jacobian(net.eval(), X), J)

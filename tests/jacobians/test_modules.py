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
    torch.default_generator.manual_seed(0)
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
CALLS = {  # of a function that gives the module: it need not live longer than the call
    "some columns": lambda of: jac.jacobian(of(), X, wrt=0),
    "jacobian": lambda of: jac.jacobian(of(), X),
    "jacobian in factors": lambda of: jac.jacobian(of(), X, factored=True).A,
    "jacobian within a bound": lambda of: jac.jacobian(of(), X, max_bytes=2**24),
    "value_and_jacobian": lambda of: jac.value_and_jacobian(of(), X),
    "laplacian": lambda of: jac.laplacian(of(), X),
    "hessian": lambda of: jac.hessian(of(), X),
    "hessian_diagonal": lambda of: jac.hessian_diagonal(of(), X),
    "jvp": lambda of: jac.jvp(of(), X, X),
    "vjp": lambda of: jac.vjp(of(), X, T + 1),
    "hvp": lambda of: jac.hvp(of(), X, X),
    "jacobian_loss": lambda of: jac.jacobian_loss(of(), X).detach(),
    "gradient": lambda of: jac.gradient(of(), X, T).vector,
    "gradient within a bound": lambda of: jac.gradient(of(), X, T, max_bytes=2**24).vector,
    "per_sample_gradients": lambda of: jac.per_sample_gradients(of(), X, T).weights,
    "per_sample_gradient_norms": lambda of: jac.per_sample_gradient_norms(of(), X, T),
    "parameter_jacobian": lambda of: jac.parameter_jacobian(of(), X).dense(),
    "ntk": lambda of: jac.ntk(of(), X),
    "ggn_product": lambda of: jac.ggn_product(of(), X, T, "mse", torch.ones(26, dtype=torch.float64)),
    "derivatives": lambda of: jac.derivatives(of(), X, ["y0", "y1_x0", "y0_{x0,x2}"]),
    "plan": lambda of: jac.plan(of(), X)(X),
    "forward": lambda of: jac.forward(of(), X)[1].detach(),
    "reverse": lambda of: jac.reverse(of(), X)[1].detach(),
    "mixed": lambda of: jac.mixed(of(), X)[1].detach(),
}


@pytest.mark.parametrize("make", [small, Own])
@pytest.mark.parametrize("name", CALLS)
def test_every_function_takes_a_module(name, make):
    net = make()
    torch.testing.assert_close(CALLS[name](lambda: net), CALLS[name](lambda: jac.MLP.from_torch(net)))


@pytest.mark.parametrize("name", CALLS)
def test_a_module_that_nothing_else_holds_lives_as_long_as_the_call(name):
    net = small()
    torch.testing.assert_close(CALLS[name](small), CALLS[name](lambda: net))


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
    CALLS[name](lambda: net)
    change(net)
    torch.testing.assert_close(CALLS[name](lambda: net), CALLS[name](lambda: jac.MLP.from_torch(net)))


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

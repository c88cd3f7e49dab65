"""What `torch.compile` records of the kernels: an operator and its way back, the same values, and no break in the graph."""

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

import jacobians as jac
from jacobians.kernels.native import runner
from jacobians.planning import operators
from tests.cases import network

pytestmark = [
    pytest.mark.skipif(not runner.available(), reason="no C compiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*lru_cache.*:UserWarning"),
]
LOSSES = {
    "jacobian": lambda mlp, x: jac.jacobian(mlp, x, create_graph=True).square().mean(),
    "rows": lambda mlp, x: jac.jacobian(mlp, x, "reverse", create_graph=True).sin().sum(),
    "value": lambda mlp, x: sum(t.sin().sum() for t in jac.value_and_jacobian(mlp, x, "forward:native", create_graph=True)),
    "laplacian": lambda mlp, x: sum(t.sin().sum() for t in jac.laplacian(mlp, x, create_graph=True)),
    "weighted": lambda mlp, x: jac.laplacian(mlp, x, [[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]], create_graph=True)[2].square().sum(),
    "first": lambda mlp, x: sum(t.sin().sum() for t in named(mlp, x, ["u", "u_a", "v_b"]).values()),
    "second": lambda mlp, x: sum(t.sin().sum() for t in named(mlp, x, ["u", "v_c", "u_aa", "laplacian(v)"]).values()),
    "mixed": lambda mlp, x: sum(t.sin().sum() for t in named(mlp, x, ["u_ab", "v_cc", "u_bc + 2*u_aa"]).values()),
}


def named(mlp, x, names):
    return jac.derivatives(mlp, x, names, inputs=("a", "b", "c"), outputs=("u", "v"), create_graph=True)


def compiled(function, **options):
    """Compile, and collect what each graph calls: forward, and backward once that ran."""
    torch._dynamo.reset()
    graphs = []

    def keep(graph, inputs):
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return make_boxed_func(graph.forward)

    return torch.compile(function, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), fullgraph=True, **options), graphs


def with_leaves(batch=5, **options):
    mlp, x = network((3, 6, 7, 2), batch=batch, bias=True, **options)
    for t in mlp.parameters():
        t.requires_grad_()
    return mlp, x.requires_grad_()


@pytest.mark.parametrize("name", LOSSES)
def test_forward_and_backward_are_operators(name):
    mlp, x = with_leaves(None if name in {"jacobian", "laplacian", "mixed"} else 5)
    leaves, loss = [x, *mlp.parameters()], LOSSES[name]
    exact = loss(mlp, x)
    expected = torch.autograd.grad(exact, leaves, allow_unused=True, materialize_grads=True)
    function, graphs = compiled(lambda x: loss(mlp, x))
    found = function(x)
    torch.testing.assert_close(found, exact)
    gradients = torch.autograd.grad(found, leaves, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(gradients, expected)
    forward, backward = graphs
    assert "jacobians.push.default" in forward
    assert "jacobians.pull.default" in backward


def test_a_module_and_a_step_of_its_optimiser():
    """The parameters are read at each call, and every batch size by the same graph."""
    torch.default_generator.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    twin = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    twin.load_state_dict(net.state_dict())
    mlp, other = jac.MLP.from_torch(net), jac.MLP.from_torch(twin)
    function, graphs = compiled(lambda x: jac.laplacian(mlp, x, create_graph=True)[2].square().mean(), dynamic=True)
    seen = []
    for one, step in ((net, function), (twin, lambda x: jac.laplacian(other, x, create_graph=True)[2].square().mean())):
        optimiser = torch.optim.SGD(one.parameters(), lr=0.1)
        for count in (4, 9, 7, 5):
            optimiser.zero_grad()
            step(torch.linspace(-1, 1, 3 * count, dtype=torch.float64).reshape(count, 3)).backward()
            optimiser.step()
            seen.append(len(graphs))
    torch.testing.assert_close([*net.parameters()], [*twin.parameters()])
    assert seen[1] == seen[3], "a third and a fourth size need no other graph"


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_gradients(loss, inputs):
    mlp, x = with_leaves()
    target = torch.tensor([0, 1, 1, 0, 1]) if loss == "cross_entropy" else x.detach()[:, :2]
    function, graphs = compiled(lambda x: (g := jac.gradient(mlp, x, target, loss, inputs=inputs), (g.loss, g.parameters(), g.x))[1])
    exact, found = jac.gradient(mlp, x, target, loss, inputs=inputs), function(x)
    torch.testing.assert_close(found, (exact.loss, exact.parameters(), exact.x))
    assert "jacobians.gradient.default" in graphs[0]
    assert not found[0].requires_grad


@pytest.mark.parametrize(
    ("output", "call"),
    [
        ("softmax", lambda mlp, x: jac.jacobian(mlp, x)),
        ("identity", lambda mlp, x: jac.jacobian(mlp, x, "reverse:eager")),
        ("identity", lambda mlp, x: jac.jacobian(mlp, x, wrt=[1])),
        ("identity", lambda mlp, x: jac.hessian(mlp, x)),
        ("identity", lambda mlp, x: torch.func.vmap(lambda one: jac.jacobian(mlp, one))(x)),
    ],
    ids=["coupled", "readable", "columns", "another quantity", "vmap"],
)
def test_what_has_none_is_traced_as_it_was(output, call):
    mlp, x = network((3, 6, 2), batch=4, output_activation=output)
    function, graphs = compiled(lambda x: call(mlp, x))
    torch.testing.assert_close(function(x), call(mlp, x))
    assert not any("jacobians" in target for graph in graphs for target in graph)


def test_without_create_graph_nothing_is_recorded():
    mlp, x = with_leaves()
    function, _ = compiled(lambda x: jac.jacobian(mlp, x))
    assert not function(x).requires_grad


@pytest.mark.parametrize("directions", [None, torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)], ids=["J", "Laplacian"])
def test_they_keep_to_the_rules_of_operators(directions):
    mlp, x = with_leaves()
    torch.library.opcheck(operators.push, (x, directions, list(mlp.parameters()), "tanh|identity|111", "forward"))


@pytest.mark.parametrize("directions", [None, torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)], ids=["J", "Laplacian"])
def test_vmap(directions):
    mlp, x = network((3, 6, 7, 2), batch=4, bias=True)
    parameters = list(mlp.parameters())
    both = lambda x, W: operators.push(x, directions, [W, *parameters[1:]], "tanh|identity|111", "forward")  # noqa: E731
    exact = both(x, parameters[0])
    found = torch.func.vmap(both, in_dims=(0, None))(x, parameters[0])
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other if other.numel() else one)
    several = torch.stack([parameters[0], 2 * parameters[0]])
    found = torch.func.vmap(both, in_dims=(None, 0))(x, several)
    torch.testing.assert_close(found[1][1], both(x, several[1])[1])

"""Derivatives by name: every method against nested autograd in float64 and closed forms, how names are read, and what is refused."""

import copy
import itertools
import pickle
import warnings
from functools import reduce

import mpmath
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

import jacobians as jac
from jacobians.kernels.native import runner
from jacobians.modes.taylor import carried, one
from jacobians.network.activations import FOURTH, RULES, activation
from jacobians.planning.inputs import problem_of
from jacobians.planning.registry import find_quantity
from jacobians.quantities.derivatives import numbered, read, write
from tests.cases import ACTIVATIONS, BATCHES, WIDTHS, for_each, network, served
from tests.oracles import relative_error

METHODS = [m for m in jac.methods(quantity="derivatives") if m.device in {None, "cpu"}]
OURS = [m.name for m in METHODS if m.hand_written]
TOLERANCE = {torch.float64: 1e-11, torch.float32: 5e-5}
INPUTS = ("t", "x", "z")
ASKED = {
    "values": ["u"],
    "first": ["v_x", "u", "u_t"],
    "pinn": ["u", "u_t", "u_x", "u_xx", "v_zz"],
    "mixed": ["u_tx", "v_xz", "u_xx", "u_x"],
    "sums": ["laplacian(u)", "u_xx + 3*v_zz".replace("v", "u"), "u_t + 2*u_x", "2*v_xz + v_tt"],
    "third": ["u_x", "u_xxx", "v_txz"],
    "fourth": ["bilaplacian(u)", "u_xxxx", "v_ttxz", "u_xxzz", "u_tt"],
}
needs_c = pytest.mark.skipif(not runner.available(), reason="no C compiler")


def expected(mlp, x, names, inputs=INPUTS, outputs=("u", "v")):
    """Differentiate the torch module again and again, one number at a time, in float64."""
    net, at = mlp.to_torch().double(), x.detach().double().reshape(-1, x.shape[-1]).requires_grad_()
    columns = net(at).unbind(-1)

    def derivative(y, index):
        for d in index:
            row = torch.autograd.grad(y.sum(), at, create_graph=True, allow_unused=True)[0] if y.requires_grad else None
            y = torch.zeros(len(at), dtype=torch.float64) if row is None else row[:, d]
        return y

    asked = read(tuple(names), inputs, outputs, mlp.P)
    return [sum(w * derivative(columns[p], m) for m, w in stream).detach().reshape(x.shape[:-1]) for p, stream in asked]


def check(name, mlp, x, names, inputs=INPUTS, outputs=("u", "v"), refusal=None):
    """Compute by a method, whatever the planner would say, and compare."""
    asked = write(read(tuple(names), inputs, outputs, mlp.P), mlp.D, mlp.P)
    problem = problem_of(mlp, x).with_(quantity="derivatives", asked=asked)
    if not served(name, problem, refusal):
        return
    computation = jac.find_method(name).prepare(mlp, problem, jac.Request())
    with torch.no_grad():
        found = computation.restore(computation.run(computation.convert(x))[1])
    exact = expected(mlp, x, names, inputs, outputs)
    assert len(found) == len(exact) == len(names)
    for each, got, right in zip(names, found, exact, strict=True):
        assert got.shape == right.shape
        assert got.dtype == x.dtype
        error = (got.double() - right).norm() / max(right.norm().item(), 1e-2 * max(t.norm().item() for t in exact), 1e-30)
        assert error <= TOLERANCE[x.dtype], (name, each, error)


def refusal_of(method, asked, batch):
    """What a method says of that which it does not compute."""
    order = {"values": 0, "first": 1, "third": 3, "fourth": 4}.get(asked, 2)
    if batch is None and method.endswith((":jax", ":torch.func")):
        return "is written for a batch; pass x[None]"
    if method.endswith("forward:native") and order > 2:
        return f"computes first and second derivatives, not those of order {order}"
    if method.endswith("reverse:native") and order > 1:
        return "computes first derivatives alone"
    return "jet is a series in one variable" if method.endswith("taylor:jax") and asked in {"mixed", "sums", "third", "fourth"} else None


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("method", [m.name for m in METHODS])
def test_every_method(method, dtype):
    def each(asked, batch):
        mlp, x = network((3, 6, 5, 2), batch=batch, bias=True, dtype=dtype)
        check(method, mlp, x, ASKED[asked], refusal=refusal_of(method, asked, batch))

    for_each(itertools.product(ASKED, [None, 7]), each)


@pytest.mark.parametrize("method", OURS)
def test_shapes(method):
    def each(widths, batch):
        mlp, x = network(widths, batch=batch)
        inputs, outputs = numbered("x", widths[0]), numbered("y", widths[-1])
        a, b = inputs[0], inputs[-1]
        names = [f"{outputs[-1]}_{a}", f"{outputs[0]}_{{{a},{b}}}", f"{outputs[0]}_{{{b},{b}}}", outputs[-1]]
        names = names[:1] + names[3:] if "reverse" in method else names
        check(method, mlp, x, names, inputs=inputs, outputs=outputs)

    for_each(itertools.product(WIDTHS.values(), BATCHES), each)


@pytest.mark.parametrize("method", OURS)
def test_activations(method):
    names = {"taylor": ASKED["fourth"], "forward": ASKED["mixed"], "reverse": ASKED["first"]}[jac.find_method(method).mode]

    def each(name, output):
        mlp, x = network((3, 6, 5, 2), batch=5, bias=True, activation=name, output_activation=output)
        check(method, mlp, x / 4, names)

    for_each(itertools.product(ACTIVATIONS, ["identity", "tanh"]), each)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name.partition("(")[0] in FOURTH])
def test_the_fourth_derivative_is_autograds(name):
    rule = activation(name)
    z = torch.cat([torch.linspace(-6, 6, 301, dtype=torch.float64), torch.tensor([-40.0, 40.0], dtype=torch.float64)])
    z = z.clamp(max=6) if name == "exp" else z.clamp(-6, 6) if "tanh'" in name else z
    leaf = z.clone().requires_grad_()
    derivatives = lambda y: torch.autograd.grad(y.sum(), leaf, create_graph=True)[0]  # noqa: E731
    exact = reduce(lambda y, _: derivatives(y), range(4), rule.value(leaf)).detach()
    torch.testing.assert_close(rule.fourth(z, rule.value(z)), exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tanh", mpmath.tanh),
        ("sigmoid", lambda z: 1 / (1 + mpmath.exp(-z))),
        ("softplus(threshold=50.0)", lambda z: mpmath.log(1 + mpmath.exp(z))),
        ("gelu", lambda z: z * mpmath.ncdf(z)),
        ("silu", lambda z: z / (1 + mpmath.exp(-z))),
        ("sine(omega=3.0)", lambda z: mpmath.sin(3 * z)),
        ("elu(alpha=0.5)", lambda z: z if z > 0 else (mpmath.exp(z) - 1) / 2),
        ("softsign", lambda z: z / (1 + abs(z))),
    ],
)
def test_the_fourth_derivative_is_that_of_forty_digits(name, value):
    rule = activation(name)
    z = torch.tensor([-5.0, -1.3, -0.2, 0.3, 1.7, 4.5], dtype=torch.float64)
    with mpmath.workdps(40):
        exact = torch.tensor([float(mpmath.diff(value, mpmath.mpf(one.item()), 4)) for one in z], dtype=torch.float64)
    torch.testing.assert_close(rule.fourth(z, rule.value(z)), exact, rtol=1e-11, atol=1e-13)


def test_every_third_derivative_has_a_fourth():
    assert {name for name, rule in RULES.items() if rule.third is not None} == set(FOURTH)


def test_scale_and_coupled_outputs():
    z = torch.linspace(-1, 1, 5)
    torch.testing.assert_close(activation("tanh(scale=3.0)").fourth(z, 3 * z.tanh()), 3 * activation("tanh").fourth(z, z.tanh()))
    assert activation("relu").fourth(z, z.relu()) is None
    with pytest.raises(ValueError, match="couples all outputs"):
        activation("softmax").fourth(z, z)


class TestClosedForms:
    """Networks whose derivatives are known: a plane wave, and a product of powers by logarithms."""

    @pytest.mark.parametrize("method", ["auto", *OURS])
    def test_a_plane_wave(self, method):
        k, omega = 3.0, -2.0
        mlp = jac.MLP([torch.tensor([[omega, k]], dtype=torch.float64), torch.eye(1, dtype=torch.float64)], activation="sine")
        t, x = torch.linspace(0, 1, 9, dtype=torch.float64), torch.linspace(-1, 2, 9, dtype=torch.float64)
        phase = omega * t + k * x
        exact = {"u": phase.sin(), "u_t": omega * phase.cos(), "u_x": k * phase.cos()}
        if "reverse" not in method:
            exact |= {"u_xx": -k * k * phase.sin(), "u_tx": -k * omega * phase.sin(), "u_tt + u_xx": -(k * k + omega**2) * phase.sin()}
        if method == "auto" or "taylor" in method:
            exact |= {"u_xxx": -(k**3) * phase.cos(), "u_ttxx": k * k * omega**2 * phase.sin()}
            exact |= {"bilaplacian(u)": (k * k + omega**2) ** 2 * phase.sin()}
        found = jac.derivatives(mlp, (t, x), list(exact), method, inputs=("t", "x"))
        assert list(found) == list(exact)
        for name, right in exact.items():
            torch.testing.assert_close(found[name], right, rtol=1e-12, atol=1e-12)

    def test_the_heat_kernel_solves_its_equation(self):
        """`exp(c x + c² t)` solves `u_t = u_xx`, and with the fourth power of c `u_t = -u_xxxx`."""
        for power, names in ((2, ("u_t", "u_xx")), (4, ("u_t", "u_xxxx"))):
            mlp = jac.MLP([torch.tensor([[0.7**power, 0.7]], dtype=torch.float64), torch.eye(1).double()], activation="exp")
            left, right = jac.derivatives(mlp, torch.randn(6, 2).double(), names, inputs=("t", "x")).values()
            torch.testing.assert_close(left, right, rtol=1e-13, atol=0)


class TestNamesAndShapes:
    def test_names_of_inputs_and_outputs(self):
        assert read(("u", "v_x1", "v_{x1,y}", "1_y"), ("x1", "y"), ("u", "v"), 2) == (
            (0, one(())),
            (1, one((0,))),
            (1, one((0, 1))),
            (1, one((1,))),
        )
        assert read(("u_hat_x", "u_hat"), ("x",), ("u_hat",), 1) == ((0, one((0,))), (0, one(())))
        assert read(("rho_theta",), ("t", "theta"), None, 1) == ((0, one((1,))),)
        assert read(("u_xt",), ("t", "x"), None, 1) == read(("u_tx",), ("t", "x"), None, 1)

    def test_what_is_written_is_read_back(self):
        names = ("u", "u_z", "v_tx", "bilaplacian(v)", "u_xx + 0.5*u_zz")
        asked = read(names, INPUTS, ("u", "v"), 2)
        assert read(tuple(write(asked, 3, 2).split(" ")), numbered("x", 3), numbered("y", 2), 2) == asked

    @pytest.mark.parametrize(
        ("given", "shape"),
        [
            (lambda: (torch.ones(4), torch.ones(4), torch.ones(4)), (4,)),
            (lambda: [torch.ones(4, 1), torch.ones(4, 1), torch.ones(4, 1)], (4, 1)),
            (lambda: (torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3)), (2, 3)),
            (lambda: (torch.tensor(1.0), torch.tensor(1.0), torch.tensor(1.0)), ()),
            (lambda: (torch.ones(4, 1), torch.ones(4, 2)), (4, 1)),
            (lambda: (torch.ones(4), torch.ones(4, 2)), (4,)),
            (lambda: (torch.ones(4, 3),), (4,)),
            (lambda: torch.ones(4, 3), (4,)),
            (lambda: torch.ones(3), ()),
            (lambda: torch.ones(2, 5, 3), (2, 5)),
            (lambda: torch.ones(0, 3), (0,)),
        ],
    )
    def test_shapes_of_inputs(self, given, shape):
        mlp = jac.MLP.random(widths=[3, 8, 1], bias=True)
        x = given()
        tensors = [x] if isinstance(x, torch.Tensor) else x
        one_name = {1: ("t", "x", "y"), 2: ("t", "x"), 3: ("t", "x", "y")}[len(tensors)]
        found = jac.derivatives(mlp, x, ["u", "u_{t,t}"], inputs=one_name)
        exact = jac.derivatives(mlp, torch.ones(3), ["u", "u_{t,t}"], inputs=("t", "x", "y"))
        for name, t in found.items():
            assert t.shape == shape
            torch.testing.assert_close(t, exact[name].expand(shape))

    def test_columns_of_one_input(self):
        mlp, x = network((3, 8, 1), batch=5)
        by_default = jac.derivatives(mlp, x, ["u_{x0,x2}", "u_x1"])
        numbered_ = jac.derivatives(mlp, x, ["u_{p0,p2}", "u_p1"], inputs="p")
        two = jac.derivatives(mlp, (x[:, :1], x[:, 1:]), ["u_{t,x1}", "u_x0"], inputs=("t", "x"))
        for found in (numbered_, two):
            for a, b in zip(by_default.values(), found.values(), strict=True):
                torch.testing.assert_close(a, b.reshape(a.shape), rtol=0, atol=0)

    def test_outputs_by_name_and_by_number(self):
        mlp, x = network((2, 8, 3), batch=5)
        J = jac.jacobian(mlp, x)
        for names, outputs in ((["y1_x0", "y2"], None), (["1_x0", "2"], None), (["v_x0", "w"], ("u", "v", "w")), (["p1_x0", "p2"], "p")):
            first, value = jac.derivatives(mlp, x, names, outputs=outputs).values()
            torch.testing.assert_close(first, J[:, 1, 0])
            torch.testing.assert_close(value, mlp(x)[:, 2])

    @pytest.mark.parametrize(
        ("names", "options", "message"),
        [
            (["u_z"], {}, r"unknown input 'z'; choose from t, x \(in 'u_z'\)"),
            (["u_{t,xx}"], {}, "unknown input 'xx'"),
            (["u", "v_x"], {}, "one output, but the names have 2: u, v"),
            (["v_x"], {"outputs": ("u",)}, r"unknown output 'v'; choose from u \(in 'v_x'\); outputs= names them"),
            (["u_"], {}, "ends in '_'; write 'u' for the output"),
            (["u_xxxxx"], {}, "'u_xxxxx' is of order 5, and at most 4 are computed"),
            (["u_xx + u_x"], {}, "adds derivatives of several outputs or orders"),
            ([], {}, "no derivative is asked for"),
            ("u_x", {}, r"must be a list of names, got the text 'u_x'; write \['u_x'\]"),
            ([3], {}, "must be strings such as 'u_xx', got int"),
            (["u"], {"inputs": ("t",)}, "x has 2 columns|unknown|names"),
            (["u"], {"inputs": ("t", "x", "y")}, "inputs has 3 names for 2 columns; give one for each"),
            (["u"], {"inputs": ("t", "t")}, "inputs must be different names"),
            (["u"], {"inputs": ("t", "1x")}, "inputs must be names such as 'x', got '1x'"),
            (["u"], {"outputs": ("u", "v")}, "outputs has 2 names for 1 outputs"),
            (["u_x"], {"method": "taylr"}, "unknown method"),
            (["u_xx"], {"method": "reverse:native"}, "computes first derivatives alone|no C compiler|cannot compute"),
        ],
    )
    def test_refusals(self, names, options, message):
        mlp, x = network((2, 8, 1), batch=5)
        if options.get("inputs") == ("t",):
            names, message = ["u_t"], "unknown input 't'"
        with pytest.raises((ValueError, TypeError), match=message):
            jac.derivatives(mlp, x, names, **{"inputs": ("t", "x"), **options})

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            ((torch.ones(4), torch.ones(5)), r"shapes \(N,\) or \(N, d_i\) with the same N, got \(4,\), \(5,\)"),
            ((torch.ones(4, 1), torch.ones(4, 2)), "3 features, but the network takes D=2"),
            ((torch.ones(4), [1.0] * 4), r"x\[1\] must be a torch.Tensor, got list"),
            ((torch.ones(4), torch.ones(4).double()), r"x\[1\] is torch.float64 on cpu, but x\[0\] torch.float32"),
            ((), "x is an empty tuple"),
            (torch.tensor(1.0), r"x must have shape \(D,\) or \(N, D\)"),
            (3.0, "x must be a torch.Tensor, got float"),
        ],
    )
    def test_inputs_that_do_not_fit(self, x, message):
        with pytest.raises((ValueError, TypeError), match=message):
            jac.derivatives(jac.MLP.random(widths=[2, 8, 1]), x, ["u_t"], inputs=("t", "x", "y")[: 3 if "3 features" in message else 2])

    def test_several_inputs_without_names(self):
        with pytest.raises(ValueError, match=r"2 inputs have no names; pass e.g. inputs=\('t', 'x'\)"):
            jac.derivatives(jac.MLP.random(widths=[2, 8, 1]), (torch.ones(4), torch.ones(4)), ["u_t"])

    def test_what_is_no_network(self):
        with pytest.raises(TypeError, match=r"expected a jacobians\.MLP or a torch nn\.Module"):
            jac.derivatives(lambda x: x, torch.ones(4, 2), ["u_x0"])

    def test_an_output_that_couples(self):
        mlp = jac.MLP.random(widths=[2, 8, 3], output_activation="softmax")
        with pytest.raises(ValueError, match="leave out the output activation"):
            jac.derivatives(mlp, torch.ones(4, 2), ["y0_x0"])


class TestWhatIsCarried:
    @pytest.mark.parametrize(
        ("indices", "streams"),
        [
            ([()], 0),
            ([(1,)], 1),
            ([(0,), (1, 1)], 3),
            ([(0, 1)], 3),
            ([(0, 0, 1, 1)], 8),
            ([(0, 0, 0, 0)], 4),
        ],
    )
    def test_only_divisors_are(self, indices, streams):
        assert len(carried(tuple(one(m) for m in indices if m))[0]) == streams

    def test_a_sum_is_one(self):
        (_, laplacian), (_, bilaplacian) = read(("laplacian(u)", "bilaplacian(u)"), numbered("x", 5), None, 1)
        assert len(carried((laplacian,))[0]) == 5 + 1
        # first, second (all pairs), third (x_d x_e²; all but those of three), and the sum
        assert len(carried((bilaplacian,))[0]) == 5 + 15 + 25 + 1

    def test_a_sum_of_what_is_there_is_not_carried(self):
        asked = read(("u_xx", "u_yy", "laplacian(u)"), ("x", "y"), None, 1)
        assert len(carried(tuple(stream for _, stream in asked))[0]) == 4


class TestTraining:
    NAMES = ("u", "u_t", "u_xx", "u_tx", "u_xx + u_tt")

    def loss(self, found):
        return sum((weight * t.square()).mean() for weight, t in enumerate(found, 1))

    @pytest.mark.parametrize(
        ("method", "names"),
        [
            ("taylor:eager", NAMES),
            ("taylor:eager", ("u_xxx", "u_txx", "bilaplacian(u)", "u_x")),
            pytest.param("forward:native", NAMES, marks=needs_c),
            pytest.param("forward:native", ("u", "u_t", "u_xx"), marks=needs_c),
            pytest.param("forward:native", ("u", "u_t + 2*u_x"), marks=needs_c),
            pytest.param("reverse:native", ("u", "u_t", "u_x"), marks=needs_c),
            ("auto", NAMES),
        ],
    )
    @pytest.mark.parametrize("batch", [None, 6])
    def test_gradients_are_autograds(self, method, names, batch):
        net = nn.Sequential(nn.Linear(2, 7), nn.Tanh(), nn.Linear(7, 5), nn.Softplus(), nn.Linear(5, 1)).double()
        mlp = jac.MLP.from_torch(net)
        _, x = network((2, 1), batch=batch)
        x.requires_grad_()
        found = jac.derivatives(mlp, x, names, method, inputs=("t", "x"), create_graph=True)
        got = torch.autograd.grad(self.loss(found.values()), [x, *net.parameters()], allow_unused=True)

        at = x if batch else x[None]
        asked = read(tuple(names), ("t", "x"), None, 1)

        def derivative(y, index):
            for d in index:
                y = torch.autograd.grad(y.sum(), at, create_graph=True)[0][:, d]
            return y

        right = [sum(w * derivative(net(at)[:, 0], m) for m, w in stream) for _, stream in asked]
        exact = torch.autograd.grad(self.loss(right), [x, *net.parameters()], allow_unused=True)
        for a, b in zip(got, exact, strict=True):
            assert (a is None or not a.any()) if b is None else relative_error(a, b) < 1e-11

    def test_gradcheck(self):
        mlp, x = network((2, 4, 1), batch=2, bias=True)

        def f(x, *parameters):
            net = jac.MLP(parameters[::2], parameters[1::2])
            return tuple(jac.derivatives(net, x, ["u_x0", "u_{x0,x1,x1}"], "taylor", create_graph=True).values())

        assert gradcheck(f, [t.detach().requires_grad_() for t in (x, *mlp.parameters())])

    def test_columns_that_require_grad(self):
        mlp, _ = network((2, 8, 1))
        t, x = (torch.randn(5, 1, dtype=torch.float64, requires_grad=True) for _ in "tx")
        found = jac.derivatives(mlp, (t, x), ["u_x", "u_tx"], inputs=("t", "x"), create_graph=True)
        (again,) = torch.autograd.grad(found["u_x"].sum(), t)
        torch.testing.assert_close(again, found["u_tx"])

    def test_nothing_is_recorded_unless_asked_for(self):
        mlp, x = network((2, 8, 1), batch=3)
        x.requires_grad_()
        assert not any(t.requires_grad for t in jac.derivatives(mlp, x, ["u", "u_{x0,x0}", "u_{x0,x0,x0}"]).values())


class TestPlans:
    def test_auto_and_readable_agree_under_transforms(self):
        mlp, x = network((2, 8, 1), batch=4)
        names = ["u", "u_x0", "u_{x0,x1}"]
        exact = jac.derivatives(mlp, x, names)
        for each in (
            torch.func.vmap(lambda x: jac.derivatives(mlp, x, names))(x),
            torch.func.vmap(lambda x: jac.derivatives(mlp, (x[0], x[1]), ["u", "u_t", "u_tx"], inputs=("t", "x")))(x),
        ):
            for a, b in zip(each.values(), exact.values(), strict=True):
                torch.testing.assert_close(a, b)

    def test_weights_are_read_at_each_call(self):
        net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        mlp, x = jac.MLP.from_torch(net), torch.randn(4, 2, dtype=torch.float64)
        for method in ("taylor", *(["forward:native"] if runner.available() else [])):
            before = jac.derivatives(mlp, x, ["u_{x0,x1}"], method)["u_{x0,x1}"]
            kept = before.clone()
            with torch.no_grad():
                net[0].weight.mul_(1.5)
            after = jac.derivatives(mlp, x, ["u_{x0,x1}"], method)["u_{x0,x1}"]
            assert torch.equal(before, kept)
            torch.testing.assert_close(after, expected(mlp, x, ["u_tx"], ("t", "x"), ("u",))[0])

    def test_a_plan_by_itself_and_its_copies(self):
        mlp, x = network((2, 8, 1), batch=4)
        plan = jac.plan(mlp, x, quantity="derivatives", asked="y y_{x0,x1,x1}")
        exact = jac.derivatives(mlp, x, ["u", "u_{x0,x1,x1}"]).values()
        for each in (plan, copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):
            for a, b in zip(each(x), exact, strict=True):
                torch.testing.assert_close(a, b)
        assert plan.method == "derivatives/taylor:eager"

    def test_by_default_a_plan_has_the_first_and_second_derivatives(self):
        mlp, x = network((2, 8, 1), batch=4)
        found = jac.plan(mlp, x, quantity="derivatives")(x)
        y, J, lap = jac.laplacian(mlp, x, torch.eye(2, dtype=x.dtype))
        for a, b in zip(found, (y[:, 0], *J[:, 0].unbind(-1), *lap[:, 0].unbind(-1)), strict=True):
            torch.testing.assert_close(a, b)

    def test_plans_of_other_derivatives_are_others(self):
        mlp, x = network((2, 8, 1), batch=4)
        a, b = (jac.derivatives(mlp, x, [name])[name] for name in ("u_x0", "u_x1"))
        assert not torch.allclose(a, b)

    @needs_c
    def test_auto_takes_the_kernel_for_second_order_and_taylor_beyond(self):
        mlp, x = network((2, 32, 32, 1), batch=512, dtype=torch.float32)
        for asked, method in (("y y_x0 y_{x1,x1}", "derivatives/forward:native"), ("y_{x1,x1,x1}", "derivatives/taylor:eager")):
            assert jac.plan(mlp, x, quantity="derivatives", asked=asked, effort="compare").method == method

    def test_what_is_not_finite_stays_so(self):
        mlp, x = network((2, 8, 8, 1), batch=3)
        x[1, 0] = float("nan")
        for name in ("u", "u_x1", "u_{x1,x1}", "u_{x1,x1,x1}"):
            assert jac.derivatives(mlp, x, [name], "taylor")[name].isfinite().tolist() == [True, False, True]


class TestPiecewiseLinear:
    """Second derivatives of ReLU networks are zero by construction: people wait for 2 and get 0."""

    MESSAGE = r"piecewise linear \(relu\): its second and higher derivatives are zero wherever they exist; take a smooth activation"

    @pytest.mark.parametrize(
        "call",
        [jac.hessian, jac.laplacian, jac.hessian_diagonal, lambda mlp, x: jac.derivatives(mlp, x, ["u_{x0,x0}"])],
    )
    def test_warn_once(self, call):
        mlp, x = network((2, 8, 1), batch=3, activation="relu")
        with pytest.warns(UserWarning, match=self.MESSAGE):
            call(mlp, x)
        call(mlp, x)  # where a second warning would be an error

    def test_a_product_warns_too(self):
        mlp, x = network((2, 8, 1), batch=3, activation="relu")
        with pytest.warns(UserWarning, match=self.MESSAGE):
            jac.hvp(mlp, x, torch.ones_like(x))

    @pytest.mark.filterwarnings("ignore:the network is piecewise linear")
    def test_the_derivatives_are_zero(self):
        mlp, x = network((2, 8, 1), batch=3, activation="relu")
        found = jac.derivatives(mlp, x, ["u_{x0,x0}", "u_{x0,x1,x1}"], create_graph=True)
        assert all(t.shape == (3,) and not t.any() for t in found.values())

    @pytest.mark.parametrize(("activation", "name"), [("tanh", "u_{x0,x0}"), ("relu", "u_x0"), ("identity", "u_{x0,x0}")])
    def test_nothing_to_say(self, activation, name):
        mlp, x = network((2, 8, 8, 1), batch=3, activation=activation)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            jac.derivatives(mlp, x, [name])


def test_the_oracle_of_the_sweeps_is_nested_autograd():
    mlp, x = network((3, 6, 5, 2), batch=4, bias=True)
    for names in ASKED.values():
        asked = write(read(tuple(names), INPUTS, ("u", "v"), 2), 3, 2)
        problem = problem_of(mlp, x).with_(quantity="derivatives", asked=asked)
        for a, b in zip(find_quantity("derivatives").exact(mlp, problem, (x,)), expected(mlp, x, names), strict=True):
            torch.testing.assert_close(a, b)


class TestModules:
    """Inputs are named by the forward, which may put them together in another order."""

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    @pytest.mark.parametrize("flat", [False, True])
    def test_several_inputs(self, order, flat):
        class Field(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()

            def forward(self, t, x):
                return self.net(torch.cat([(t, x)[order[0]], (t, x)[order[1]]], -1))

        net = Field()
        t, x = (torch.randn(5, 1, dtype=torch.float64, requires_grad=True) for _ in range(2))
        u = net(t, x)
        u_t, u_x = torch.autograd.grad(u.sum(), (t, x), create_graph=True)
        u_tx, u_xx = torch.autograd.grad(u_x.sum(), (t, x))
        given = tuple(v.detach()[:, 0] if flat else v.detach() for v in (t, x))
        found = jac.derivatives(net, given, ["u", "u_t", "u_tx", "u_xx"])
        for value, exact in zip(found.values(), (u, u_t, u_tx, u_xx), strict=True):
            torch.testing.assert_close(value, exact.detach().reshape(value.shape))
        with pytest.raises(ValueError, match="the network takes 2 inputs, got 3"):
            jac.derivatives(net, (given[0],) * 3, ["u_a"], inputs=("a", "b", "c"))

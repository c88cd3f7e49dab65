"""What decides the values is read at each call, and what cannot be read is refused: a line a case, each of which once went wrong."""

import copy
import pickle

import pytest
import torch

import jacobians as jac
from jacobians.network.activations import RULES
from jacobians.network.activations import activation as activation_of
from jacobians.planning import plan
from tests.oracles import relative_error

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
T = torch.randn(4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def small(**options):
    return jac.MLP.random(L=1, D=3, K=4, P=2, dtype=torch.float64, bias=True, **options)


NUMBERS = sum(p.numel() for p in small().parameters())


@pytest.mark.parametrize(
    ("quantity", "others", "message"),
    [
        ("gradient", (T[:1],), r"target must have the shape of y, \(4, 2\), got \(1, 2\)"),
        ("gradient", (), "the gradient takes target besides x, got 0"),
        ("gradient", (T, T), "the gradient takes target besides x, got 2"),
        ("gradient", (T.float(),), r"target must be torch\.float64"),
        ("gradient", (T.to_sparse(),), "target must be a dense tensor"),
        ("gradient", (T.tolist(),), "target must be a torch.Tensor, got list"),
        ("gradient", (T.to("meta"),), "target is on meta but x is on cpu"),
        ("gradient_norms", (T[:, :1],), "target must have the shape of y"),
        ("sgd_step", (T[0],), "target must have the shape of y"),
        ("ggn", (T, torch.zeros(NUMBERS - 1).double()), "v must have shape"),
        ("ggn", (T, torch.zeros(NUMBERS)), "v must be torch.float64"),
        ("ggn", (T,), "the ggn takes target, v besides x"),
        ("laplacian", (torch.ones(1, 2).double(),), "weights must have shape"),
        ("laplacian", (torch.ones(0, 3).double(),), "weights must have shape"),
        ("laplacian", (torch.ones(3).double(),), "weights must have shape"),
        ("laplacian", (torch.ones(1, 3),), "weights must be torch.float64"),
        ("laplacian", (), "the laplacian takes weights besides x"),
        ("laplacian_gradient", (torch.ones(1, 2).double(),), "weights must have shape"),
        ("ntk", (X[:, :2],), "x2 must have shape"),
        ("ntk", (X.float(),), "x2 must be torch.float64"),
        ("ntk", (X[0],), "x2 must have shape"),
        ("hessian", (X,), "the hessian takes nothing besides x"),
        ("jacobian", (X,), "the jacobian takes nothing besides x"),
    ],
)
def test_a_plan_refuses_what_does_not_fit(quantity, others, message):
    with pytest.raises((ValueError, TypeError), match=message):
        jac.plan(small(), X, quantity=quantity, others=others)


@pytest.mark.parametrize("given", [(), (T[:1],), (T.float(),), (T.to_sparse(),), (T, T)])
def test_a_call_of_a_plan_refuses_what_was_not_planned(given):
    plan = jac.plan(small(), X, quantity="gradient", others=(T,))
    with pytest.raises((ValueError, TypeError), match=r"this plan is for|must be a dense"):
        plan(X, *given)


@pytest.mark.parametrize("quantity", ["gradient", "gradient_norms", "ggn", "ntk", "sgd_step", "jacobian_gradient", "laplacian_gradient"])
def test_a_plan_by_folded_parameters_is_refused(quantity):
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double().eval()
    with pytest.raises(ValueError, match="batch norms multiplied in"):
        jac.plan(jac.MLP.from_torch(net), X, quantity=quantity, others=(T,))


@pytest.mark.parametrize(
    "make",
    [X.to_sparse, X.to_sparse_csr, lambda: torch.nested.nested_tensor([X[0], X[1]]), X.float().to_mkldnn],
    ids=["sparse", "csr", "nested", "mkldnn"],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning", "ignore:The PyTorch API of nested:UserWarning")
def test_x_that_is_not_dense(make):
    mlp, x = small(), make()
    jac.jacobian(mlp, X)
    for call in (jac.jacobian, jac.laplacian, jac.hessian, jac.hessian_diagonal, jac.ntk, jac.parameter_jacobian):
        with pytest.raises(TypeError, match=r"x must be a dense tensor, got a .* one; convert it with x\.to_dense\(\)"):
            call(mlp, x)


OPTIONS = {
    "gradient": [{"inputs": True}, {"create_graph": True}, {"loss": "mse(reduction=none)"}],
    "ntk": [{"trace": True}, {"create_graph": True}],
    "jacobian": [{"value": True}, {"create_graph": True}, {"inputs": True}],
}


def marked(name, *more):
    """What is compiled takes seconds a case: with the tests that take long."""
    compiled = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]  # the compiler's own deprecations
    return pytest.param(name, *more, marks=compiled if name.endswith(":torch.compile") else [])


@pytest.mark.parametrize(
    ("method", "options"),
    [
        marked(m.name, options)
        for quantity, each in OPTIONS.items()
        for m in jac.methods(quantity=quantity)
        for options in each
        if m.device != "cuda" and m.implementation != "sum-trick"
    ],
)
def test_an_option_is_honoured_or_refused(method, options):
    """What comes back is what the readable method returns, or the method says that it does not support the option."""
    mlp, quantity = small(), jac.find_method(method).quantity
    mlp.weights[0].requires_grad_()
    others = (T,) if quantity == "gradient" else ()
    request = jac.Request(**{name: value for name, value in options.items() if name != "loss"})

    def computed(name):
        problem = plan.problem_of(mlp, X).with_(quantity=quantity, loss=options.get("loss", "mse" if others else None))
        found = plan.make_plan(mlp, (X, *others), problem, request, name)(X, *others)
        return found if isinstance(found, tuple) else (found,)

    readable = {"gradient": "gradient/reverse:eager", "ntk": "ntk/structured:eager", "jacobian": "reverse:eager"}[quantity]
    if jac.find_method(method).unsupported(plan.problem_of(mlp, X).with_(quantity=quantity, loss=options.get("loss", "mse")), request):
        with pytest.raises(ValueError, match="cannot compute this"):
            computed(method)
        return
    for one, other in zip(computed(method), computed(readable), strict=True):
        assert isinstance(one, torch.Tensor)
        torch.testing.assert_close(one.detach(), other.detach())
        assert one.requires_grad or not request.create_graph


@pytest.mark.parametrize("method", [marked(m.name) for m in jac.methods("*") if m.device != "cuda"])
def test_inference_mode_and_an_expanded_x(method):
    mlp, x = jac.MLP.random(L=1, D=3, K=4, P=1, dtype=torch.float64), torch.ones(1, dtype=torch.float64).expand(3)
    exact = jac.jacobian(mlp, torch.ones(3).double(), "forward")
    torch.testing.assert_close(jac.jacobian(mlp, x, method), exact)
    with torch.inference_mode():
        torch.testing.assert_close(jac.jacobian(mlp, torch.ones(3).double(), method), exact)


# JAX's arrays are made in each call; compiling all of its methods once more takes a minute.
READS = [m for m in jac.methods("*/*") if m.device != "cuda" and m.implementation not in {"jax", "folx"}]


@pytest.mark.parametrize("method", ["gradient/reverse:jax", *[marked(m.name) for m in READS]])
def test_plans_of_every_method_read_the_parameters_at_the_call(method):
    """Also under inference mode, and after parameters were replaced by others at other places."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    mlp, quantity = jac.MLP.from_torch(net), jac.find_method(method).quantity
    drawn = {"ggn": (T, torch.ones(NUMBERS).double()), "laplacian": (torch.ones(1, 3).double(),)}
    drawn |= {"laplacian_gradient": drawn["laplacian"], "hessian": (), "ntk": (), "jacobian_gradient": (), "value": ()}
    drawn |= {"derivatives": ()}
    asked = "0 0_{x0}" if quantity == "derivatives" else None
    others = drawn.get(quantity, (T,))
    plan = jac.plan(mlp, X, method, quantity=quantity, others=others, asked=asked)
    with torch.inference_mode():
        plan(X, *others)
    with torch.no_grad():
        net[0].weight.mul_(1.5)
        net[2].weight.data = torch.ones(4, 2).double().mT
    net[2].bias = torch.nn.Parameter(torch.ones(2).double())
    fresh = jac.MLP([W.detach().clone() for W in mlp.weights], [b.detach().clone() for b in mlp.biases])
    exact = jac.plan(fresh, X, "auto" if quantity != "sgd_step" else "reverse", quantity=quantity, others=others, asked=asked)(X, *others)
    with torch.inference_mode():
        found = plan(X, *others)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-9, atol=1e-12)


class TestState:
    @pytest.mark.parametrize("method", ["forward:eager", "forward:native", "reverse:autograd-loop"])
    @pytest.mark.parametrize("again", [copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan))], ids=["deepcopy", "pickle"])
    def test_a_copied_plan_computes_with_the_copied_network(self, method, again):
        plan = jac.plan(small(), X, method)
        other = again(plan)
        other.mlp.weights[0].mul_(2)
        assert other.method == method
        torch.testing.assert_close(other(X), jac.jacobian(other.mlp, X))
        assert relative_error(plan(X), other(X)) > 1e-3

    def test_losses_and_optimizers_are_pickled(self):
        loss = jac.Loss("l1", "sum", 0.5)
        assert pickle.loads(pickle.dumps(loss)) == copy.deepcopy(loss) == loss
        optimizer = jac.SGD(small(), 0.1, momentum=0.9)
        optimizer.minimize(X, T)
        other = pickle.loads(pickle.dumps(optimizer))
        optimizer.minimize(X, T)
        other.minimize(X, T)
        torch.testing.assert_close(other.mlp.weights, optimizer.mlp.weights)

    @pytest.mark.parametrize("which", ["directions", "W", "x"])
    def test_what_is_changed_before_backward_is_an_error(self, which):
        mlp, x, w = small(), X.clone().requires_grad_(), torch.ones(3).double()
        loss = jac.laplacian(mlp, x, w, method="forward:native", create_graph=True)[2].square().sum()
        with torch.no_grad():
            {"directions": w, "W": mlp.weights[0], "x": x}[which].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    @pytest.mark.parametrize("parts", [lambda ps: [p.mT if p.ndim == 2 else p for p in ps], lambda ps: ps[:-1], lambda ps: [1.0] * len(ps)])
    def test_a_product_takes_parts_of_the_shapes_of_the_parameters(self, parts):
        mlp = small()
        with pytest.raises(ValueError, match="v must have the shapes of the parameters"):
            jac.ggn_product(mlp, X, T, "mse", parts(list(mlp.parameters())))

    def test_plans_are_kept_up_to_a_bound(self):
        mlp, optimizer = small(), jac.SGD(small(), 0.01)
        for number in range(plan.MOST_PLANS + 10):
            jac.gradient(mlp, X, T, jac.Loss("mse", scale=1.0 + number))
            optimizer.minimize(X, T, jac.Loss("mse", scale=1.0 + number))
        assert len(mlp._plans) == len(optimizer._kernels) == plan.MOST_PLANS

    @pytest.mark.parametrize("layer", ["weight", "bias"])
    def test_frozen_layers_stay(self, layer):
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
        frozen = getattr(net[0], layer).requires_grad_(False)
        other = copy.deepcopy(net)
        before = frozen.clone()
        optimizer = jac.SGD(jac.MLP.from_torch(net), 0.1, momentum=0.5, weight_decay=0.1)
        theirs = torch.optim.SGD(other.parameters(), 0.1, momentum=0.5, weight_decay=0.1)
        for _ in range(3):
            optimizer.minimize(X, T)
            theirs.zero_grad()
            torch.nn.functional.mse_loss(other(X), T).backward()
            theirs.step()
        assert torch.equal(frozen, before)
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q)

    @pytest.mark.parametrize(
        "target",
        [torch.zeros(4, 1).double(), torch.zeros(4, 2), torch.zeros(3, 2).double(), None],
        ids=["columns", "dtype", "rows", "none"],
    )
    def test_a_refused_module_gradient_moves_no_statistics(self, target):
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
        before = copy.deepcopy(net.state_dict())
        with pytest.raises((ValueError, TypeError), match="target must"):
            jac.module_gradient(net, X, target)
        torch.testing.assert_close(net.state_dict(), before)

    @pytest.mark.parametrize(
        "data",
        [
            lambda W: torch._neg_view(W.data),
            lambda W: W.data.mT,
            lambda W: W.data.flip(0),
            lambda W: W.data[:, [1, 0, 2]],
            lambda W: torch.as_strided(W.data, (3, 3), (1, 0)),
        ],
        ids=["negative", "transposed", "flipped", "permuted", "expanded"],
    )
    @pytest.mark.parametrize("method", ["reverse:native", "forward:eager", "reverse:torch.func"])
    def test_data_at_the_same_address_read_otherwise(self, data, method):
        W = torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double()
        mlp, V = jac.MLP([W, torch.eye(3).double()]), torch.ones(3, 3).double()
        jac.jacobian(mlp, V, method)
        W.data = data(W)
        torch.testing.assert_close(
            jac.jacobian(mlp, V, method), jac.jacobian(jac.MLP([W.resolve_neg().clone(), torch.eye(3).double()]), V, "forward")
        )

    @pytest.mark.parametrize("data", [lambda W: W[:2], lambda W: W[:, :2], lambda W: W.float(), lambda W: W.reshape(-1)])
    @pytest.mark.parametrize("method", ["auto", "reverse:native", "forward:eager"])
    def test_data_of_another_shape_or_dtype_is_refused(self, data, method):
        W = torch.ones(3, 3).double()
        mlp = jac.MLP([W, torch.eye(3).double()])
        plan = jac.plan(mlp, X, method)
        W.data = data(W.data)
        for call in (plan, lambda x: jac.jacobian(mlp, x, method), lambda x: jac.laplacian(mlp, x)):
            with pytest.raises((ValueError, TypeError), match=r"make another plan|W_1|W_2|x has"):
                call(X)

    @pytest.mark.parametrize("method", ["auto", "reverse:native", "forward:eager"])
    def test_a_bias_that_goes_is_planned_again(self, method):
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
        mlp = jac.MLP.from_torch(net)
        plan = jac.plan(mlp, X, method)
        jac.jacobian(mlp, X, method)
        net[0].bias = None
        for _ in range(2):
            torch.testing.assert_close(jac.jacobian(mlp, X, method), jac.jacobian(jac.MLP.from_torch(net), X))
        with pytest.raises(ValueError, match="make another plan"):
            plan(X)


class TestNumbers:
    @pytest.mark.parametrize("activation", RULES)
    @pytest.mark.filterwarnings("ignore:the network is piecewise linear:UserWarning")
    def test_a_laplacian_at_x_that_is_not_finite(self, activation):
        mlp, x = small(activation=activation), X.clone()
        for bad in (float("inf"), -float("inf"), float("nan")):
            x[1, 0] = bad
            for method in ("forward:eager", "forward:native"):
                assert not torch.isfinite(jac.laplacian(mlp, x, method=method)[2][1]).any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("activation", [*RULES, "gelu(approximate='tanh')"])
    def test_values_and_slopes_far_out(self, activation, dtype):
        """Of one neuron, against autograd in float64; what is below 1e-35 may be 0."""
        rule = activation_of(activation)
        far = [10.0**power for power in (2, 5, 20, 37)] + [3e38] + ([1e300, 1e308] if dtype == torch.float64 else [])
        z = torch.tensor([sign * size for size in far for sign in (1, -1)], dtype=dtype)[:, None]
        at = z.double().requires_grad_()
        # torch's own hardswish overflows
        y = at * (at / 6 + 0.5).clamp(0, 1) if activation == "hardswish" else rule.to_torch()(at)
        exact = y.detach().to(dtype), torch.autograd.grad(y.sum(), at)[0].to(dtype)
        mlp = jac.MLP([torch.ones(1, 1, dtype=dtype)] * 2, None, rule)
        for method in ("forward:native", "reverse:native", "forward:eager"):
            found = jac.value_and_jacobian(mlp, z, method)
            for one, other in zip(found, (exact[0], exact[1][:, :, None]), strict=True):
                known = ~other.isnan()  # torch's own z³ overflows in GELU's tanh form
                torch.testing.assert_close(one[known], other[known], rtol=1e-5, atol=1e-35)

    @pytest.mark.parametrize(("logit", "exact"), [(28.0, 0.7), (-28.0, 0.3), (12.0, 0.69999140), (-40.0, 0.3)])
    @pytest.mark.parametrize("method", ["products:eager", "products:native"])
    def test_the_second_derivative_of_bce_behind_a_saturated_sigmoid(self, method, logit, exact):
        """`∂²/∂z²` of the loss is `p (1 - p)`; its Gauss-Newton part at t = 0.3 is `(1 - t) p² + t (1 - p)²`."""
        for dtype in (torch.float64, torch.float32):
            mlp = jac.MLP([torch.full((1, 1), logit, dtype=dtype)], None, output_activation="sigmoid")
            one = torch.ones(1, 1, dtype=dtype)
            (found,) = jac.ggn_product(mlp, one, 0.3 * one, "bce", one[0], method)
            if dtype == torch.float64 or logit < 17:  # beyond, y is 1 in float32, and the product 0
                assert found.item() == pytest.approx(exact, rel=1e-4 if dtype == torch.float64 else 0.03)  # 1 - y has 7 bits at 12
            else:
                assert 0 <= found.item() < exact


PLAN = lambda **options: jac.plan(small(), X, **options)  # noqa: E731


@pytest.mark.parametrize(
    ("call", "closest"),
    [
        (lambda: PLAN(method="revers"), "reverse"),
        (lambda: PLAN(method="reverse:nativ"), "reverse:native"),
        (lambda: PLAN(method="gradient/reverse:nativ"), "gradient/reverse:native"),
        (lambda: PLAN(quantity="gradent"), "gradient"),
        (lambda: PLAN(quantity="gradient", others=(T,), loss="MSE"), "mse"),
        (lambda: PLAN(quantity="gradient", others=(T,), loss="cross-entropy"), "cross_entropy"),
        (lambda: PLAN(effort="measur"), "measure"),
        (lambda: jac.jacobian(small(), X, "foward"), "forward"),
        (lambda: jac.laplacian(small(), X, method="laplacian/forward:nativ"), "laplacian/forward:native"),
        (lambda: jac.gradient(small(), X, T, "bce_with_logit"), "bce_with_logits"),
        (lambda: jac.module_gradient(torch.nn.Linear(3, 2).double(), X, T, "smse"), "mse"),
        (lambda: jac.SGD(small(), 0.1).minimize(X, T, "ms"), "mse"),
        (lambda: jac.Loss("mse", "men"), "mean"),
        (lambda: jac.MLP.random(L=1, D=2, K=2, P=1, activation="sigmiod"), "sigmoid"),
        (lambda: jac.MLP.random(L=1, D=2, K=2, P=1, output_activation="soft_max"), "softmax"),
        (lambda: jac.MLP.random(L=1, D=2, K=2, P=1, init="xaver"), "xavier"),
        (lambda: jac.Activation("leakyrelu"), "leaky_relu"),
        (lambda: jac.methods("revers:native"), "reverse:native"),
        (lambda: jac.methods(quantity="gradent"), "gradient"),
        (lambda: jac.methods("gradent/*"), "gradient"),
        (lambda: jac.find_method("mixd"), "mixed"),
        (lambda: jac.register("gradent/reverse:mine"), "gradient"),
        (lambda: jac.register("revers:mine"), "reverse"),
        (lambda: jac.cost(jac.Problem(widths=(2, 3), quantity="jacobain"), "forward"), "jacobian"),
    ],
)
def test_a_typing_error_is_answered_by_the_closest_name(call, closest):
    with pytest.raises(ValueError, match=f"did you mean .*{closest}"):
        call()


class TestTransforms:
    QUANTITIES = {  # noqa: RUF012
        "laplacian": lambda m, x: jac.laplacian(m, x)[2],
        "hessian": jac.hessian,
        "hessian_diagonal": jac.hessian_diagonal,
        "gradient": lambda m, x: jac.gradient(m, x, x[:, :2]).weights[0],
        "classes": lambda m, x: jac.gradient(m, x, (x[:, 0] > 0).long(), "cross_entropy").weights[0],
        "norms": lambda m, x: jac.per_sample_gradient_norms(m, x, x[:, :2]),
        "each": lambda m, x: jac.per_sample_gradients(m, x, x[:, :2]).weights[0],
        "factors": lambda m, x: jac.parameter_jacobian(m, x).cotangents[0],
        "jacobian": jac.jacobian,
        "factored": lambda m, x: jac.jacobian(m, x, factored=True).B,
        "ntk": jac.ntk,
        "trace": lambda m, x: jac.ntk(m, x, trace=True),
        "jvp": lambda m, x: jac.jvp(m, x, x),
        "vjp": lambda m, x: jac.vjp(m, x, x[:, :2]),
        "hvp": lambda m, x: jac.hvp(m, x, x),
        "loss": jac.jacobian_loss,
        "ggn": lambda m, x: jac.ggn_product(m, x, x[:, :2], "mse", [W.detach() for W in m.parameters()])[0],
    }

    @pytest.mark.parametrize("name", QUANTITIES)
    @pytest.mark.filterwarnings("ignore")
    def test_traces(self, name):
        from torch.fx.experimental.proxy_tensor import make_fx

        mlp, f = small(), self.QUANTITIES[name]
        exact = f(mlp, X)
        traces = [torch.jit.trace(lambda x: f(mlp, x), (X + 1,)), make_fx(lambda x: f(mlp, x))(X + 1)]
        if name != "factored":
            traces += [make_fx(lambda x: f(mlp, x), tracing_mode="symbolic", _allow_non_fake_inputs=True)(X + 1)]
            torch.testing.assert_close(traces[-1](X[:3]), f(mlp, X[:3]))
        for traced in traces:
            torch.testing.assert_close(traced(X), exact)

    @pytest.mark.parametrize("name", QUANTITIES)
    def test_autocast_does_not_change_what_a_network_computes_in(self, name):
        mlp, x, f = small().to(dtype=torch.float32), X.float(), self.QUANTITIES[name]
        exact = f(mlp, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(f(mlp, x), exact)

    def test_vmap_of_gradients_with_class_indices(self):
        mlp, classes = small(), torch.tensor([0, 1, 1, 0])
        each = torch.func.vmap(lambda x, t: jac.gradient(mlp, x, t, "cross_entropy").weights[0])
        torch.testing.assert_close(each(X, classes), jac.per_sample_gradients(mlp, X, classes, "cross_entropy").weights[0])
        assert each(X, classes + 2).isnan().all()  # the numbers cannot be looked at, and no class is that

    def test_vmap_of_factors(self):
        mlp = small()
        A, B = torch.func.vmap(lambda x: (lambda J: (J.A, J.B))(jac.jacobian(mlp, x, factored=True)))(X)
        torch.testing.assert_close(A @ B, jac.jacobian(mlp, X))

    @pytest.mark.parametrize("v", ["a", None, 3, torch.zeros(NUMBERS), [torch.zeros(4, 3)] * 4])
    def test_products_with_what_is_no_vector(self, v):
        F, J = jac.parameter_jacobian(small(), X), jac.jacobian(small(), X, factored=True)
        for product in (lambda: F @ v, lambda: F.T @ v, *((lambda: J @ v,) if not isinstance(v, torch.Tensor) else ())):
            with pytest.raises((TypeError, ValueError), match=r"unsupported operand|must be"):
                product()

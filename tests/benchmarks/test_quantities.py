"""Quantities other than the Jacobian through the suite: sweeps, runs, rows, tables, choices."""

import pytest

import jacobians as jac
from benchmarks.analysis import recommend, regret, scoreboard, tables
from benchmarks.errors import BadInput
from benchmarks.measure import ceilings
from benchmarks.records.csv_file import read_csv
from benchmarks.records.problems import key_of, problem_of, title
from benchmarks.workloads.cases import expand, load_sweeps
from tests.benchmarks.rows import RATES, row

TOML = """
[gradients]
title = "Gradients"
quantity = "gradient"
grid = [{ name = "small", widths = [3, 5, 2], N = 4, bias = true, loss = "cross_entropy" }]

[steps]
title = "Steps"
quantity = "sgd_step"
grid = [{ widths = [3, 5, 2], N = 4 }]

[kernels]
title = "Kernels"
quantity = "ntk"
grid = [{ widths = [3, 5, 2], N = [1, 4] }]
"""


@pytest.fixture
def sweeps(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    return path


@pytest.mark.long
def test_a_run_of_three_quantities(sweeps, tmp_path, command, forked_workers):
    arguments = ["--sweeps", sweeps, "--out", tmp_path, "--seconds", "0.01", "--method", "*:eager,*:native", "--device", "cpu"]
    assert "best hand-written" in command("run", "gradients,steps,kernels", *arguments).out
    rows = [r for name in ("gradients", "steps", "kernels") for r in read_csv(tmp_path / f"{name}.csv")]
    assert {r.quantity for r in rows} == {"gradient", "sgd_step", "ntk"}
    assert {r.loss for r in rows} == {"cross_entropy", "mse", None}
    assert {r.status for r in rows} <= {"ok", "unsupported"}  # without a compiler
    assert all(r.rel_error <= r.tolerance for r in rows if r.status == "ok")
    again = {problem_of(r) for r in rows if r.quantity == "ntk"}
    assert {p.batch for p in again} == {1, 4}  # a kernel of one sample is still one of a batch


def test_keys_tell_quantities_and_losses_apart(sweeps):
    known = load_sweeps(sweeps)
    keys = [case.key for sweep in known.values() for case in expand(sweep, ["cpu"])]
    assert len(set(keys)) == len(keys)
    assert "3-5-2 N4 tanh bias xavier seed0 float32 cross_entropy/cpu/gradient/reverse:eager" in keys
    assert all("seed0 float32/cpu/" in key for key in (case.key for case in expand(known["kernels"], ["cpu"])))
    short = expand(known["gradients"], ["cpu"], ["reverse:eager"])
    assert [case.method for case in short] == [case.method for case in expand(known["gradients"], ["cpu"], ["gradient/*:eager"])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("quantity = \"gradient\"", "quantity = \"gradiant\""), "unknown quantity 'gradiant': did you mean 'gradient'?"),
        (('loss = "cross_entropy"', 'loss = "crossentropy"'), "unknown loss 'crossentropy': did you mean 'cross_entropy'?"),
        (('loss = "cross_entropy"', 'loss = "mse(reduction=avg)"'), "unknown reduction 'avg'"),
        (('title = "Steps"', 'title = "Steps"\nexclude = ["structured:*"]'), "exclude: unknown method 'structured:*'"),
    ],
)  # fmt: skip
def test_mistakes_in_a_sweep(sweeps, change, message):
    sweeps.write_text(TOML.replace(*change))
    with pytest.raises(BadInput) as error:
        load_sweeps(sweeps)
    assert message in str(error.value)


NAMED = """
[named]
title = "Named"
quantity = "derivatives"
grid = [{ L = 1, D = 2, K = 3, P = 1, N = 4, asked = ["u", "u_{x1,x1}"] }, { L = 1, D = 2, K = 3, P = 1, N = 4, asked = ["u_x0"] }]
"""


class TestDerivativesByName:
    def test_a_sweep_asks_for_them(self, sweeps):
        sweeps.write_text(NAMED)
        cases = expand(load_sweeps(sweeps)["named"], ["cpu"], ["*:eager"])
        assert [case.problem.asked for case in cases] == ["y y_{x1,x1}", "y_x0"]
        assert len({case.key for case in cases}) == 2
        assert "float32 y y_{x1,x1}/cpu/derivatives/taylor:eager" in cases[0].key

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (('"u_x0"', '"u_x2"'), "unknown input 'x2'; choose from x0, x1"),
            (('quantity = "derivatives"', 'quantity = "hessian"'), "'asked' names derivatives, and the quantity is hessian"),
            (('["u_x0"]', '"u_x0"'), "asked: expected a list of names such as"),
        ],
    )
    def test_mistakes(self, sweeps, change, message):
        sweeps.write_text(NAMED.replace(*change))
        with pytest.raises(BadInput) as error:
            load_sweeps(sweeps)
        assert message in str(error.value)

    def test_rows_hold_what_was_asked(self):
        one, other = (row("derivatives/taylor:eager", asked=asked, sweep="named") for asked in ("y y_x0", "y_x0"))
        assert key_of(one) != key_of(other)
        assert problem_of(one).asked == "y y_x0"
        assert title(one).endswith("y y_x0")


def rows():
    common = {"loss": "mse", "sweep": "gradients", "N": 4, "fraction_of_ceiling": 0.1}
    times = {"native": 1e-5, "eager": 5e-5, "jax": 3e-5, "autograd": 9e-5}
    return [row(f"gradient/reverse:{name}", median=seconds, **common) for name, seconds in times.items()]


@pytest.mark.needs_compiler
def test_tables_and_choices():
    assert tables.by_mode(rows())[1] == []
    (line,) = tables.by_method(rows())[1]
    assert line[:5] == ["L=2 D=3 K=5 P=4 N=4 mse", "reverse:native", "10.0 µs", "reverse:jax", "30.0 µs"]
    assert tables.by_method([row()])[1] == []
    (score,) = scoreboard.scores(rows(), None, {"cpu": RATES})
    assert (score.choice, score.regret) == ("gradient/reverse:native", 1.0)
    found = regret.regrets(rows(), rates={"cpu": RATES})
    assert found[0].ratios == (1.0,)
    assert title(rows()[0]).endswith("mse")


@pytest.mark.needs_compiler
@pytest.mark.needs("jax")
def test_recommendations():
    problem = problem_of(rows()[0])
    found = recommend.recommend(problem, recommend.Evidence(rows(), {"cpu": RATES}), RATES)
    assert found.best.method == "gradient/reverse:native"
    assert found.confidence == "measured"
    assert [p.method for p in found.ranked if not p.hand_written] == ["gradient/reverse:jax", "gradient/reverse:autograd"]
    assert "one call of compiled C" in found.reason or "torch operations" in found.reason
    assert 'jac.gradient(mlp, x, target, "mse", method=' in recommend.code(problem, found.best.method)
    assert recommend.as_record(found)["problem"]["quantity"] == "gradient"
    other = recommend.recommend(problem.with_(quantity="ggn"), recommend.Evidence(rows(), {"cpu": RATES}), RATES)
    assert all(p.method.startswith("ggn/") for p in other.ranked)


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("name", [quantity.name for quantity in jac.quantities()])
def test_the_lines_to_paste_run(name, batch):
    quantity = next(q for q in jac.quantities() if q.name == name)
    for loss in ("mse", "cross_entropy") if quantity.loss else (None,):
        problem = jac.Problem(widths=(3, 5, 2), batch=1 if quantity.batched and batch is None else batch, quantity=name, loss=loss)
        found: dict[str, object] = {}
        exec(recommend.code(problem, jac.methods("*:eager", name)[0].name), found)
        assert found.keys() - {"__builtins__", "torch", "jac", "mlp", "x", "target"}, "a result has a name"


@pytest.mark.parametrize("name", [quantity.name for quantity in jac.quantities()])
def test_costs_and_limits(name):
    quantity = next(q for q in jac.quantities() if q.name == name)
    small = jac.Problem(widths=(8, 16, 4), batch=16, quantity=name, loss="mse" if quantity.loss else None)
    for mode in quantity.modes:
        one, two = jac.cost(small, mode), jac.cost(small.with_(batch=32), mode)
        assert 0 < one.flops < two.flops
        assert 0 < one.bytes < two.bytes
        assert ceilings.floor_s(small, mode, RATES) < ceilings.floor_s(small.with_(batch=4096), mode, RATES)


def test_operations_counted_by_hand():
    """784-256-10, N = 64: evaluation and outer products of all weights, the pullback through the second alone, 3 a neuron."""
    problem = jac.Problem(widths=(784, 256, 10), batch=64, quantity="gradient", loss="mse")
    weights, second = 784 * 256 + 256 * 10, 256 * 10
    assert jac.cost(problem, "reverse").flops == 64 * (4 * weights + 2 * second + 3 * 266)


def test_recommend_for_training_through_derivatives(command):
    arguments = ("recommend", "--widths", "3,64,64,1", "--N", "256", "--create-graph", "--quantity")
    printed = command(*arguments, "laplacian").out
    assert "laplacian_gradient/forward:" in printed
    assert "jac.laplacian(mlp, x, create_graph=True)" in printed
    refused = command(*arguments, "ntk", status=2).err
    assert refused == "error: --create-graph goes with jacobian and laplacian, not with ntk\n"

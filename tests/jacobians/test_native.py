"""The compiled kernels beyond what every method is tested for: odd sizes, elementary functions, threads, a missing compiler."""

import ctypes
import math
import multiprocessing

import pytest
import torch

import jacobians as jac
from jacobians.kernels.cpu import compiler
from jacobians.kernels.cpu import runner as native
from tests import oracles
from tests.cases import TOLERANCE, in_threads, network

pytestmark = pytest.mark.skipif(not native.available(), reason="no C compiler")
MODES = ("forward", "reverse", "mixed")
ODD = [
    ((1, 1), None),
    ((7, 31, 33, 65), None),
    ((65, 33, 31, 7), 33),
    ((31, 65, 7, 65, 33), 31),
    ((1023, 7, 1000), None),
    ((3, 1000, 1023, 2), None),
    ((2, 1023, 1000, 3), 5),
    ((33, 1000, 40), 65),
    ((130, 129, 128, 127), 1),
]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("widths", "batch"), ODD, ids=str)
def test_sizes_that_are_no_multiple_of_a_block(widths, batch, dtype, threads):
    mlp, x = network(widths, batch=batch, dtype=dtype, bias=True)
    exact_y, exact = jac.value_and_jacobian(mlp.to(dtype=torch.float64), x.double(), method="reverse:eager")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for mode in MODES:
            y, J = jac.value_and_jacobian(mlp, x, method=f"{mode}:native")
            assert oracles.relative_error(J, exact) < TOLERANCE[dtype], mode
            torch.testing.assert_close(y.double(), exact_y, rtol=1e-4, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def elementary(name, z):
    """φ(z) and φ'(z) as the kernels compute them."""
    h, s = z.clone(), torch.empty_like(z)
    function = getattr(native.library(), f"elementary_{str(z.dtype).removeprefix('torch.')}")
    function(native.ACTIVATIONS.index(name), ctypes.c_void_p(h.data_ptr()), ctypes.c_void_p(s.data_ptr()), ctypes.c_int64(z.numel()))
    return h, s


def in_ulps(got, exact):
    """Largest error in units in the last place of the exact result."""
    spacing = torch.nextafter(exact.to(got.dtype).abs(), torch.full_like(got, math.inf)).double() - exact.to(got.dtype).abs().double()
    return ((got.double() - exact).abs() / spacing).max().item()


def test_tanh_within_two_units_in_the_last_place_and_its_slope_within_six():
    exponents = torch.linspace(-37, 6.4, 400_001, dtype=torch.float64)
    z = torch.cat([torch.exp2(exponents), -torch.exp2(exponents), torch.zeros(1)]).float()
    h, s = elementary("tanh", z)
    assert in_ulps(h, torch.tanh(z.double())) <= 2
    shown = z.abs() < 40  # beyond, the slope is no normal number
    assert in_ulps(s[shown], (1 / torch.cosh(z[shown].double())) ** 2) <= 6
    assert (s[~shown] < 1e-33).all()


def test_tanh_in_float64_against_the_c_library():
    z = torch.linspace(-30, 30, 100_003, dtype=torch.float64)
    h, s = elementary("tanh", z)
    torch.testing.assert_close(h, torch.tanh(z), rtol=1e-15, atol=0)
    torch.testing.assert_close(s, 1 / torch.cosh(z) ** 2, rtol=2e-15, atol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", native.ACTIVATIONS)
def test_activations_of_every_length_and_of_what_is_no_number(name, dtype):
    from jacobians.activations import activation

    rule = activation(name)
    tolerance = {"rtol": 2e-6, "atol": 1e-6} if dtype is torch.float32 else {"rtol": 1e-13, "atol": 1e-15}
    for length in (1, 2, 15, 16, 17, 33):
        z = torch.linspace(-9, 9, length, dtype=dtype)
        h, s = elementary(name, z)
        torch.testing.assert_close(h, rule.value(z), **tolerance)
        torch.testing.assert_close(s, rule.slope(z, rule.value(z)) if rule.slope else torch.ones_like(z), **tolerance)
    h, _ = elementary(name, torch.tensor([math.nan, 1.0], dtype=dtype))
    assert h[0].isnan()
    assert h[1].isfinite()
    if name == "tanh":
        assert elementary(name, torch.tensor([math.inf, -math.inf], dtype=dtype))[0].tolist() == [1, -1]


def test_many_threads_share_a_plan_and_the_pool():
    mlp, x = network((40, 200, 200, 60), dtype=torch.float32)
    plan = jac.plan(mlp, x, "reverse:native")
    inputs = [torch.randn(40, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    expected = [plan(one) for one in inputs]
    wrong = []

    def call(index):
        for _ in range(50):
            if not torch.allclose(plan(inputs[index]), expected[index], rtol=1e-5, atol=1e-6):
                wrong.append(index)

    in_threads(call, 8)
    assert not wrong


def _in_child(plan, x, queue):
    queue.put(plan(x)[:3, :3].tolist())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning")
def test_a_forked_process_starts_its_own_threads():
    mlp, x = network((300, 300, 300, 40), dtype=torch.float32)
    plan = jac.plan(mlp, x, "reverse:native")
    expected = plan(x)  # the pool is running now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    # The child touches torch as little as it can: torch's own threads do not survive a fork.
    child = context.Process(target=_in_child, args=(plan, x, queue), daemon=True)
    child.start()
    try:
        assert queue.get(timeout=60) == expected[:3, :3].tolist()
    finally:
        child.kill()


def test_parameters_that_became_others_are_noticed():
    mlp, x = network((5, 8, 8, 3), dtype=torch.float32)
    plan = jac.plan(mlp, x, "forward:native")
    plan(x)
    square = mlp.weights[1]
    square.data = square.data.T  # the same memory, read otherwise
    assert oracles.relative_error(plan(x), oracles.autograd(mlp, x)) < 1e-5
    square.data = torch.ones(4, 4)
    with pytest.raises(ValueError, match=r"a parameter was \(8, 8\).* now is \(4, 4\).*make another MLP"):
        plan(x)


class TestCompiler:
    @pytest.fixture(autouse=True)
    def forget(self):
        yield
        compiler.library.cache_clear()
        compiler.library()  # from the usual cache, lest a later test with a cache of its own compiles again

    def library(self):
        compiler.library.cache_clear()
        return compiler.library()

    def test_none_found(self, monkeypatch):
        monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
        with pytest.raises(compiler.CompilerError, match="needs a C compiler and found none; install gcc or clang, or set CC"):
            self.library()

    def test_refuses(self, monkeypatch, tmp_path):
        monkeypatch.setenv("JACOBIANS_CACHE", str(tmp_path))
        monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-fno-such-option"))
        with pytest.raises(compiler.CompilerError, match=r"refused our C source: .*no-such-option"):
            self.library()
        assert not list(tmp_path.iterdir()), "nothing half-made is left"

    def test_a_cache_that_cannot_be_written(self, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("JACOBIANS_CACHE", str(tmp_path / "file"))
        with pytest.raises(compiler.CompilerError, match="set JACOBIANS_CACHE to a writable directory"):
            self.library()

    def test_the_method_says_why_it_cannot(self, monkeypatch):
        monkeypatch.setattr(native, "_why_not", lambda: "needs a C compiler")
        assert jac.find_method("reverse:native").unsupported(jac.Problem(widths=(2, 3))) == "needs a C compiler"
        mlp, x = network((2, 8, 3), dtype=torch.float32)
        assert jac.plan(mlp, x).method.endswith(":eager")

    @pytest.mark.parametrize(
        ("problem", "reason"),
        [
            (jac.Problem(widths=(2, 3), device="cuda"), "runs on the CPU, not on cuda"),
            (jac.Problem(widths=(2, 3), dtype="bfloat16"), "computes in float32 and float64, not in bfloat16"),
        ],
    )
    def test_what_it_does_not_serve(self, problem, reason):
        assert jac.find_method("forward:native").unsupported(problem) == reason

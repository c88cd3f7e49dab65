"""The compiled kernels beyond what every method is tested for: odd sizes, elementary functions, threads, a missing compiler."""

import ctypes
import hashlib
import math
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import jacobians as jac
from jacobians.kernels.native import compiler, program, runner
from jacobians.network.activations import activation
from jacobians.planning.inputs import problem_of
from tests import oracles
from tests.cases import ACTIVATIONS, DEADLOCK_S, TOLERANCE, in_threads, network

pytestmark = pytest.mark.skipif(not runner.available(), reason="no C compiler")
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
    ((5, 512, 1024, 512, 3), 6),  # columns of weights in few sets of the cache: their blocks are copied together
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("widths", "batch"), ODD, ids=str)
def test_sizes_that_are_no_multiple_of_a_block(widths, batch, dtype, set_threads):
    mlp, x = network(widths, batch=batch, dtype=dtype, bias=True)
    exact_y, exact = jac.value_and_jacobian(mlp.to(dtype=torch.float64), x.double(), method="reverse:eager")
    for threads in (1, 2, 3):
        set_threads(threads)
        mlp = jac.MLP(mlp.weights, mlp.biases)  # whose plans are made for as many
        for mode in MODES:
            y, J = jac.value_and_jacobian(mlp, x, method=f"{mode}:native")
            assert oracles.relative_error(J, exact) < TOLERANCE[dtype], (mode, threads)
            torch.testing.assert_close(y.double(), exact_y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize(("widths", "batch"), [((9, 300, 512, 310, 15), 20), ((3, 512, 512, 7), 21)], ids=str)
def test_several_cotangents_at_once_and_shared_out(widths, batch, parts, dtype, monkeypatch):
    lanes = getattr(compiler.library(), f"vector_width_{str(dtype).removeprefix('torch.')}")()
    monkeypatch.setattr(program, "_blocks", lambda problem, seeds, *others: (lanes, min(seeds, program.MOST_SIDE // lanes), parts))
    mlp, x = network(widths, batch=batch, dtype=dtype, bias=True, output_activation="sigmoid")
    assert program.assemble("reverse", problem_of(mlp, x)).program.group > 1
    exact = jac.jacobian(mlp.to(dtype=torch.float64), x.double(), method="reverse:eager")
    for mode in ("forward", "reverse"):
        assert oracles.relative_error(jac.jacobian(mlp, x, method=f"{mode}:native"), exact) < TOLERANCE[dtype]
        some = jac.jacobian(mlp, x, method=f"{mode}:native", wrt=slice(1, 3))
        assert oracles.relative_error(some, exact[..., 1:3]) < TOLERANCE[dtype]


@pytest.mark.parametrize("batch", [None, 40])
def test_on_threads_of_their_own(batch, set_threads):
    """Where torch's OpenMP is not GNU's, and after a fork."""
    library = compiler.library()
    mlp, x = network((300, 301, 299, 5), batch=batch, bias=True)
    exact = jac.jacobian(mlp, x, method="reverse:eager")
    set_threads(3)
    try:
        for use in (lambda: library.use_team(None, None, None), lambda: compiler._on_threads_of_torch(library)):
            use()
            for mode in MODES:
                assert oracles.relative_error(jac.jacobian(mlp, x, method=f"{mode}:native"), exact) < 1e-12
    finally:
        compiler._on_threads_of_torch(library)


def elementary(name, z):
    """φ(z) and φ'(z) as the kernels compute them."""
    h, s = z.clone(), torch.empty_like(z)
    function = getattr(compiler.library(), f"elementary_{str(z.dtype).removeprefix('torch.')}")
    setting = program.setting(activation(name))
    assert function(ctypes.byref(setting), ctypes.c_void_p(h.data_ptr()), ctypes.c_void_p(s.data_ptr()), ctypes.c_int64(z.numel())) == 0
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
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_every_length_and_of_what_is_no_number(name, dtype):
    rule = activation(name)
    tolerance = {"rtol": 2e-6, "atol": 1e-6} if dtype is torch.float32 else {"rtol": 1e-13, "atol": 4e-15}
    for length in (1, 2, 15, 16, 17, 33):
        z = torch.linspace(-9, 9, length, dtype=dtype)
        h, s = elementary(name, z)
        torch.testing.assert_close(h, rule.value(z), **tolerance)
        torch.testing.assert_close(s, torch.ones_like(z) if rule.linear else rule.slope(z, rule.value(z)), **tolerance)
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
        assert queue.get(timeout=DEADLOCK_S) == expected[:3, :3].tolist()
    finally:
        child.kill()


LOADED_AFTER_A_FORK = """
import os, signal, sys, torch, jacobians as jac
mlp, x = jac.MLP.random(widths=(300, 301, 299, 5)), torch.ones(40, 300)
(torch.randn(600, 600) @ torch.randn(600, 600)).tanh()  # torch's threads are there, and stay in the parent
if os.fork() == 0:
    signal.alarm(int(sys.argv[1]))
    jac.jacobian(mlp, x, "reverse:native")
    os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_kernels_that_are_loaded_after_a_fork_have_threads_of_their_own():
    command = [sys.executable, "-W", "ignore", "-c", LOADED_AFTER_A_FORK, str(DEADLOCK_S)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "7\n", done.stderr


def test_parameters_that_became_others_are_noticed():
    mlp, x = network((5, 8, 8, 3), dtype=torch.float32)
    plan = jac.plan(mlp, x, "forward:native")
    plan(x)
    square = mlp.weights[1]
    square.data = square.data.T  # the same memory, read otherwise
    assert oracles.relative_error(plan(x), oracles.autograd(mlp, x)) < 1e-5
    square.data = torch.ones(4, 4)
    with pytest.raises(ValueError, match=r"a parameter was \(8, 8\).* now is \(4, 4\).*make another plan"):
        plan(x)


def test_an_unknown_code_is_an_error_and_never_the_identity():
    mlp, x = network((5, 8, 3), dtype=torch.float32)
    kernel = runner.Runner(mlp, "reverse", jac.planning.plan.problem_of(mlp, x), value=False)
    kernel._kernel.program.activation[0].code = 99
    with pytest.raises(RuntimeError, match="does not know an activation or a loss of this plan"):
        kernel(x)
    z = torch.ones(3)
    setting = program.Setting(-1, 0, 0, 1)
    assert (
        compiler.library().elementary_float32(ctypes.byref(setting), ctypes.c_void_p(z.data_ptr()), ctypes.c_void_p(z.data_ptr()), 3) != 0
    )


@pytest.mark.parametrize(("mode", "widths"), [("forward", (11, 9, 2, 17, 3)), ("reverse", (3, 9, 2, 17, 11))])
@pytest.mark.parametrize("batch", [None, 5])
def test_the_lean_technique_takes_any_number_of_seeds(mode, widths, batch):
    mlp, x = network(widths, batch=batch, bias=True, output_activation="sigmoid")
    problem = jac.planning.plan.problem_of(mlp, x)
    _, J = runner.Runner(mlp, mode, problem, value=False, lean=True)(x)
    assert oracles.relative_error(J, oracles.autograd(mlp, x)) < 1e-12
    assert program.working_bytes(mode, problem, lean=True) < program.working_bytes(mode, problem)


class TestCompiler:
    @pytest.fixture(autouse=True)
    def forget(self):
        yield
        compiler.forget()
        compiler.library()  # from the usual cache, lest a later test with a cache of its own compiles again

    @pytest.fixture
    def cache(self, tmp_path, monkeypatch):
        """A cache directory with the library in it, so that nothing is compiled."""
        private = tmp_path / "cache"
        private.mkdir(mode=0o700)
        usual = compiler.cache_directory()
        for path in (*usual.glob("native-*.so"), *usual.glob("native-*.sha256")):
            shutil.copy2(path, private / path.name)
        monkeypatch.setenv("JACOBIANS_CACHE", str(private))
        return private

    @pytest.fixture
    def built(self, monkeypatch):
        """What would be compiled: recorded, and taken from the usual cache instead."""
        usual, calls = Path(compiler.library()._name), []

        def stand_in(command, target, flags):
            calls.append(target)
            shutil.copy2(usual, target)
            target.with_suffix(".sha256").write_text(hashlib.sha256(usual.read_bytes()).hexdigest())
            target.with_suffix(".sha256").chmod(0o600)

        monkeypatch.setattr(compiler, "_compile", stand_in)
        return calls

    def library(self):
        compiler.forget()
        return compiler.library()

    def test_none_found(self, monkeypatch):
        monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
        with pytest.raises(compiler.CompilerError, match="needs a C compiler and found none; install gcc or clang, or set CC"):
            self.library()

    def test_refuses(self, monkeypatch, cache):
        monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-fno-such-option"))
        before = sorted(cache.glob("native-*.[!l]*"))
        with pytest.raises(compiler.CompilerError, match=r"refused our C source: .*no-such-option"):
            self.library()
        assert sorted(path for path in cache.iterdir() if path.suffix != ".lock") == before, "nothing half-made is left"

    def test_hangs(self, monkeypatch, cache):
        def never(arguments, timeout, **options):
            raise subprocess.TimeoutExpired(arguments, timeout)

        monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-DOTHER"))
        monkeypatch.setattr(compiler.subprocess, "run", never)
        with pytest.raises(compiler.CompilerError, match="had not ended after 120 s and was given up; set CC to another compiler"):
            self.library()

    def test_says_once_that_it_compiles(self, monkeypatch, cache, caplog):
        monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-fno-such-option"))
        with pytest.raises(compiler.CompilerError):
            self.library()
        assert "compiling the kernels for this processor: once, about ten seconds" in caplog.text

    def test_a_known_library_is_loaded_and_not_built(self, cache, built):
        assert Path(self.library()._name).parent == cache
        assert not built

    @pytest.mark.parametrize("spoil", ["truncated", "foreign", "no digest", "writable"])
    def test_a_library_that_is_not_what_was_written_is_built_again(self, cache, built, spoil):
        target = cache / Path(compiler.library()._name).name
        digest = target.with_suffix(".sha256")
        if spoil == "truncated":
            target.write_bytes(target.read_bytes()[:5000])
        elif spoil == "foreign":
            target.write_bytes(b"not a library")
        elif spoil == "no digest":
            digest.unlink()
        else:
            target.chmod(0o777)
        self.library()
        assert built == [target]

    @pytest.mark.parametrize("spoil", ["others can write", "a file in its place", "no home"])
    def test_a_cache_that_is_not_ours_alone_is_left_and_a_private_one_taken(self, tmp_path, monkeypatch, built, caplog, spoil):
        shared = tmp_path / "shared"
        if spoil == "others can write":
            shared.mkdir()
            shared.chmod(0o777)
            monkeypatch.setenv("JACOBIANS_CACHE", str(shared))
        elif spoil == "a file in its place":
            shared.write_text("")
            monkeypatch.setenv("JACOBIANS_CACHE", str(shared))
        else:
            monkeypatch.delenv("JACOBIANS_CACHE", raising=False)
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

            def nobody(cls=None):
                raise RuntimeError("Could not determine home directory.")

            monkeypatch.setattr(compiler.Path, "home", nobody)
        loaded = Path(self.library()._name)
        assert loaded.parent not in {shared, tmp_path}
        assert loaded.parent.stat().st_mode & 0o077 == 0
        assert "the cache directory cannot be used" in caplog.text

    def test_another_processor_has_a_library_of_its_own(self, cache, built, monkeypatch):
        first = self.library()._name
        monkeypatch.setattr(compiler, "processor", lambda: "flags: another")
        second = self.library()._name
        assert first != second
        assert built == [Path(second)]

    def test_a_structure_of_another_size_is_noticed(self, monkeypatch):
        class Longer(program.Step):
            _fields_ = [  # noqa: RUF012
                ("more", ctypes.c_int64)
            ]

        monkeypatch.setattr(program, "Step", Longer)
        with pytest.raises(compiler.CompilerError, match="struct Step has 80 bytes in C and 88 in Python"):
            self.library()

    def test_the_method_says_why_it_cannot(self, monkeypatch):
        monkeypatch.setattr(runner, "_why_not", lambda: "needs a C compiler")
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

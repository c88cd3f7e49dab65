"""A bound of memory: kept, and without changing the Jacobian."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import jacobians as jac
from benchmarks.run.environment import ROOT
from jacobians.kernels.native import runner
from jacobians.modes.chunked import LIBRARY_BYTES, layout, working_bytes
from jacobians.network.losses import loss_of
from jacobians.planning.inputs import problem_of
from tests import oracles
from tests.cases import network

PAGES = 2**18  # stacks of threads, Python's own objects


@pytest.mark.parametrize("batch", [None, 1, 7])
@pytest.mark.parametrize("widths", [(6, 9, 9, 5), (5, 4), (30, 8, 40)], ids=str)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.needs_compiler
def test_any_bound_gives_the_same_jacobian(mode, widths, batch):
    mlp, x = network(widths, batch=batch, bias=True, output_activation="tanh")
    problem = problem_of(mlp, x)
    exact = oracles.autograd(mlp, x)
    least = working_bytes(problem, mode, 1, 1)
    for bound in (least, 2 * least, 5 * least, 10**9):
        J = jac.jacobian(mlp, x, method=f"{mode}:eager", max_bytes=bound)
        assert J.shape == exact.shape
        assert oracles.relative_error(J, exact) < 1e-12
    for name in ("auto", f"{mode}:native"):
        assert oracles.relative_error(jac.jacobian(mlp, x, method=name, max_bytes=10**8), exact) < 1e-12


def test_layout_cuts_samples_first():
    problem = jac.Problem(widths=(100, 200, 200, 50), batch=64)
    for mode, seeds in (("forward", 100), ("reverse", 50)):
        whole = working_bytes(problem, mode, 64, seeds)
        assert layout(problem, mode, whole).samples == 64
        half = layout(problem, mode, (whole + LIBRARY_BYTES) // 2)
        assert (half.samples, half.seeds) == (32, seeds)
        bound = (working_bytes(problem, mode, 1, seeds) + LIBRARY_BYTES) // 2
        few = layout(problem, mode, bound)
        assert few.samples == 1
        assert 1 < few.seeds < seeds
        assert few.bytes <= bound


PEAKS = """
import json, torch
import jacobians as jac
from benchmarks.measure.memory import peak_bytes
from jacobians.kernels.native import compiler
from tests.cases import network

SHAPES = [((4, 2000, 2000, 4), 64), ((2, 512, 512, 512, 512, 512, 512, 3), 3000), ((1000, 50, 1000), 300), ((1000, 1000, 1000, 1000), None),
          ((400, 500, 500, 20), 64), ((20, 500, 500, 400), 64)]
found = []
compiler.library()  # the code of the kernels is mapped from its file, and no memory that a call asks for
for widths, batch in SHAPES:
    mlp, x = network(widths, batch=batch, dtype=torch.float32)
    output = 4 * (batch or 1) * widths[0] * widths[-1]
    for method, max_bytes in (("auto", 2**20), ("forward", 2**20), ("reverse:native", 2**20), ("forward:eager", 2**25),
                          ("reverse:eager", 2**25)):
        try:
            peak = peak_bytes(lambda: jac.jacobian(mlp, x, method=method, max_bytes=max_bytes), "cpu")
            found.append((str(widths), method, max_bytes, None if peak is None else peak - output))
        except ValueError as error:
            found.append((str(widths), method, max_bytes, str(error)))
for widths, batch in (((784, 256, 128, 10), 4096), ((3, 64, 64, 1), 50000), ((20, 1000, 1000, 4), 64)):
    mlp, x = network(widths, batch=batch, dtype=torch.float32)
    target = torch.zeros(batch, widths[-1])
    output = 4 * sum(p.numel() for p in mlp.parameters())
    for method, max_bytes in (("auto", 2**22), ("reverse:native", 2**20), ("reverse:eager", 2**25)):
        try:
            peak = peak_bytes(lambda: jac.gradient(mlp, x, target, method=method, max_bytes=max_bytes), "cpu")
            found.append((f"gradient {widths}", method, max_bytes, None if peak is None else peak - output))
        except ValueError as error:
            found.append((f"gradient {widths}", method, max_bytes, str(error)))
def there_and_back(mlp, x, method, max_bytes):
    J = jac.jacobian(mlp, x, method=method, max_bytes=max_bytes, create_graph=True)
    return torch.autograd.grad(J, parameters, torch.ones_like(J), materialize_grads=True)

parameters = [p.requires_grad_() for p in jac.MLP.random(L=1, D=2, K=3, P=1).parameters()]
there_and_back(jac.MLP(parameters), torch.zeros(1, 2), "forward:eager", None)  # what autograd itself loads at its first use
for widths, batch in (((3, 64, 64, 64, 1), 20000), ((20, 50, 50, 4), 3000)):
    mlp, x = network(widths, batch=batch, dtype=torch.float32, bias=True)
    parameters = [p.requires_grad_() for p in mlp.parameters()]
    # J, the cotangent of ones, and the derivatives
    output = 2 * 4 * batch * widths[0] * widths[-1] + 4 * sum(p.numel() for p in parameters)
    for method, max_bytes in (("auto", 2**22), ("reverse:native", 2**20)):
        try:
            peak = peak_bytes(lambda: there_and_back(mlp, x, method, max_bytes), "cpu")
            found.append((f"gradient through J {widths}", method, max_bytes, None if peak is None else peak - output))
        except ValueError as error:
            found.append((f"gradient through J {widths}", method, max_bytes, str(error)))
mlp, x = network((400, 500, 500, 20), batch=64, dtype=torch.float32)
found.append(("unbounded", "forward:eager", None, peak_bytes(lambda: jac.jacobian(mlp, x, method="forward:eager"), "cpu")))
print(json.dumps(found))
"""


@pytest.mark.long
def test_the_resident_memory_stays_under_the_bound_or_the_bound_is_refused():
    """The first calls of a process, whose large tensors are mapped one by one: what the kernels and libraries keep is counted too."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run([sys.executable, "-c", PEAKS], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    *bounded, (_, _, _, unbounded) = json.loads(done.stdout)
    if unbounded is None:
        pytest.skip("this system does not tell the peak of memory")
    assert unbounded > 36_000_000  # a bound does something
    kept = [case for case in bounded if isinstance(case[3], int)]
    assert [case for case in kept if case[3] > case[2] + PAGES] == []
    refused = [case for case in bounded if isinstance(case[3], str)]
    assert all("is too little for" in message or "cannot keep to max_bytes" in message for *_, message in refused)
    assert any(case[0].startswith("gradient") for case in kept)
    bounded = [case for case in bounded if not case[0].startswith("gradient")]
    kept = [case for case in kept if not case[0].startswith("gradient")]
    if runner.available():  # the lean technique serves every shape
        assert {case[0] for case in kept if case[2] == 2**20} == {case[0] for case in bounded}


def test_bad_bounds():
    mlp, x = network((6, 9, 5))
    with pytest.raises(ValueError, match=r"max_bytes=10 bytes is too little for forward mode on this network; it needs at least \d+"):
        jac.jacobian(mlp, x, method="forward:eager", max_bytes=10)
    for bound in (0, -1, 1.5, True, np.float64(5)):
        with pytest.raises(ValueError, match="max_bytes must be a positive number of bytes"):
            jac.jacobian(mlp, x, max_bytes=bound)
    with pytest.raises(ValueError, match="max_bytes bounds the memory of a dense J"):
        jac.jacobian(mlp, x, max_bytes=10**9, factored=True)
    torch.testing.assert_close(jac.jacobian(mlp, x, max_bytes=np.int64(10**9)), jac.jacobian(mlp, x))
    with pytest.raises(ValueError, match="max_bytes=100 bytes is too little for the kernels in C to differentiate"):
        jac.jacobian(mlp, x, max_bytes=100, create_graph=True)
    with pytest.raises(ValueError, match="the graph of any other method holds every piece"):
        jac.jacobian(mlp, x, method="reverse:eager", max_bytes=10**9, create_graph=True)
    with pytest.raises(ValueError, match=r"'reverse:torch\.func' cannot keep to max_bytes"):
        jac.jacobian(mlp, x, method="reverse:torch.func", max_bytes=10**9)


@pytest.mark.parametrize("loss", ["mse", "l1(reduction=sum, scale=0.5)", "cross_entropy"])
@pytest.mark.parametrize("batch", [None, 1, 100])
@pytest.mark.needs_compiler
def test_any_bound_gives_the_same_gradient(batch, loss):
    mlp, x = network((6, 9, 9, 5), batch=batch, bias=True)
    rule = loss_of(loss)
    target = torch.zeros(x.shape[:-1], dtype=torch.int64) if rule.classes else torch.ones(*x.shape[:-1], 5, dtype=x.dtype)
    exact = jac.gradient(mlp, x, target, rule, inputs=True)
    for method, bound in (("auto", 10**6), ("auto", LIBRARY_BYTES + 10_000), ("reverse", LIBRARY_BYTES + 10_000), ("reverse", 10**9)):
        g = jac.gradient(mlp, x, target, rule, method, inputs=True, max_bytes=bound)
        torch.testing.assert_close((g.loss, g.x, *g.parameters()), (exact.loss, exact.x, *exact.parameters()))


def test_bad_bounds_of_a_gradient():
    mlp, x = network((6, 9, 5), batch=4)
    target = torch.ones(4, 5, dtype=x.dtype)
    with pytest.raises(ValueError, match=r"max_bytes=10 bytes is too little for a gradient of this network; it needs at least \d+"):
        jac.gradient(mlp, x, target, max_bytes=10)
    with pytest.raises(ValueError, match="max_bytes must be a positive number of bytes"):
        jac.gradient(mlp, x, target, max_bytes=1.5)
    with pytest.raises(ValueError, match="max_bytes cannot bound a gradient that is differentiated again"):
        jac.gradient(mlp, x, target, max_bytes=10**9, create_graph=True)
    with pytest.raises(ValueError, match=r"'reverse:torch\.func' cannot keep to max_bytes"):
        jac.gradient(mlp, x, target, method="reverse:torch.func", max_bytes=10**9)
    with pytest.raises(ValueError, match="max_bytes bounds the gradient of one loss"):
        jac.gradient(mlp, x, target, jac.Loss("mse", "none"), max_bytes=10**9)


def test_the_word_of_earlier_versions_names_its_successor():
    mlp, x = network((3, 4, 2), batch=2)
    for call in (lambda **options: jac.jacobian(mlp, x, **options), lambda **options: jac.gradient(mlp, x, mlp(x), **options)):
        with pytest.raises(TypeError, match=r"'chunk' is 'max_bytes' since 0\.2\.0"):
            call(chunk=2**20)
        with pytest.raises(TypeError, match="unexpected keyword 'maximum'"):
            call(maximum=2**20)

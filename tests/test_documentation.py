"""What the documentation says is what the project does."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest

import bench
import jacobians
from benchmarks.records import csv_file
from benchmarks.run.environment import ROOT
from benchmarks.workloads import cases
from studies import isometry, pinn
from tools import docs, exercises

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), ROOT / "results" / "README.md"]


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.long
@pytest.mark.needs_compiler
def test_the_results_table_is_the_committed_results():
    for path, written in ((ROOT / "README.md", docs.first_page()), (ROOT / "docs" / "results.md", docs.text())):
        assert path.read_text(encoding="utf-8").split(docs.START)[1].split(docs.END)[0].strip() == written


def test_the_exercises_are_the_published_and_committed_tables():
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    assert page.split(exercises.START)[1].split(exercises.END)[0].strip() == exercises.text()
    assert exercises.quoted(page) == page


def test_the_worked_example_is_met():
    assert exercises.by_hand() == (22, 22)


def test_the_first_page_is_one_page():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 90
    assert max(map(len, lines)) <= 120
    assert len(" ".join(lines).split()) <= 900


@pytest.mark.long
def test_the_names_that_are_suggested_are_those_that_there_are():
    script = "from tools import docs; from benchmarks.workloads import names; assert names.KNOWN.read_text() == docs.known_names()"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)  # apart from what other tests register


@pytest.mark.long
@pytest.mark.needs("pdoc")
def test_the_reference_shows_every_public_name(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pdoc", "--docformat", "google", "--no-search", "--output-directory", tmp_path, "jacobians"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    page = (tmp_path / "jacobians.html").read_text(encoding="utf-8")
    assert [name for name in jacobians.__all__ if f'id="{name}"' not in page] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_the_library_lines_of_the_readme_run(capsys):
    (code,) = blocks(ROOT / "README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    assert "forward:torch.func" in capsys.readouterr().out


def commands():
    """Every command of the documentation, in its order, once."""
    found = [
        line for path in DOCUMENTS for line in re.findall(r"^    python bench.py ([^#\n]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    return list(dict.fromkeys(line.strip() for line in found))


LEFT_OUT = ["*:jax", "*:autograd-*", "*:torch.*", "mixed:*", "*:notebook*", "*:sum-trick", "reverse:eager"]
TINY = "\n".join(
    f'[{name}]\ntitle = "Tiny"\nseconds = 0.02\nexclude = {json.dumps(LEFT_OUT)}\ngrid = [{{ L = 1, D = 2, K = 3, P = 2 }}]\n'
    for name in ("quick", "depth", "width", "notebook", "batch", "mine")
)

TINY_STUDIES = [
    (isometry, "WIDTH", 30),
    (isometry, "DEPTHS", (1, 2, 10)),
    (pinn, "WIDTHS", (2, 8, 1)),
    (pinn, "POINTS", 40),
    (pinn, "EDGE", 16),
    (pinn, "TIMED_BLOCKS", 3),
    (pinn, "PAUSE_S", 0.0),
]


@pytest.mark.long
def test_every_command_runs(tmp_path, monkeypatch, capsys, forked_workers):
    """In an empty folder, one after the other, as a reader would; only the sweeps and studies are tiny ones of the same names."""
    lines = commands()
    assert len(lines) >= 12
    assert {"recommend", "list", "run", "plot", "report", "compare", "regret"} <= {line.split()[0] for line in lines}
    (tmp_path / "mine.toml").write_text(TINY)
    shutil.copytree(ROOT / "results", tmp_path / "results")
    monkeypatch.setattr(cases, "SWEEPS_FILE", tmp_path / "mine.toml")
    monkeypatch.setattr(csv_file, "RESULTS", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    for part, name, value in TINY_STUDIES:
        monkeypatch.setattr(part, name, value)
    for line in lines:
        if line.startswith(("check ", "study all")):
            continue  # tests/test_cli.py runs the one, tests/studies each part of the other
        monkeypatch.setattr(sys, "argv", ["bench.py", *shlex.split(line)])
        assert bench.main() == 0, (line, capsys.readouterr().err)
    assert (tmp_path / "build" / "mine" / "report.html").stat().st_size > 50_000


def test_the_mathematics_can_be_followed():
    import doctest

    failed, tried = doctest.testfile(str(ROOT / "docs" / "maths.md"), module_relative=False)
    assert (failed, tried >= 6) == (0, True)


@pytest.mark.long
def test_adding_a_method_works_as_written(tmp_path):
    code = next(block for block in blocks(ROOT / "docs" / "adding.md", "python") if "reverse:einsum" in block)
    (tmp_path / "einsum_method.py").write_text(code, encoding="utf-8")
    check = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch, jacobians as jac, einsum_method\n"
        "mlp, x = jac.MLP.random(L=3, D=4, K=5, P=6, bias=True), torch.randn(7, 4)\n"
        "torch.testing.assert_close(jac.jacobian(mlp, x, 'reverse:einsum'), jac.jacobian(mlp, x, 'reverse'))\n"
        "assert 'only batches' in jac.find_method('reverse:einsum').unsupported(jac.Problem(widths=(2, 3)))\n"
    )
    subprocess.run([sys.executable, "-c", check, str(tmp_path)], cwd=ROOT, check=True)


@pytest.mark.long
def test_adding_a_quantity_works_as_written(tmp_path):
    code = next(block for block in blocks(ROOT / "docs" / "adding.md", "python") if "register_quantity" in block)
    (tmp_path / "square_quantity.py").write_text(code, encoding="utf-8")
    sweep = '[mine]\ntitle = "Mine"\nquantity = "square"\ngrid = [{ widths = [3, 4, 2], N = 5 }]\n'
    (tmp_path / "mine.toml").write_text(sweep, encoding="utf-8")
    check = (
        "import sys; sys.path[:0] = [sys.argv[1], '.']\n"
        "import torch, pathlib, jacobians as jac, square_quantity\n"
        "from benchmarks.measure import oracle\nfrom benchmarks.workloads.cases import expand, load_sweeps\n"
        "(case,) = expand(load_sweeps(pathlib.Path(sys.argv[1], 'mine.toml'))['mine'], ['cpu'])\n"
        "ref = oracle.reference(case.problem, 'xavier', 0)\n"
        "plan = jac.plan(ref.mlp, ref.x, quantity='square')\n"
        "assert plan.method == case.method == 'square/direct:eager'\n"
        "assert oracle.judge(plan(ref.x), ref).reason is None\n"
    )
    subprocess.run([sys.executable, "-c", check, str(tmp_path)], cwd=ROOT, check=True)


@pytest.mark.long
def test_adding_a_figure_works_as_written(tmp_path):
    code = next(block for block in blocks(ROOT / "docs" / "adding.md", "python") if "CountChart" in block)
    (tmp_path / "counts_figure.py").write_text(code, encoding="utf-8")
    check = (
        "import sys; sys.path[:0] = [sys.argv[1], '.']\n"
        "import counts_figure\nfrom pathlib import Path\nfrom plots import figures\nfrom plots.chart import ResultFile, exhibits\n"
        "from tests.benchmarks.rows import RATES, row\n"
        "found = exhibits([ResultFile(Path('quick.csv'), [row()], {'cpu': RATES})])\n"
        "chart = next(e.chart for e in found if e.section == 'Rows')\n"
        "assert chart.title == '1 rows' and b'<title>' in figures.render(chart, 'svg')\n"
    )
    subprocess.run([sys.executable, "-c", check, str(tmp_path)], cwd=ROOT, check=True)


@pytest.mark.needs_compiler
@pytest.mark.parametrize(("page", "says"), [("tutorial.md", "predicted"), ("networks.md", "step by step in torch")])
def test_pages_run(page, says, capsys):
    names = {}
    for code in blocks(ROOT / "docs" / page, "python"):
        exec(compile(code, page, "exec"), names)
    assert says in capsys.readouterr().out


def test_adding_a_sweep_works_as_written(tmp_path):
    (toml,) = blocks(ROOT / "docs" / "adding.md", "toml")
    (tmp_path / "mine.toml").write_text(toml, encoding="utf-8")
    assert len(cases.expand(cases.load_sweeps(tmp_path / "mine.toml")["mine"], ["cpu"], ["reverse:eager"])) == 4

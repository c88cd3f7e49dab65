"""What the documentation says is what the project does."""

import re
import subprocess
import sys

import pytest

from benchmarks import readme
from benchmarks.environment import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), ROOT / "results" / "README.md"]


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def test_the_results_table_is_the_committed_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.split(readme.START)[1].split(readme.END)[0].strip() == readme.text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_the_library_lines_of_the_readme_run(capsys):
    (code,) = blocks(ROOT / "README.md", "python")
    exec(compile(code, "README.md", "exec"), {})
    assert "forward:torch.func" in capsys.readouterr().out


def test_the_commands_of_the_readme_parse(tmp_path):
    commands = re.findall(r"^    python bench.py ([^#\n]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) >= 9
    for command in commands:
        name = command.split()[0]
        done = subprocess.run([sys.executable, "bench.py", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
        for option in re.findall(r"(--[a-z-]+)", command):
            assert option in done.stdout, command


def test_the_mathematics_can_be_followed():
    import doctest

    failed, tried = doctest.testfile(str(ROOT / "docs" / "maths.md"), module_relative=False)
    assert (failed, tried >= 6) == (0, True)


def test_adding_a_method_works_as_written(tmp_path):
    (code,) = blocks(ROOT / "docs" / "adding-a-method.md", "python")
    (tmp_path / "einsum_method.py").write_text(code, encoding="utf-8")
    check = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch, jacobians as jac, einsum_method\n"
        "mlp, x = jac.MLP.random(L=3, D=4, K=5, P=6, bias=True), torch.randn(7, 4)\n"
        "torch.testing.assert_close(jac.jacobian(mlp, x, 'reverse:einsum'), jac.jacobian(mlp, x, 'reverse'))\n"
        "assert 'only batches' in jac.find_method('reverse:einsum').unsupported(jac.Problem(widths=(2, 3)))\n"
    )
    subprocess.run([sys.executable, "-c", check, str(tmp_path)], cwd=ROOT, check=True)

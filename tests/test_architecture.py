"""Data flows one way: jacobians <- benchmarks <- plots <- bench.py. And the project speaks of itself alone."""

import ast
import subprocess
import sys

import pytest

from benchmarks.run.environment import ROOT

MAY_IMPORT = {
    "jacobians": {"jacobians"},
    "benchmarks": {"jacobians", "benchmarks"},
    "studies": {"jacobians", "studies"},
    "plots": {"jacobians", "benchmarks", "studies", "plots"},
    "tools": {"jacobians", "benchmarks", "studies", "plots", "tools"},
}
OURS = {"jacobians", "benchmarks", "studies", "plots", "tools", "bench", "tests", "conftest"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_lies_below(room):
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        assert set(imports(path)) & OURS <= MAY_IMPORT[room], path


def test_numerics_know_no_clocks_files_or_figures():
    """But for the compiler of the kernels, the measured times of the machine, and what works on files and clusters."""
    library = ROOT / "jacobians"
    allowed = {
        library / "kernels/native/compiler.py",
        library / "planning/machine.py",
        library / "__main__.py",
        *(library / "store").glob("*.py"),
    }
    for path in {*library.rglob("*.py")} - allowed:
        assert not set(imports(path)) & {"time", "pathlib", "csv", "json", "matplotlib", "subprocess"}, path


def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_no_absolute_paths_of_a_machine():
    signs = ["/" + name + "/" for name in ("work", "root", "home")]
    for path in tracked():
        if path.suffix in {".py", ".md", ".toml", ".csv", ".json", ".yml", ".yaml", ".txt"} or path.name == "Makefile":
            text = path.read_text(encoding="utf-8")
            assert not [sign for sign in signs if sign in text], path


def test_the_wheel_holds_the_library_alone_and_that_needs_torch_and_numpy():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["jacobians"]
    assert [name.split(">")[0] for name in project["project"]["dependencies"]] == ["torch", "numpy"]
    outside = {name for path in (ROOT / "jacobians").rglob("*.py") for name in imports(path)} - set(sys.stdlib_module_names)
    imported_where_called = {
        "jax",
        "backpack",
        "curvlinops",
        "opacus",
        "folx",
        "triton",
        "zarr",
        "submitit",
    }  # peers, a GPU, the disk, a cluster
    assert outside <= {"jacobians", "torch", "numpy"} | imported_where_called

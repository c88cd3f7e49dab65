"""The first call of a new user: torch answers while the kernels are compiled by another process, by a compiler that waits for a file."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from jacobians.kernels.native import compiler, runner

pytestmark = pytest.mark.skipif(not runner.available(), reason="no C compiler")
ROOT = Path(__file__).parents[2]

# Waits until it may go on, and then gives out the library that was compiled for this machine before.
COMPILER = """#!/bin/sh
echo started >> {there}/started
until [ -e {there}/go ]; do sleep 0.02; done
[ -e {there}/fail ] && {{ printf 'no such processor: \\351\\n' >&2; exit 1; }}
while [ "$1" != -o ]; do shift; done
{python} -c "import shutil, sys; shutil.copy(*sys.argv[1:])" {library} "$2"
"""
BEGIN = """
import logging, pathlib, sys, threading, time
import torch, jacobians as jac
from jacobians.kernels.native import compiler
logging.basicConfig(level="WARNING", format="%(message)s", stream=sys.stdout)
there = pathlib.Path(sys.argv[1])
mlp, x = jac.MLP.random(L=3, D=4, K=8, P=2), torch.ones(5, 4)
def until(happened):
    while not happened(): time.sleep(0.02)
"""


@pytest.fixture
def session(tmp_path):
    """Run lines of Python as a user with an empty cache, whose compiler is held until the file `go` is there."""
    fake = tmp_path / os.fsdecode(b"cc-\xe9")  # neither its name nor what it says is UTF-8
    fake.write_text(COMPILER.format(python=sys.executable, there=tmp_path, library=compiler.library()._name))
    fake.chmod(0o700)
    environment = {**os.environ, "CC": str(fake), "JACOBIANS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}

    def run(lines, **more):
        command = [sys.executable, "-c", BEGIN + textwrap.dedent(lines), str(tmp_path)]
        return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, check=True, timeout=600).stdout

    yield run
    (tmp_path / "go").touch()  # whoever still waits


def files(tmp_path):
    return sorted(path.suffix or "directory" for path in (tmp_path / "cache").iterdir())


def until_compiled(session):
    """Wait for what an earlier process left running, as a call by name does."""
    return session("print(jac.plan(mlp, x, 'reverse:native').method)")


def test_torch_answers_until_the_kernels_are_there_and_who_asks_for_them_by_name_waits(session, tmp_path):
    said = session("""
        first, plan = jac.jacobian(mlp, x), jac.plan(mlp, x)
        print(plan.method, "being compiled" in plan.explain())
        jac.jacobian(mlp, x), jac.value_and_jacobian(mlp, x), jac.jacobian_loss(mlp, x), jac.laplacian(mlp, x)
        until((there / "started").exists)
        other, wanted = jac.MLP.random(L=3, D=4, K=9, P=2), []
        ask = (lambda: jac.plan(other, x, "reverse:native"), lambda: jac.plan(other, x, effort="measure"))
        threads = [threading.Thread(target=lambda f=f: wanted.append(f().method)) for f in ask]
        for thread in threads: thread.start()
        print("by name:", wanted, "auto:", jac.jacobian(mlp, x).shape)
        (there / "go").touch()
        for thread in threads: thread.join()
        until(compiler.ready)
        assert torch.allclose(plan(x), first, atol=1e-6), "the plan goes over to the kernel"
        assert torch.allclose(jac.jacobian(mlp, x), first, atol=1e-6)
        print(plan.method, [kept.method for kept in mlp._plans.values()][0], "being compiled" in plan.explain())
        print(sorted(name.partition(":")[2] for name in wanted))
    """)
    lines = [line for line in said.splitlines() if not line.startswith("waiting for the kernels")]
    notice, before, meanwhile, behind, wanted = lines
    assert "in the background" in notice
    assert before.endswith(":eager True")
    assert meanwhile == "by name: [] auto: torch.Size([5, 2, 4])"
    planned, kept, again = behind.split()
    assert planned.endswith(":native")
    assert kept.endswith(":native")
    assert again == "False"
    assert wanted in {"['native', 'native']", "['eager', 'native']"}
    assert (tmp_path / "started").read_text().count("started") == 3, "two parts and the linker: compiled once"


@pytest.mark.long
def test_a_process_that_ends_first_leaves_a_compiler_that_finishes(session, tmp_path):
    session("jac.jacobian(mlp, x); until((there / 'started').exists)")
    assert ".so" not in files(tmp_path)
    session("jac.jacobian(mlp, x)")  # its own process waits for the first
    (tmp_path / "go").touch()
    until_compiled(session)
    said = session("until(compiler.ready); print(jac.plan(mlp, x).method)")
    assert said.strip().endswith(":native")
    assert [kind for kind in files(tmp_path) if kind != "directory"] == [".lock", ".sha256", ".so"]


@pytest.mark.long
def test_a_private_directory_goes_with_the_process(session, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    said = session("jac.jacobian(mlp, x); until((there / 'started').exists)", TMPDIR=str(temporary))
    assert said.count("the cache directory cannot be used") == 1
    assert not list(temporary.glob("jacobians-*"))


def test_a_compiler_that_fails_is_said_and_torch_goes_on(session, tmp_path):
    (tmp_path / "go").touch()
    (tmp_path / "fail").touch()
    said = session("""
        plan = jac.plan(mlp, x)
        until(compiler.ready)
        plan(x)
        print(plan.method, plan.choice.provisional)
        try: jac.plan(mlp, x, "reverse:native")
        except ValueError as error: print(error)
    """)
    assert said.count("the kernels could not be compiled, so torch computes") == 1
    assert ":eager False" in said
    assert r"cc-\udce9 refused our C source: no such processor: \xe9" in said.splitlines()[-1]
    assert files(tmp_path) == [".lock"]


@pytest.mark.long
def test_a_forked_process_starts_over(session, tmp_path):
    said = session("""
        import os
        plan = jac.plan(mlp, x)
        until((there / "started").exists)
        child = os.fork()
        if not child:
            ok = plan(x).shape == (5, 2, 4) and plan.method.endswith(":eager")
            (there / "go").touch()
            until(compiler.ready)
            plan(x)
            os._exit(0 if ok and plan.method.endswith(":native") else 1)
        print("child", os.waitpid(child, 0)[1])
    """)
    assert said.splitlines()[-1] == "child 0"

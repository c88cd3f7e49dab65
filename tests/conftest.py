"""What the tests of several packages share."""

import gc
import sys
from importlib.util import find_spec

import pytest

import bench
from jacobians.kernels.native import compiler

EXTRAS = ("jax", "zarr", "sklearn", "mlxtend", "backpack", "opacus", "curvlinops", "folx", "pdoc")
MISSING = [name for name in EXTRAS if find_spec(name) is None]
COMPILING = (":jax", ":folx", ":torch.compile")  # libraries whose compiler runs again for each shape and type
TWICE = ("float32", "every_activation[forward")  # of these libraries: each row that is measured is judged in its own type


def pytest_collection_modifyitems(config, items):
    """Leave what a library's compiler makes slow to `make test-long`; without a C compiler, skip what is about the kernels."""
    twice = [item for item in items if any(name in item.name for name in COMPILING) and any(part in item.name for part in TWICE)]
    config.hook.pytest_deselected(items=twice)
    left_out = set(map(id, twice))
    items[:] = [item for item in items if id(item) not in left_out]
    bare = compiler.compiler() is None
    for item in items:
        wanted = item.get_closest_marker("needs")
        if any(name in MISSING for name in (wanted.args if wanted else ())) or ("zarr" in MISSING and "outofcore.py" in item.nodeid):
            item.add_marker(pytest.mark.skip(reason="an optional package is not installed"))
        if bare and item.get_closest_marker("needs_compiler"):
            item.add_marker(pytest.mark.skip(reason="no C compiler"))
        if any(library in item.name for library in COMPILING):
            item.add_marker(pytest.mark.long)


def pytest_collection_finish():
    """Let the garbage collector pass over what stays: the modules of the libraries, and the tests by the thousand."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Skip what asks for the kernels by name where no compiler is found, and for a package that is not installed."""
    try:
        return (yield)
    except (ValueError, ModuleNotFoundError, compiler.CompilerError) as error:
        if MISSING and ("not installed" in str(error) or getattr(error, "name", None) in MISSING):
            pytest.skip(str(error).splitlines()[0])
        if "needs a C compiler and found none" in str(error) and compiler.compiler() is None:
            pytest.skip("no C compiler")
        raise


@pytest.fixture(scope="session", autouse=True)
def compiled():
    """Wait for the kernels: `auto` would take torch while they are compiled."""
    from jacobians.kernels.native import runner

    runner.available()


@pytest.fixture
def absent():
    """A kind of device that torch finds none of here."""
    from benchmarks.run.environment import available_devices

    return next(device for device in ("cuda", "mps", "xpu") if device not in available_devices())


@pytest.fixture
def set_threads():
    """Set how many threads torch uses; behind the test there are as many as before."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def forked_workers(monkeypatch):
    """Let runs in this process fork their workers: seconds of imports each are spared, nothing else changes."""
    from benchmarks.run import worker
    from tests import forked

    monkeypatch.setattr(worker, "subprocess", forked.stand_in())


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command line here, which saves the start of a process; what it printed is returned."""
    from benchmarks.measure import conditions

    monkeypatch.setattr(conditions, "load_before", lambda: None)  # whatever else runs here

    def run(*arguments, status=0):
        monkeypatch.setattr(sys, "argv", ["bench.py", *map(str, arguments)])
        found = bench.main()
        printed = capsys.readouterr()
        assert found == status, printed.err
        return printed

    return run

"""What the fault tests share."""

import signal

import pytest

from benchmarks.run import supervisor
from benchmarks.run.worker import Settings
from benchmarks.workloads.cases import load_sweeps

TOML = """
[tiny]
title = "One small problem"
seconds = 0.05
grid = [{ L = 2, D = 3, K = 5, P = 4 }]

[slow]
title = "Several small problems"
seconds = 0.1
grid = [{ L = [1, 2, 3, 4], D = 3, K = 5, P = 4 }]

[pair]
title = "Two small problems"
seconds = 0.1
grid = [{ L = [1, 2], D = 3, K = 5, P = 4 }]

[huge]
title = "A Jacobian that no memory holds"
seconds = 0.05
grid = [{ L = 0, D = 4_000_000, K = 1, P = 4_000_000 }, { L = 0, D = 2, K = 1, P = 2 }]
"""


@pytest.fixture(autouse=True)
def interruptible():
    """Undo what a shell does to its background jobs: they ignore Ctrl-C, and so would the runs that we start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def sweeps_file(tmp_path):
    """A file of small sweeps."""
    path = tmp_path / "sweeps.toml"
    path.write_text(TOML)
    return path


@pytest.fixture
def faulty(monkeypatch, tmp_path):
    """Register the faulty methods here and in the workers."""
    from tests.faults import faulty

    monkeypatch.setenv("PYTEST_PLUGINS", "tests.faults.faulty")
    monkeypatch.setenv("FAULTY_HANG", str(tmp_path / "hangs"))
    faulty.register_all()
    yield faulty
    faulty.unregister_all()


@pytest.fixture
def run(run_alone, forked_workers):
    """Run a sweep of that file with forked workers."""
    return run_alone


@pytest.fixture
def run_alone(sweeps_file):
    """Run a sweep of that file with workers that are started as a user's are."""

    def run_sweep(out, *methods, sweep="tiny", **settings):
        made = Settings(devices=settings.pop("devices", ("cpu",)), methods=methods, sweeps_file=sweeps_file, **settings)
        return supervisor.run(load_sweeps(sweeps_file)[sweep], out, made)

    return run_sweep

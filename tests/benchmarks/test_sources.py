"""A row knows the code that computed and judged it: comments and docstrings are none, everything that computes is."""

import importlib
import sys

import pytest

from benchmarks.run import sources
from jacobians.planning.registry import find_method, register, unregister


@pytest.fixture
def hashes_of(monkeypatch):
    """The hashes of a method, of a changed file where one is named."""
    read = sources._text

    def hashes(name, of="no such file", change=None):
        for cache in (sources.sources_of, sources._parsed, sources._file):
            cache.cache_clear()
        monkeypatch.setattr(sources, "_text", lambda path: change(read(path)) if path.as_posix().endswith(of) else read(path))
        return sources.sources_of(find_method(name)).split("-")

    yield hashes
    for cache in (sources.sources_of, sources._parsed, sources._file):
        cache.cache_clear()


@pytest.mark.parametrize(
    ("name", "of", "change", "differ"),
    [
        ("reverse:eager", "modes/reverse.py", lambda text: text + "\n# a comment\n", (False, False)),
        ("reverse:eager", "modes/reverse.py", lambda text: text.replace('"""', '"""More. ', 1), (False, False)),
        ("reverse:eager", "modes/reverse.py", lambda text: text + "\nx = 1\n", (True, False)),
        ("reverse:eager", "network/activations.py", lambda text: text + "\nx = 1\n", (True, True)),
        ("reverse:eager", "peers/jax.py", lambda text: text + "\nx = 1\n", (False, False)),
        ("reverse:eager", "measure/oracle.py", lambda text: text + "\nx = 1\n", (False, True)),
        ("reverse:native", "csrc/native.c", lambda text: text + "\nint more;\n", (True, False)),
        ("reverse:native", "csrc/native.c", lambda text: text + "\n/* more */\n", (False, False)),
        ("reverse:eager", "csrc/native.c", lambda text: text + "\nint more;\n", (False, False)),
        ("laplacian/nested:jax", "second_order/jax.py", lambda text: text + "\nx = 1\n", (True, False)),
    ],
)
def test_what_counts(hashes_of, name, of, change, differ):
    assert tuple(a != b for a, b in zip(hashes_of(name), hashes_of(name, of, change), strict=True)) == differ


@pytest.mark.parametrize("place", [".", "site-packages"])
@pytest.mark.parametrize(
    ("of", "change", "differs"),
    [
        ("somebodys/__init__.py", lambda text: text + "\nx = 1\n", True),
        ("somebodys/__init__.py", lambda text: text + "\n# a comment\n", False),
        ("somebodys/deep/helper.py", lambda text: text + "\nx = 1\n", True),
        ("somebodys/more.py", lambda text: text + "\nx = 1\n", True),
        ("somebodys/unused.py", lambda text: text + "\nx = 1\n", False),
        ("modes/reverse.py", lambda text: text + "\nx = 1\n", True),
        ("modes/forward.py", lambda text: text + "\nx = 1\n", False),
    ],
)
def test_what_counts_of_a_method_of_somebody_else(hashes_of, tmp_path, monkeypatch, place, of, change, differs):
    """In a package of its own, of which it imports some, and which may be installed."""
    package = tmp_path / place / "somebodys"
    (package / "deep").mkdir(parents=True)
    for name, text in {
        "__init__.py": "import torch\nfrom .deep import helper\nfrom jacobians.modes.reverse import reverse\n\n"
        "def prepare(mlp, problem, request):\n    return None\n",
        "deep/__init__.py": "",
        "deep/helper.py": "from ..more import x\n",
        "more.py": "x = 0\n",
        "unused.py": "",
    }.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(package.parent)
    register("reverse:somebody-s")(importlib.import_module("somebodys").prepare)
    try:
        (before, oracle), (after, same) = hashes_of("reverse:somebody-s"), hashes_of("reverse:somebody-s", of, change)
    finally:
        unregister("reverse:somebody-s")
        for name in [name for name in sys.modules if name.startswith("somebodys")]:
            del sys.modules[name]
    assert (before != after) == differs
    assert oracle == same


def test_a_method_of_somebody_else_has_a_hash_of_its_own():
    register("reverse:somebody-s")(lambda mlp, problem, request: None)
    try:
        assert sources.sources_of(find_method("reverse:somebody-s")) != sources.sources_of(find_method("reverse:eager"))
    finally:
        unregister("reverse:somebody-s")

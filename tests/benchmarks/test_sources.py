"""A row knows the code that computed and judged it: comments and docstrings are none, everything that computes is."""

import pytest

from benchmarks.run import sources
from jacobians.planning.registry import find_method, register, unregister


@pytest.fixture
def hashes_of(monkeypatch):
    """The hashes of a method, of a changed file where one is named."""
    read = sources._text

    def hashes(name, of="no such file", change=None):
        for cache in (sources.sources_of, sources._parsed):
            cache.cache_clear()
        monkeypatch.setattr(sources, "_text", lambda path: change(read(path)) if path.as_posix().endswith(of) else read(path))
        return sources.sources_of(find_method(name)).split("-")

    yield hashes
    for cache in (sources.sources_of, sources._parsed):
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


def test_a_method_of_somebody_else_has_a_hash_of_its_own():
    register("reverse:somebody-s")(lambda mlp, problem, request: None)
    try:
        assert sources.sources_of(find_method("reverse:somebody-s")) != sources.sources_of(find_method("reverse:eager"))
    finally:
        unregister("reverse:somebody-s")

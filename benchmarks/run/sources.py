"""A hash of what computes a row and of what judges it, so that rows of other code are known as such."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jacobians.planning.registry import Method, find_quantity

ORACLE = "benchmarks.measure.oracle"
NATIVE = "jacobians.kernels.native"


@functools.lru_cache(maxsize=512)
def sources_of(method: Method) -> str:
    """Return two hashes, of the method and of its oracle: of the syntax without comments and docstrings, and of the C sources.

    Hashed are the modules of a method's functions, and what these import inside `jacobians` and inside the package of whoever wrote the
    method; names of packages are not followed.
    """
    exact = find_quantity(method.quantity).exact
    return f"{_hash(list(_modules(method.prepare)))}-{_hash(list(_modules(exact)), alone=ORACLE)}"


def _modules(function: Callable[..., Any], seen: set[int] | None = None) -> Iterator[str]:
    """Yield the modules of a function and of those that it holds, as what a function that makes methods was given."""
    seen = set() if seen is None else seen
    if id(function) in seen or not callable(function):
        return
    seen.add(id(function))
    if isinstance(function, functools.partial):
        held: list[Any] = [function.func, *function.args, *function.keywords.values()]
    else:
        held = []
        for cell in getattr(function, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # a name that has no value yet
                held.append(cell.cell_contents)
        if str(getattr(function, "__module__", "")) in sys.modules:
            yield function.__module__
    for one in held:
        yield from _modules(one, seen)


def _hash(modules: list[str], alone: str | None = None) -> str:
    """Hash modules and what they import, and one by itself: what judges plans imports all that plans."""
    todo, texts = [*modules], {}
    ours = {"jacobians", *(name.split(".")[0] for name in modules[:1])}
    if alone and (path := _file(alone)):
        texts[alone] = _parsed(path, alone)[0]
    while todo:
        name = todo.pop()
        path = _file(name, own=name in modules[:1], installed=name.split(".")[0] in ours)
        if name not in texts and path is not None:
            texts[name], imported = _parsed(path, name)
            todo += [one for one in imported if one not in texts and one.split(".")[0] in ours and _exists(one)]
    digest = hashlib.sha256()
    for name in sorted(texts):
        digest.update(f"{name}\n{texts[name]}\n".encode())
    if any(name.startswith(NATIVE) for name in texts):
        for path in sorted((Path(__file__).resolve().parents[2] / "jacobians/kernels/native/csrc").iterdir()):
            digest.update(without_comments(_text(path)).encode())
    return digest.hexdigest()[:12]


@functools.lru_cache(maxsize=512)
def _file(module: str, own: bool = False, installed: bool = False) -> Path | None:
    """Find the file of a module; of no package but the method's own, of nothing that was typed in or compiled, of no installed library."""
    if module in sys.modules:
        name = getattr(sys.modules[module], "__file__", None)
    else:
        found = importlib.util.find_spec(module)
        name = found.origin if found else None
    path = Path(name or "")
    library = module.split(".")[0] in sys.stdlib_module_names or ("site-packages" in path.parts and not installed)
    return path if path.suffix == ".py" and (own or path.name != "__init__.py") and not library else None


@functools.lru_cache(maxsize=512)
def _parsed(path: Path, module: str) -> tuple[str, tuple[str, ...]]:
    return _syntax(_text(path), module, path.name == "__init__.py")


@functools.lru_cache(maxsize=512)
def _syntax(text: str, module: str, package: bool) -> tuple[str, tuple[str, ...]]:
    """Return the syntax of a module without its docstrings, and the modules that it may import."""
    tree = ast.parse(text)
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            imported |= {base, *(f"{base}.{one.name}" for one in node.names)}
        elif isinstance(node, ast.Import):
            imported |= {one.name for one in node.names}
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node, clean=False):
            node.body = body[1:] if body else []
    return ast.dump(tree), tuple(sorted(imported))


def _exists(module: str) -> bool:
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a name of a module, not a module
        return False


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_comments(text: str) -> str:
    """Return C without its comments, and with one space for each run of them.

    Example:
        >>> without_comments('x = 1; /* one */\\n\\n  // two\\ny = "// no";')
        'x = 1; y = "// no";'
    """
    kept = re.sub(r'("(?:\\.|[^"\\])*")|/\*.*?\*/|//[^\n]*', lambda found: found[1] or " ", text, flags=re.DOTALL)
    return " ".join(kept.split())

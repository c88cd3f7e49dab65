"""Names and values of the command line, checked without importing torch, so that a typing mistake is answered at once."""

from __future__ import annotations

import difflib
import json
import re
import sys
import tomllib
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
SWEEPS_FILE = ROOT / "benchmarks" / "sweeps.toml"
KNOWN = Path(__file__).with_name("names.json")
ALL = "all"  # studies
SCHEDULERS = ("local", "slurm")
DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")
MODES = ("forward", "reverse", "mixed")


def suggest(what: str, given: str, known: Sequence[str]) -> str:
    """Write what is wrong with an unknown name: what comes close, or everything there is.

    Example:
        >>> print(suggest("sweep", "qick", ["quick", "depth"]))
        unknown sweep 'qick': did you mean 'quick'?
    """
    folded = {name.lower(): name for name in known}
    likeness = {name: difflib.SequenceMatcher(None, given, name).ratio() for name in known}
    best = max(likeness.values(), default=0.0)
    close = [name for name in known if likeness[name] >= max(0.6, best - 0.05)]
    close = [folded[given.lower()]] if given.lower() in folded else close
    if close:
        return f"unknown {what} {given!r}: did you mean {' or '.join(map(repr, close))}?"
    return f"unknown {what} {given!r}; choose from {', '.join(known)}"


def one_of(what: str, given: str, known: Collection[str]) -> str:
    """Return a name that there is, or say which comes close."""
    if given not in known:
        raise BadInput(suggest(what, given, list(known)))
    return given


def split(given: Iterable[str]) -> list[str]:
    """Take lists apart that were typed with commas.

    Example:
        >>> split(["quick,depth", "quick"])
        ['quick', 'depth']
    """
    return list(dict.fromkeys(part.strip() for word in given for part in word.split(",") if part.strip()))


def read_toml(path: Path) -> dict[str, Any]:
    """Read sweeps as they are written."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); expected the sweeps as TOML") from None
    except ValueError as error:  # of TOML, of UTF-8, or of a number with more digits than Python reads
        raise BadInput(f"{path}: not valid TOML ({error})") from None


def sweeps(given: Sequence[str], path: Path = SWEEPS_FILE) -> list[str]:
    """Check the names of sweeps."""
    known = read_toml(path)
    wanted = [one_of("sweep", name, known) for name in split(given)]
    if not wanted:
        raise BadInput(f"no sweep is named; choose from {', '.join(known)}")
    return wanted


def methods(given: Sequence[str]) -> tuple[str, ...]:
    """Check patterns of method names. A bare mode means its readable implementation, as in the library."""
    known = _registered() if "jacobians" in sys.modules else registered("methods")
    patterns = [f"{pattern}:eager" if pattern in MODES else pattern for pattern in split(given)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern) for name in known):
            raise BadInput(suggest("method", pattern, known))
    return tuple(patterns)


def devices(given: str | None) -> list[str]:
    """Check a list of devices, without asking whether they are here."""
    names = [one_of("device", name, DEVICE_TYPES) for name in split([given or ""])]
    if given is not None and not names:
        raise BadInput(f"unknown device {given!r}; choose from {', '.join(DEVICE_TYPES)}")
    return names


def activation(given: str) -> None:
    """Check the name of an activation; its settings are checked later."""
    for one in given.split(";"):
        one_of("activation", one.partition("(")[0], registered("activations"))


def quantity(given: str, otherwise: str = "") -> None:
    """Check the name of a quantity."""
    known = ["jacobian", *dict.fromkeys(name.partition("/")[0] for name in registered("methods") if "/" in name)]
    if given not in known:
        raise BadInput(otherwise or suggest("quantity", given, known))


def loss(given: str) -> None:
    """Check the name of a loss; its settings are checked later."""
    one_of("loss", given.partition("(")[0], registered("losses"))


def widths(given: str) -> tuple[int, ...]:
    """Read widths as people write them.

    Example:
        >>> widths("[784, 50, 10]") == widths("784 50 10") == widths("784-50-10") == (784, 50, 10)
        True
    """
    words = [word for word in re.split(r"[\s,;-]+", given.strip().strip("[]()")) if word]
    if not words or not all(word.isdecimal() and len(word) < 20 for word in words):
        raise BadInput(f"--widths takes whole numbers separated by commas, e.g. 784,50,10; got {given[:60]!r}")
    found = tuple(map(int, words))
    if len(found) < 2 or min(found) < 1:
        raise BadInput(f"a network needs at least an input and an output width, each at least 1; got {given[:60]}")
    return found


def results(given: Sequence[Path]) -> list[Path]:
    """Check result files; a directory stands for the CSVs in it."""
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.glob("*.csv") if not p.name.endswith(".previous.csv"))
            if not inside:
                raise BadInput(f"{path}: no result CSV in this directory; name one that `bench.py run` wrote into")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise BadInput(f"{path}: no such file; see `bench.py list results`")
    return found


def studies(given: Sequence[str]) -> list[str]:
    """Check names of studies; `all` is every one."""
    known = registered("studies")
    for one in given:
        one_of("study", one, [*known, ALL])
    return list(known) if ALL in given else list(given)


def scheduler(given: str | None, others: Sequence[tuple[str, object]], out: Path | None) -> None:
    """Check where a run is to take place."""
    if given is None:
        if wrong := [name for name, value in others if value]:
            raise BadInput(f"{', '.join(wrong)} goes with --on slurm; leave it out, or add --on slurm")
        return
    one_of("scheduler", given, SCHEDULERS)
    if out is None:
        raise BadInput(f"--on {given} needs --out: a directory that all nodes share")


def data_set(given: str | None) -> None:
    """Check the name of a data set."""
    if given is not None:
        one_of("data set", given, registered("data sets"))


def directory(given: Path | None) -> None:
    """Check a directory that is to be read."""
    if given is not None and not given.is_dir():
        raise BadInput(f"{given}: no such directory; name the one that holds the files")


@lru_cache
def registered(kind: str) -> list[str]:
    """Return the names of methods, activations, losses, studies or data sets, without importing torch: `make docs` writes them down."""
    return json.loads(KNOWN.read_text(encoding="utf-8"))[kind]


def _registered() -> list[str]:
    import jacobians

    return [method.name for quantity in jacobians.quantities() for method in jacobians.methods(quantity=quantity.name)]

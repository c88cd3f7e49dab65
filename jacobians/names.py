"""What to say of a name that is not known: what comes close, or everything there is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, given: object, known: Iterable[str]) -> str:
    """Write what is wrong with an unknown name.

    Example:
        >>> unknown("loss", "MSE", ["mse", "l1"]), unknown("loss", "hinge", ["mse", "l1"])
        ("unknown loss 'MSE': did you mean 'mse'?", "unknown loss 'hinge'; choose from mse, l1")
    """
    names, text = list(known), str(given).strip().lower().replace("-", "_")
    likeness = {name: difflib.SequenceMatcher(None, text, name.lower().replace("-", "_")).ratio() for name in names}
    best = max(likeness.values(), default=0.0)
    if best >= 0.7:
        close = [name for name in names if likeness[name] >= best - 0.02][:3]
        return f"unknown {what} {given!r}: did you mean {' or '.join(map(repr, close))}?"
    return f"unknown {what} {given!r}; choose from {', '.join(names)}"


def outdated(given: Iterable[str]) -> str:
    """Write what is wrong with keywords that a function does not have.

    Example:
        >>> outdated({"chunk": 1}), outdated({"chunks": 1})
        ("'chunk' is 'max_bytes' since 0.2.0", "unexpected keyword 'chunks'")
    """
    name = next(iter(given))
    return "'chunk' is 'max_bytes' since 0.2.0" if name == "chunk" else f"unexpected keyword {name!r}"

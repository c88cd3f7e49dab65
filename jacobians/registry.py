"""The registry of methods. A new method is a new file with a decorated `prepare` function; there is no dispatch to edit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from jacobians.problem import Problem

if TYPE_CHECKING:
    from jacobians.mlp import MLP

MODES = ("forward", "reverse", "mixed")


class NotPlain(TypeError):
    """A kernel that reads memory was given a tensor whose numbers do not stand there as they are; torch can compute with it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the caller wants besides J: the value `y` too, or a J that can be differentiated again."""

    value: bool = False
    create_graph: bool = False


def _same(x: Any) -> Any:
    return x


@dataclass(frozen=True, slots=True)
class Computation:
    """A method made ready for one problem.

    Only `run` is the computation, and only `run` is timed. It takes what `convert` made of `x` (the tensor itself, for
    torch methods) and returns `(y or None, J)` in the method's own array type, finished: an asynchronous library has
    been waited for, except for work on a torch device, which the timer synchronises. `restore` makes tensors of them.
    `records` says whether `run` is made of torch operations that autograd would record.
    """

    run: Callable[[Any], tuple[Any, Any]]
    convert: Callable[[Any], Any] = field(default=_same)
    restore: Callable[[Any], Any] = field(default=_same)
    records: bool = True


Prepare = Callable[["MLP", Problem, Request], Computation]


@dataclass(frozen=True, slots=True)
class Method:
    """A way to compute a Jacobian.

    Attributes:
        mode: `"forward"`, `"reverse"` or `"mixed"`.
        implementation: What carries the mode out, e.g. `"eager"` or `"torch.func"`.
        prepare: `(mlp, problem, request) -> Computation`; everything that can be done once.
        hand_written: Ours, as against a peer library or the naive baseline.
        differentiable: Whether it honours `create_graph=True`.
        summary: One line for listings.
        supports: `problem -> None`, or the reason why not.
        runtime: The library whose memory and threads it uses; methods of different runtimes are measured in processes of their own.
        device: The only type of device it is made for; sweeps on others leave it out.
    """

    mode: str
    implementation: str
    prepare: Prepare = field(repr=False)
    hand_written: bool = False
    differentiable: bool = False
    summary: str = ""
    supports: Callable[[Problem], str | None] = field(default=lambda problem: None, repr=False)
    runtime: str = "torch"
    device: str | None = None

    @property
    def name(self) -> str:
        """`mode:implementation`."""
        return f"{self.mode}:{self.implementation}"

    def unsupported(self, problem: Problem, request: Request = Request()) -> str | None:
        """Say why this method cannot serve a problem, before anything runs.

        Args:
            problem: The problem.
            request: What is wanted besides J.

        Returns:
            The reason, or `None` where the method can serve.
        """
        if request.create_graph and not self.differentiable:
            return f"{self.name} does not support create_graph=True"
        return self.supports(problem)


_METHODS: dict[str, Method] = {}


def register(
    name: str,
    *,
    hand_written: bool = False,
    differentiable: bool = False,
    summary: str = "",
    supports: Callable[[Problem], str | None] = lambda problem: None,
    runtime: str = "torch",
    device: str | None = None,
) -> Callable[[Prepare], Prepare]:
    """Register the decorated `prepare` function as the method `name`.

    Args:
        name: `mode:implementation`.
        hand_written: Ours, as against a peer or the naive baseline.
        differentiable: Whether it honours `create_graph=True`.
        summary: One line for listings.
        supports: `problem -> None`, or the reason why not.
        runtime: The library whose memory and threads it uses.
        device: The only type of device it is made for.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: The name is malformed or taken.

    Example:
        >>> @register("reverse:doctest", summary="a toy")
        ... def prepare(mlp, problem, request):
        ...     return Computation(run=lambda x: (None, mlp.weights[0]))
        >>> find_method("reverse:doctest").mode
        'reverse'
        >>> unregister("reverse:doctest")
    """
    mode, colon, implementation = name.partition(":")
    if mode not in MODES or not colon or not implementation:
        raise ValueError(f"a method is named mode:implementation with mode one of {', '.join(MODES)}; got {name!r}")
    if name in _METHODS:
        raise ValueError(f"method {name!r} is already registered; choose another implementation name")

    def decorate(prepare: Prepare) -> Prepare:
        _METHODS[name] = Method(mode, implementation, prepare, hand_written, differentiable, summary, supports, runtime, device)
        return prepare

    return decorate


def unregister(name: str) -> None:
    """Remove a method, e.g. a toy one after a test.

    Args:
        name: Its full name; unknown names are ignored.
    """
    _METHODS.pop(name, None)


def methods(pattern: str = "*") -> tuple[Method, ...]:
    """Return the registered methods in a fixed order: the readable ones, the other hand-written ones, the rest; each by name.

    Args:
        pattern: A glob over names, e.g. `"reverse:*"`.

    Returns:
        The methods whose names match.
    """
    chosen = [method for name, method in _METHODS.items() if fnmatchcase(name, pattern)]
    return tuple(sorted(chosen, key=lambda m: (not m.hand_written, m.implementation != "eager", m.implementation, m.mode)))


def find_method(name: str) -> Method:
    """Return the method called `name`; a bare mode means its readable `eager` implementation.

    Args:
        name: A full name such as `"reverse:torch.func"`, or `"forward"`, `"reverse"`.

    Returns:
        The method.

    Raises:
        TypeError: `name` is not a string.
        ValueError: No method has that name.
    """
    if not isinstance(name, str):
        raise TypeError(f"method must be a name, got {type(name).__name__}; choose 'auto' or one of {', '.join(_METHODS)}")
    found = _METHODS.get(name) or _METHODS.get(f"{name}:eager")
    if found is None:
        bare = [mode for mode in MODES if f"{mode}:eager" in _METHODS]
        choices = ", ".join(["auto", *bare, *(method.name for method in methods())])
        raise ValueError(f"unknown method {name!r}; choose from {choices}")
    return found

"""The registries of quantities and methods. Either is a new file that registers itself; there is no dispatch to edit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from jacobians.names import unknown
from jacobians.problem import Problem

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from jacobians.network.mlp import MLP

JACOBIAN = "jacobian"
MODES = ("forward", "reverse", "mixed")  # of the Jacobian


class Stale(ValueError):
    """The parameters are no longer what a plan was prepared for: another plan is needed."""


class NotPlain(TypeError):
    """A kernel that reads memory was given a tensor whose numbers do not stand there as they are; torch can compute with it."""


class Request(NamedTuple):
    """Options of a computation besides the quantity itself.

    Attributes:
        value: The value `y` beside J.
        create_graph: A J that can be differentiated again.
        inputs: The derivative by x beside those by the parameters.
        trace: The sum over equal outputs of a tangent kernel, instead of all pairs of outputs.
        wrt: The columns of J to compute, where not all.
    """

    value: bool = False
    create_graph: bool = False
    inputs: bool = False
    trace: bool = False
    wrt: tuple[int, ...] = ()

    @property
    def asked(self) -> tuple[str, ...]:
        """The options that are asked for."""
        return tuple(name for name, wanted in zip(self._fields, self, strict=True) if wanted)


ALONE = Request()  # the quantity, and nothing besides


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one computation.

    Attributes:
        flops: Floating-point operations; a multiply-add counts 2, an activation with its slope 2 per neuron.
        bytes: Compulsory traffic: every weight and input read once, the result written once.
    """

    flops: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Quantity:
    """A quantity: its inputs, cost, shape and oracle.

    Attributes:
        name: E.g. `"gradient"`: the first part of its methods' names.
        title: What it is, in a few words.
        modes: Name of each way to compute it to its formula in one line.
        cost: `(problem, mode) -> Cost`.
        exact: `(mlp, problem, inputs) -> tensors`, by autograd, in the dtype of the arguments: the oracle, given float64.
        memory_bytes: `(problem, mode) -> bytes` that any method needs at its peak, at least; `None` for those of the cost.
        draw: `(problem, generator) -> inputs` beyond x, in float64 or as integers.
        takes: Names of the inputs beyond x.
        optional: How many of these, from the last, may be left out.
        fits: `(mlp, problem, inputs)` raises where an input beyond x has not the shape, dtype or device that it must have.
        of_parameters: Whether it is a derivative by the parameters, which batch norms multiplied into the weights would change.
        per_sample: Whether the result has one row a sample, judged by itself; else each tensor is judged as a whole.
        relabelled: Whether the result stays the same where hidden neurons change places.
        loss: Whether it is one of a loss.
        batched: Whether it is one of a batch alone: no single x of shape (D,).
        order: `problem -> ` the order of its derivatives by x.
        axes: How many last axes of each result are those of x, of quantities with one row a sample.
        call: Python lines that compute it, with `{method}`, `{loss}` and `{asked}`, behind lines that make `mlp`, `x` and `target`.
    """

    name: str
    title: str
    modes: dict[str, str]
    cost: Callable[[Problem, str], Cost]
    exact: Callable[[MLP, Problem, tuple[Tensor, ...]], tuple[Tensor, ...]] = field(repr=False)
    memory_bytes: Callable[[Problem, str], int] | None = field(default=None, repr=False)
    draw: Callable[[Problem, torch.Generator], tuple[Tensor, ...]] = field(default=lambda problem, generator: (), repr=False)
    takes: tuple[str, ...] = ()
    optional: int = 0
    fits: Callable[[MLP, Problem, tuple[Tensor, ...]], None] = field(default=lambda mlp, problem, inputs: None, repr=False)
    of_parameters: bool = False
    per_sample: bool = False
    relabelled: bool = False
    loss: bool = False
    batched: bool = False
    order: Callable[[Problem], int] = field(default=lambda problem: 1, repr=False)
    axes: tuple[int, ...] = ()
    call: str = ""


def _same(x: Any) -> Any:
    return x


@dataclass(frozen=True, slots=True)
class Computation:
    """A method made ready for one problem.

    Only `run` is the computation, and only `run` is timed. It takes what `convert` made of `x` (the tensor itself, for
    torch methods; a tuple that begins with x where a quantity has several inputs) and returns `(y or None, J)`, or `(None, the
    tensors of the quantity)`, in the method's own array type, finished: an asynchronous library has been waited for, except for work
    on a torch device, which the timer synchronises. `restore` makes tensors of each of them; both belong to
    `jacobians.planning.conversions`, or their time counts too. `records` says whether `run` is made of
    torch operations that autograd would record. `reset` puts back what `run` changes, where it changes parameters. `holds` says that the
    parameters were taken at the preparation: a plan prepares anew where others stand in their place.
    """

    run: Callable[[Any], tuple[Any, Any]]
    convert: Callable[[Any], Any] = field(default=_same)
    restore: Callable[[Any], Any] = field(default=_same)
    records: bool = True
    reset: Callable[[], None] | None = None
    holds: bool = False


Prepare = Callable[["MLP", Problem, Request], Computation]


@dataclass(frozen=True, slots=True)
class Method:
    """A way to compute a quantity.

    Attributes:
        mode: `"forward"`, `"reverse"` or `"mixed"` for the Jacobian; one of the modes of the quantity otherwise.
        implementation: What carries the mode out, e.g. `"eager"` or `"torch.func"`.
        prepare: `(mlp, problem, request) -> Computation`; everything that can be done once.
        hand_written: Ours, as against a peer library or the naive baseline.
        differentiable: Whether it honours `create_graph=True`.
        summary: One line for listings.
        supports: `problem -> None`, or the reason why not.
        runtime: The library whose memory and threads it uses; methods of different runtimes are measured in processes of their own.
        device: The only type of device it is made for; sweeps on others leave it out.
        options: Other options that it honours: `"inputs"`, `"trace"`, `"wrt"`, `"unreduced"` for the loss of each element, and
            `"steps"` for networks that are no chain.
        ready: `problem -> bool`: whether it answers at once; until then, e.g. while it is being compiled, `auto` takes another.
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
    quantity: str = JACOBIAN
    options: tuple[str, ...] = ()
    ready: Callable[[Problem], bool] = field(default=lambda problem: True, repr=False)

    @property
    def short(self) -> str:
        """`mode:implementation`."""
        return f"{self.mode}:{self.implementation}"

    @property
    def name(self) -> str:
        """`mode:implementation` of the Jacobian, `quantity/mode:implementation` of anything else."""
        return self.short if self.quantity == JACOBIAN else f"{self.quantity}/{self.short}"

    def unsupported(self, problem: Problem, request: Request = ALONE) -> str | None:
        """Say why this method cannot serve a problem, before anything runs.

        Args:
            problem: The problem.
            request: What is wanted besides J.

        Returns:
            The reason, or `None` where the method can serve.
        """
        if problem.structure and "steps" not in self.options:
            return f"{self.name} computes chains of layers, and this network is none: {problem.structure}"
        honoured = {*self.options, "create_graph" if self.differentiable else "", "value" if self.quantity == JACOBIAN else ""}
        for option in request.asked:
            if option not in honoured:
                return f"{self.name} does not support {option}{'' if option == 'wrt' else '=True'}"
        if self.quantity in _WITH_LOSS and "reduction=none" in (problem.loss or "") and "unreduced" not in honoured:
            return f"{self.name} returns one loss, not one for each element"
        return self.supports(problem)


_WITH_LOSS = ("gradient", "sgd_step")  # quantities that return the loss itself
_METHODS: dict[str, Method] = {}
_QUANTITIES: dict[str, Quantity] = {}


def register_quantity(quantity: Quantity) -> Quantity:
    """Register a quantity, so that methods, sweeps, the planner and the command line know it.

    Args:
        quantity: What it is.

    Returns:
        The same.

    Raises:
        ValueError: The name is taken.

    Example:
        >>> register_quantity(find_quantity("jacobian"))
        Traceback (most recent call last):
        ValueError: quantity 'jacobian' is already registered; choose another name
    """
    if quantity.name in _QUANTITIES:
        raise ValueError(f"quantity {quantity.name!r} is already registered; choose another name")
    _QUANTITIES[quantity.name] = quantity
    return quantity


def quantities() -> tuple[Quantity, ...]:
    """Return the registered quantities, the Jacobian first, then by name.

    Returns:
        The quantities.

    Example:
        >>> [quantity.name for quantity in quantities()][:3]
        ['jacobian', 'derivatives', 'ggn']
    """
    return tuple(sorted(_QUANTITIES.values(), key=lambda quantity: (quantity.name != JACOBIAN, quantity.name)))


def find_quantity(name: str) -> Quantity:
    """Return the quantity called `name`."""
    if not isinstance(name, str):
        raise TypeError(f"quantity must be a name, got {type(name).__name__}; choose from {', '.join(_QUANTITIES)}")
    if name not in _QUANTITIES:
        raise ValueError(unknown("quantity", name, [quantity.name for quantity in quantities()]))
    return _QUANTITIES[name]


def register(
    name: str,
    *,
    hand_written: bool = False,
    differentiable: bool = False,
    summary: str = "",
    supports: Callable[[Problem], str | None] = lambda problem: None,
    runtime: str = "torch",
    device: str | None = None,
    options: tuple[str, ...] = (),
    ready: Callable[[Problem], bool] = lambda problem: True,
) -> Callable[[Prepare], Prepare]:
    """Register the decorated `prepare` function as the method `name`.

    Args:
        name: `mode:implementation`, behind `quantity/` where it is not the Jacobian.
        hand_written: Ours, as against a peer or the naive baseline.
        differentiable: Whether it honours `create_graph=True`.
        summary: One line for listings.
        supports: `problem -> None`, or the reason why not.
        runtime: The library whose memory and threads it uses.
        device: The only type of device it is made for.
        options: Other options that it honours: `"inputs"`, `"trace"`, `"wrt"`, `"unreduced"`, `"steps"`.
        ready: `problem -> bool`: whether it answers at once.

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
    quantity, short = split(name)
    mode, colon, implementation = short.partition(":")
    modes = MODES if quantity == JACOBIAN else tuple(find_quantity(quantity).modes)
    if colon and implementation and mode not in modes:
        raise ValueError(f"{unknown('mode', mode, modes)} (a method is named mode:implementation; got {name!r})")
    if not colon or not implementation:
        raise ValueError(f"a method is named mode:implementation with mode one of {', '.join(modes)}; got {name!r}")
    if name in _METHODS:
        raise ValueError(f"method {name!r} is already registered; choose another implementation name")

    def decorate(prepare: Prepare) -> Prepare:
        _METHODS[name] = Method(
            mode, implementation, prepare, hand_written, differentiable, summary, supports, runtime, device, quantity, options, ready
        )
        return prepare

    return decorate


readable = partial(register, hand_written=True, differentiable=True)  # ours, in torch that autograd can follow


def unregister(name: str) -> None:
    """Remove a method, e.g. a toy one after a test."""
    _METHODS.pop(name, None)


def split(name: str) -> tuple[str, str]:
    """Take the name of a method apart.

    Example:
        >>> split("gradient/reverse:native"), split("reverse:native")
        (('gradient', 'reverse:native'), ('jacobian', 'reverse:native'))
    """
    quantity, slash, short = name.rpartition("/")
    return (quantity, short) if slash else (JACOBIAN, name)


def methods(pattern: str = "*", quantity: str | None = None) -> tuple[Method, ...]:
    """Return the registered methods in a fixed order: the readable ones, the other hand-written ones, the rest; each by name.

    Args:
        pattern: A glob over names, e.g. `"reverse:*"` of the Jacobian, `"gradient/*"`, or `"*/*:native"` of everything else.
        quantity: The quantity whose methods are meant; that of the pattern by default.

    Returns:
        The methods whose names match.

    Raises:
        ValueError: There is no such quantity, or no method of a name that is no glob.

    Example:
        >>> [method.name for method in methods("*:eager")]
        ['forward:eager', 'mixed:eager', 'reverse:eager']
        >>> [method.name for method in methods("*:eager", quantity="gradient")]
        ['gradient/reverse:eager']
    """
    of, short = split(pattern)
    wanted = quantity or of
    if not set(wanted) & set("*?["):
        find_quantity(wanted)
    chosen = [m for m in _METHODS.values() if fnmatchcase(m.short, short) and fnmatchcase(m.quantity, wanted)]
    if not chosen and not set(pattern) & set("*?["):
        raise ValueError(unknown("method", pattern, [m.name for m in _METHODS.values() if m.quantity == wanted]))
    if wanted != JACOBIAN:  # whose methods have no quantity in their names for a glob to match
        chosen = [m for m in chosen if m.quantity != JACOBIAN]
    return tuple(sorted(chosen, key=lambda m: (m.quantity, not m.hand_written, m.implementation != "eager", m.implementation, m.mode)))


def find_method(name: str, quantity: str = JACOBIAN) -> Method:
    """Return the method called `name`; a bare mode means its readable `eager` implementation.

    Args:
        name: A full name such as `"reverse:torch.func"`, or a mode such as `"forward"`; with or without the quantity in front.
        quantity: The quantity, where the name has none in front.

    Returns:
        The method.

    Raises:
        TypeError: `name` is not a string.
        ValueError: No method has that name.

    Example:
        >>> find_method("reverse").name
        'reverse:eager'
    """
    if not isinstance(name, str):
        raise TypeError(f"method must be a name, got {type(name).__name__}; choose 'auto' or one of {', '.join(_METHODS)}")
    full = name if "/" in name or quantity == JACOBIAN else f"{quantity}/{name}"
    found = _METHODS.get(full) or _METHODS.get(f"{full}:eager")
    if found is None or (quantity not in {found.quantity, JACOBIAN}):
        raise ValueError(unknown("method", name, _choices(split(full)[0])))
    return found


def find_readable(mode: str, quantity: str) -> Method:
    """Return the readable method of a quantity in a mode, or in its first mode that has one.

    Example:
        >>> find_readable("reverse", "jacobian").name, find_readable("fused", "jacobian_gradient").name
        ('reverse:eager', 'jacobian_gradient/reverse:eager')
    """
    prefix = "" if quantity == JACOBIAN else f"{quantity}/"
    modes = [mode, *(MODES if quantity == JACOBIAN else find_quantity(quantity).modes)]
    return next(_METHODS[f"{prefix}{name}:eager"] for name in modes if f"{prefix}{name}:eager" in _METHODS)


def _choices(quantity: str) -> Sequence[str]:
    """List what a user may write for a method of a quantity."""
    there = methods(quantity=quantity) or methods()
    bare = {method.mode for method in there if method.implementation == "eager"}
    return ["auto", *dict.fromkeys(mode for mode in (*MODES, *sorted(bare)) if mode in bare), *(method.name for method in there)]

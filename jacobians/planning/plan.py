"""Plans: a method prepared once for a shape, device and dtype; and the one-call functions built on them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from jacobians.kernels.native import program
from jacobians.kernels.native.pullback import Pullback, differentiable
from jacobians.kernels.native.runner import Runner, plain
from jacobians.modes.chunked import chunked
from jacobians.modes.factored import FactoredJacobian
from jacobians.modes.factored import factored as factor
from jacobians.modes.forward import forward
from jacobians.modes.mixed import mixed
from jacobians.modes.reverse import reverse
from jacobians.modes.scaling import index_of
from jacobians.names import outdated, unknown
from jacobians.network.from_torch import network_of
from jacobians.network.losses import Loss, loss_of
from jacobians.network.mlp import MLP
from jacobians.network.parameters import Parameters
from jacobians.network.stack import Stack
from jacobians.planning import planner, transforms
from jacobians.planning.arrange import frame_of, ordinary, select
from jacobians.planning.inputs import check_bytes, check_inputs, dense, not_folded, problem_of
from jacobians.planning.planner import EFFORTS, Choice
from jacobians.planning.registry import JACOBIAN, Computation, NotPlain, Request, Stale, find_method, find_quantity, find_readable
from jacobians.problem import Problem
from jacobians.quantities.gradient import Parts

Wrt = int | str | slice | Sequence[int | str] | None
_READABLE = {"forward": forward, "reverse": reverse, "mixed": mixed}


@dataclass(frozen=True)
class Plan:
    """A method prepared for one problem. Calls compute with the weights as they are at the call.

    Plans hold no buffers of results, so what a call returned is never overwritten, and threads may share a plan.

    Attributes:
        mlp: The network.
        problem: What the plan was prepared for, with the quantity.
        choice: The method, the candidates with predicted and measured times, and why it won.
        request: What is returned besides J.
        computation: The prepared steps, for those who time them.
        expects: Shape, dtype and device of x, and of whatever the quantity takes besides.
    """

    mlp: MLP
    problem: Problem
    choice: Choice
    request: Request
    computation: Computation
    expects: tuple[tuple[Any, ...], ...]
    _peer: bool = field(init=False, repr=False, compare=False)
    _kind: str = field(init=False, repr=False, compare=False)
    _holds: bool = field(init=False, repr=False, compare=False)
    _parameters: Parameters = field(init=False, repr=False, compare=False)
    _held: object = field(init=False, repr=False, compare=False)
    _open: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Watch the parameters, where the method does not do so itself."""
        method = self.choice.method
        object.__setattr__(self, "_peer", not method.hand_written)
        object.__setattr__(self, "_open", self.choice.provisional or bool(self.choice.rivals))
        object.__setattr__(self, "_kind", self.problem.device.partition(":")[0])
        object.__setattr__(self, "_holds", self.computation.holds or not (method.hand_written or method.quantity == JACOBIAN))
        object.__setattr__(self, "_parameters", Parameters(self.mlp, self.problem))
        object.__setattr__(self, "_held", self._places() if self._holds and not transforms.active() else None)

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle what it was made of: a copy computes with the copied network."""
        given = self.choice
        choice = (self.method, dict(given.predicted), dict(given.measured), given.reason)
        return _again, (self.mlp, self.problem, choice, self.request, self.expects)

    @property
    def method(self) -> str:
        """The method's full name."""
        return self.choice.method.name

    def __call__(self, x: Tensor, *others: Tensor) -> Any:
        """Compute at `x`."""
        inputs = (x, *others)
        if transforms.active() and transforms.tracing(*inputs):
            return self._in_torch(inputs)
        if tuple(map(look, inputs)) != self.expects:
            got = problem_of(self.mlp, x)  # says what is wrong where something is
            if len(inputs) == len(self.expects) == 1:
                raise ValueError(f"this plan is for {_describe(self.problem)}, got {_describe(got)}; make another with jacobians.plan")
            for name, t in zip(find_quantity(self.problem.quantity).takes, others, strict=False):
                dense(name, t)
            planned, given = (", ".join(map(_shown, looks)) for looks in (self.expects, map(look, inputs)))
            raise ValueError(f"this plan is for {planned}, got {given}; make another with jacobians.plan")
        return self.compute(inputs, transforms.active())

    def compute(self, inputs: tuple[Tensor, ...], transformed: bool, raw: bool = False) -> Any:
        """Compute at inputs that are known to fit; with `raw` the parts of a gradient are left in the one vector that a kernel made."""
        if torch.is_inference_mode_enabled():  # where autograd records nothing, and its derivatives are zero without a word
            with torch.inference_mode(False):
                return self.compute(tuple(t.clone() if t.is_inference() else t for t in inputs), transformed, raw)
        if transforms.autocast() and torch.is_autocast_enabled(self._kind):
            with torch.autocast(self._kind, enabled=False):  # the network says what it computes in
                return self.compute(inputs, transformed, raw)
        if transformed and (self._holds or not self.computation.records):  # the transform records what is computed now
            return self._in_torch(inputs)
        if self._open and not transformed:
            self._settle(inputs)
        computation = self._ready() if self._holds else self.computation
        if computation.reset is not None:
            computation.reset()
        if self._peer:
            inputs = tuple(t.contiguous() for t in inputs)
        given = inputs[0] if len(inputs) == 1 else inputs
        if transformed:
            y, J = computation.run(computation.convert(given))
        elif computation.records:
            self._parameters.now()
            with torch.set_grad_enabled(self.request.create_graph):
                y, J = computation.run(computation.convert(given))
        else:
            try:
                y, J = computation.run(computation.convert(given))
            except NotPlain:
                with torch.set_grad_enabled(self.request.create_graph):
                    return self._in_torch(inputs)
        if raw and isinstance(J, Parts):
            return J
        J = computation.restore(J)
        return (computation.restore(y), J) if self.request.value else J

    def _ready(self) -> Computation:
        """Return what was prepared; anew where other parameters stand in the place of those it holds."""
        now = self._places()
        if now != self._held:
            object.__setattr__(self, "computation", self.choice.method.prepare(self.mlp, self.problem, self.request))
            object.__setattr__(self, "_held", now)
        return self.computation

    def _places(self) -> list[tuple[object, ...]]:
        return [(t.data_ptr(), t.stride(), t.is_neg()) for t in self._parameters.now()[1]]

    def _settle(self, inputs: tuple[Tensor, ...]) -> None:
        """Choose again: by the times of two rivals, or, of a plan made while the kernels were being compiled, once these are there."""
        if self.choice.rivals:
            choice = planner.compare_rivals(self.mlp, inputs, self.problem, self.request, self.choice)
        elif planner.settled(self.problem):
            choice = planner.choose(self.problem, self.request)
        else:
            return
        # Threads that come here at once may each find another; either computes the same.
        object.__setattr__(self, "computation", choice.method.prepare(self.mlp, self.problem, self.request))
        object.__setattr__(self, "choice", choice)
        self.__post_init__()

    def _in_torch(self, inputs: tuple[Tensor, ...]) -> Any:
        """Compute by the readable method of the same mode, which is right under every transform, mode and subclass."""
        readable = find_readable(self.choice.method.mode, self.problem.quantity)
        y, J = readable.prepare(self.mlp, self.problem, self.request).run(inputs[0] if len(inputs) == 1 else inputs)
        return (y, J) if self.request.value else J

    def explain(self) -> str:
        """Say what was chosen and why: the candidates with predicted and, where known, measured times.

        Returns:
            A line for the choice, one for the reason, one per candidate, in microseconds, and with a GPU one for the other device.

        Example:
            >>> mlp = MLP.random(L=2, D=3, K=8, P=2)
            >>> print(plan(mlp, torch.zeros(3), "reverse:eager").explain())
            reverse:eager for x of shape (3,), float32, cpu, widths 3-8-8-2
            asked for by name
        """
        lines = [f"{self.method} for {_describe(self.problem)}", self.choice.reason]
        if self.problem.structure:
            lines.append(f"step by step in torch, for it is no chain of layers: {self.problem.structure}")
        for name, seconds in self.choice.predicted.items():
            known = self.choice.measured.get(name)
            measured = f", measured {known * 1e6:.1f} µs" if known is not None else ""
            lines.append(f"  {name}: predicted {seconds * 1e6:.1f} µs{measured}")
        if self.problem.quantity == JACOBIAN and self.choice.predicted and torch.cuda.is_available():
            lines.append(planner.elsewhere(self.problem, self.request, "cuda" if self.problem.device == "cpu" else "cpu"))
        return "\n".join(lines)


def plan(
    mlp: MLP | nn.Module,
    x: Tensor,
    method: str = "auto",
    *,
    value: bool = False,
    create_graph: bool = False,
    effort: str = "estimate",
    quantity: str = JACOBIAN,
    others: tuple[Tensor, ...] = (),
    loss: str | Loss | None = None,
    asked: str | None = None,
) -> Plan:
    """Prepare a method for the shape, dtype and device of `x`.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: An example input; only its shape, dtype and device matter.
        method: `"auto"`, a mode, or a full method name. With `"auto"`, torch computes while the kernels are still being compiled,
            and the plan chooses again when they are there; a method by name waits for the compiler.
        value: Whether calls return `(y, J)`.
        create_graph: Whether J can be back-propagated through to the weights and to x.
        effort: For `"auto"`: `"estimate"` goes by predicted times, or by what was measured before on this machine; `"compare"` does too,
            but where another is predicted within 1.5 times, the first call on a CPU times both, three calls each, and the plan keeps the
            faster, unless `torch.use_deterministic_algorithms` is on; `"measure"` times the best three candidates now, and remembers.
        quantity: What to compute, e.g. `"gradient"`.
        others: Examples of what the quantity takes besides x, e.g. `(target,)`.
        loss: The loss, of quantities that have one; `mse` by default.
        asked: Of the quantity `derivatives`, which ones, e.g. `"y y_x0 y_{x0,x0}"`.

    Returns:
        The plan.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input does not fit, the effort is unknown, or the method is unknown or does not support the problem.

    Example:
        >>> mlp = MLP.random(L=2, D=3, K=8, P=2)
        >>> p = plan(mlp, torch.zeros(5, 3))
        >>> p.problem.N, tuple(p(torch.ones(5, 3)).shape)
        (5, (5, 2, 3))
    """
    mlp = MLP.from_torch(mlp) if isinstance(mlp, nn.Module) else mlp  # which a plan keeps
    problem = problem_of(mlp, x)
    if quantity != JACOBIAN:
        problem = problem.with_(quantity=find_quantity(quantity).name, loss=loss_text(quantity, loss), asked=asked)
    return make_plan(mlp, (x, *others), problem, Request(value=value, create_graph=create_graph), method, effort)


def make_plan(
    mlp: MLP, inputs: tuple[Tensor, ...], problem: Problem, request: Request, method: str = "auto", effort: str = "estimate"
) -> Plan:
    """Prepare a method for a known problem."""
    if effort not in EFFORTS:
        raise ValueError(unknown("effort", effort, EFFORTS))
    check_inputs(mlp, problem, inputs)
    if method == "auto":
        if effort == "measure":
            choice = planner.measure(mlp, inputs, problem, request)
        else:
            comparing = effort == "compare"  # which waits for the compiler, as measuring does
            choice = planner.choose(problem, request, wait=comparing, compare=comparing)
    else:
        choice = Choice(find_method(method, problem.quantity), reason="asked for by name")
    chosen = choice.method
    if chosen.quantity != problem.quantity:
        raise ValueError(f"method {chosen.name!r} computes the {chosen.quantity}, not the {problem.quantity}")
    why_not = chosen.unsupported(problem, request)
    if why_not is not None:
        raise ValueError(f"method {chosen.name!r} cannot compute this: {why_not}; use method='auto' or another from jacobians.methods()")
    return _prepared(mlp, problem, choice, request, tuple(map(look, inputs)))


def _prepared(mlp: MLP, problem: Problem, choice: Choice, request: Request, expects: tuple[tuple[Any, ...], ...]) -> Plan:
    with torch.inference_mode(False):  # what is made ready serves calls outside of it too
        return Plan(mlp, problem, choice, request, choice.method.prepare(mlp, problem, request), expects)


def _again(mlp: MLP, problem: Problem, choice: tuple[Any, ...], request: Request, expects: tuple[tuple[Any, ...], ...]) -> Plan:
    """Make a copied or pickled plan ready."""
    name, predicted, measured, reason = choice
    return _prepared(mlp, problem, Choice(find_method(name), predicted, measured, reason), request, expects)


def loss_text(quantity: str, loss: str | Loss | None) -> str | None:
    """Write a loss as a problem holds it."""
    if find_quantity(quantity).loss:
        return str(loss_of("mse" if loss is None else loss))
    if loss is not None:
        raise ValueError(f"the {quantity} has no loss, got {loss!r}; leave it out")
    return None


def look(t: Tensor) -> tuple[Any, ...]:
    """Return what of an input is in the key of a plan: shape, dtype, device and layout."""
    try:
        return t.shape, t.dtype, t.device, t.layout
    except (AttributeError, RuntimeError):
        return (None,) * 4


def _shown(seen: tuple[Any, ...]) -> str:
    return f"{tuple(seen[0] or ())} {seen[1]}"


@overload
def jacobian(
    mlp: MLP | nn.Module | Stack,
    x: Tensor,
    method: str = ...,
    *,
    create_graph: bool = ...,
    factored: Literal[False] = ...,
    max_bytes: int | None = ...,
    wrt: Wrt = ...,
) -> Tensor: ...
@overload
def jacobian(
    mlp: MLP | nn.Module, x: Tensor, method: str = ..., *, create_graph: bool = ..., factored: Literal[True]
) -> FactoredJacobian: ...
@overload
def jacobian(
    mlp: MLP | nn.Module | Stack,
    x: Sequence[Tensor],
    method: str = ...,
    *,
    create_graph: bool = ...,
    max_bytes: int | None = ...,
    wrt: int | str,
) -> Tensor: ...
@overload
def jacobian(
    mlp: MLP | nn.Module | Stack,
    x: Sequence[Tensor],
    method: str = ...,
    *,
    create_graph: bool = ...,
    max_bytes: int | None = ...,
    wrt: Sequence[int | str] | None = ...,
) -> tuple[Tensor, ...]: ...
def jacobian(
    mlp: MLP | nn.Module | Stack,
    x: Tensor | Sequence[Tensor],
    method: str = "auto",
    *,
    create_graph: bool = False,
    factored: bool = False,
    max_bytes: int | None = None,
    wrt: Wrt = None,
    **renamed: object,
) -> Tensor | tuple[Tensor, ...] | FactoredJacobian:
    """Compute `J[..., p, d] = ∂y_p/∂x_d` of an MLP.

    The plan is kept with the network, so a second call of the same shape prepares nothing.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (D,) or (N, D), or with more leading axes; images, for a module that begins with a Flatten; or several tensors,
            (…, D_1), (…, D_2), which are put together in this order, or as the forward of a module does.
        method: `"auto"`, a mode, or a full method name.
        create_graph: Whether J can be back-propagated through to the weights and to x.
        factored: Whether to return `J = A @ B` through the narrowest hidden layer, never multiplied out.
        max_bytes: Bound of the memory used beyond J: samples, and columns (forward) or rows (reverse), are computed a few at a time.
        wrt: The columns of J to compute, and no others: a number, a slice or a list of numbers; of several tensors, a number or a name,
            or a list of these.
        **renamed: Words of earlier versions, refused with the present one.

    Returns:
        J of shape (P, D) or (N, P, D), or its factors; (…, P, D) for more leading axes, (N, P, …) of the shape of images, and a tuple of
        blocks for several tensors. With `wrt`, `J[..., wrt]`, or the blocks of these tensors.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input does not fit, the method is unknown or does not support the problem, factors are asked of
            another method than mixed mode or of a network without hidden layers, or the bound is too low or cannot be kept.

    Example:
        >>> mlp = MLP.random(L=10, D=2, K=30, P=10)
        >>> x = torch.tensor([0.5, -0.5])
        >>> J = jacobian(mlp, x, method="forward")
        >>> torch.allclose(J, torch.autograd.functional.jacobian(mlp, x), atol=1e-6)
        True
        >>> torch.allclose(jacobian(mlp, x, wrt=-1), J[..., -1])
        True
        >>> J_t, J_x = jacobian(mlp, (torch.rand(4, 1), torch.rand(4, 1)))
        >>> tuple(J_t.shape)
        (4, 10, 1)
    """
    if renamed:
        raise TypeError(outdated(renamed))
    if factored:
        if max_bytes is not None:
            raise ValueError("max_bytes bounds the memory of a dense J; factors are not computed in pieces, so leave out one of the two")
        if wrt is not None:
            raise ValueError("factors are those of all columns of J; leave out one of factored and wrt")
        if method not in {"auto", "mixed", "mixed:eager"}:
            raise ValueError(f"factored=True is computed by mixed mode, got method={method!r}; use method='auto' or 'mixed'")
        _kept, mlp = mlp, network_of(mlp)
        frame = frame_of(mlp, x)
        if mlp.graph is not None:
            raise ValueError(f"factors are those of a chain of layers, and this network is none: {mlp.graph.reason}; leave out factored")
        if frame.several or len(frame.events[0]) != 1:
            raise ValueError("factors are those of one tensor x of shape (…, D); put several inputs into one, and flatten images")
        problem_of(mlp, frame.x)
        with torch.set_grad_enabled(create_graph):
            found = transforms.in_own_precision(factor)(mlp, frame.x)
        return FactoredJacobian(frame.rows(found.A), frame.rows(found.B))
    if max_bytes is not None:
        if wrt is not None:
            raise ValueError("max_bytes bounds the memory of all columns of J, not of some; leave out one of max_bytes and wrt")
        _kept, mlp = mlp, network_of(mlp)
        frame = frame_of(mlp, x)
        return frame.rows(_bounded(mlp, frame.x, method, create_graph, max_bytes), 1)
    if wrt is not None:
        return _columns(mlp, x, method, False, create_graph, wrt)
    return compute_cached(mlp, JACOBIAN, (x,), method, _REQUESTS[False, bool(create_graph)])


@transforms.in_own_precision
def _bounded(mlp: MLP, x: Tensor, method: str, create_graph: bool, max_bytes: int) -> Tensor:
    """Compute J within a memory limit: by a kernel whose working set is small enough, else by pieces of the readable modes."""
    problem = problem_of(mlp, x)
    check_bytes(max_bytes)
    psi = mlp.activations[-1]
    if mlp.graph is not None:
        raise ValueError(f"max_bytes bounds chains of layers, and this network is none: {mlp.graph.reason}; leave out max_bytes")
    if psi.coupled:
        raise ValueError(f"max_bytes cannot bound J behind {psi.name}, whose rows are not computed by themselves; leave out max_bytes")
    wanted = [find_method(name) for name in planner.candidates(problem)] if method == "auto" else [find_method(method)]
    ours = () if transforms.active() else wanted
    compiled = [m.mode for m in ours if m.implementation == "native" and m.unsupported(problem) is None]
    if create_graph:
        return _bounded_graph(mlp, x, problem, compiled, max_bytes)
    for mode in compiled:
        if program.working_bytes(mode, problem) <= max_bytes:
            return compute_cached(mlp, JACOBIAN, (x,), f"{mode}:native", Request())
    for mode in compiled:
        if mode != "mixed" and program.working_bytes(mode, problem, lean=True) <= max_bytes:
            with suppress(NotPlain):  # then by the readable modes
                return Runner(mlp, mode, problem, value=False, lean=True)(x)[1]
    readable = [m.mode for m in wanted if m.implementation == "eager" and m.mode != "mixed"]
    if not readable:
        raise ValueError(f"{method!r} cannot keep to max_bytes={max_bytes} bytes here; use method='auto', 'forward' or 'reverse'")
    with torch.no_grad():
        return chunked(mlp, x, problem, readable[0], max_bytes)


def _bounded_graph(mlp: MLP, x: Tensor, problem: Problem, compiled: Sequence[str], max_bytes: int) -> Tensor:
    """Keep the limit in both passes: the kernels keep nothing between them but x and the parameters."""
    for lean in (False, True):
        for mode in compiled:
            pull = Pullback(problem, mlp.biased, lean=lean)
            if (lean and mode == "mixed") or max(pull.call.working_bytes, program.working_bytes(mode, problem, lean)) > max_bytes:
                continue
            runner = Runner(mlp, mode, problem, value=False, lean=lean)
            with suppress(NotPlain):
                plain("x", x)
                return differentiable(lambda x, runner=runner: (runner(x), None), pull, x, tuple(mlp.parameters()))[1]
    raise ValueError(
        f"max_bytes={max_bytes} bytes is too little for the kernels in C to differentiate J again, and the graph of any other method "
        f"holds every piece; leave out max_bytes, or take a larger one"
    )


def value_and_jacobian(
    mlp: MLP | nn.Module | Stack, x: Tensor | Sequence[Tensor], method: str = "auto", *, create_graph: bool = False, wrt: Wrt = None
) -> tuple[Tensor, Any]:
    """Compute `y = f(x)` and its Jacobian; our methods share one evaluation between them.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (D,) or (N, D), or in any other form that `jacobian` takes.
        method: `"auto"`, a mode, or a full method name.
        create_graph: Whether y and J can be back-propagated through.
        wrt: The columns of J to compute, as for `jacobian`.

    Returns:
        y of shape (P,) or (N, P), and J of shape (P, D) or (N, P, D); in the form of `jacobian` for another x, or with `wrt`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input does not fit, or the method is unknown or does not support the problem.

    Example:
        >>> mlp = MLP.random(L=2, D=3, K=8, P=2)
        >>> y, J = value_and_jacobian(mlp, torch.ones(4, 3))
        >>> tuple(y.shape), tuple(J.shape)
        ((4, 2), (4, 2, 3))
    """
    if wrt is not None:
        return _columns(mlp, x, method, True, create_graph, wrt)
    return compute_cached(mlp, JACOBIAN, (x,), method, _REQUESTS[True, bool(create_graph)])


_REQUESTS = {(value, graph): Request(value, graph) for value in (False, True) for graph in (False, True)}
MOST_PLANS = 128  # that a network keeps, each a few kilobytes: a batch size or a scale of the loss that is never met again goes


def compute_cached(
    mlp: MLP | nn.Module | Stack,
    quantity: str,
    inputs: tuple[Any, ...],  # x in any form
    method: str,
    request: Request,
    loss: str | Loss | None = None,
    raw: bool = False,
    asked: str | None = None,
) -> Any:
    """Compute a quantity by a plan that is kept with the network."""
    if type(mlp) is not MLP:
        if type(mlp) is Stack:
            return mlp.each(lambda net: compute_cached(net, quantity, inputs, method, request, loss, raw, asked))
        mlp = network_of(mlp)
    transformed = transforms.active()
    if transformed and transforms.tracing(*inputs):
        if not ordinary(inputs[0]):
            return _arranged(mlp, quantity, inputs, method, request, loss, raw)
        return _traced(mlp, quantity, inputs, method, request, loss, asked)
    if loss is not None and not isinstance(loss, str):
        loss = loss_of(loss)  # refuses what is no loss, and could not be looked up
    # Invalid input misses the cache, and is validated below.
    key = (quantity, method, loss or asked, request, *map(look, inputs))
    plans: Any = mlp._plans  # pyright: ignore[reportPrivateUsage]  # the network owns its plans
    cached = plans.get(key)
    if cached is not None:
        try:
            return cached.compute(inputs, transformed, raw)
        except Stale:  # planned again below
            plans.pop(key, None)
    if not ordinary(inputs[0]):
        return _arranged(mlp, quantity, inputs, method, request, loss, raw)
    problem = problem_of(mlp, inputs[0]).with_(quantity=quantity, loss=loss_text(quantity, loss), asked=asked)
    made = make_plan(mlp, inputs, problem, request, method)
    while len(plans) >= MOST_PLANS:
        plans.pop(next(iter(plans)), None)
    plans[key] = made
    return made.compute(inputs, transformed, raw)


def _arranged(mlp: MLP, quantity: str, inputs: tuple[Any, ...], method: str, request: Request, loss: str | Loss | None, raw: bool) -> Any:
    """Compute at an input of another form than (D,) or (N, D), and give the results that form."""
    what, frame = find_quantity(quantity), frame_of(mlp, inputs[0])
    if not (what.axes or what.loss):
        raise ValueError(f"the {quantity} takes x of shape (N, D), got {tuple(getattr(inputs[0], 'shape', ())) or 'several inputs'}")
    others = [frame.flat(t) if what.loss else t for t in inputs[1:]]
    found = compute_cached(mlp, quantity, (frame.x, *others), method, request, loss, raw)
    if not what.axes:  # derivatives by the parameters, and by x where asked for
        return frame.last(found) if request.inputs else found
    if isinstance(found, Tensor):
        return frame.rows(found, 1)  # J
    return tuple(frame.rows(t, axes) for t, axes in zip(found, what.axes, strict=True))


def _columns(mlp: MLP | nn.Module | Stack, x: Any, method: str, value: bool, create_graph: bool, wrt: Any) -> Any:
    """Compute some columns of J."""
    if isinstance(mlp, Stack):
        return mlp.each(lambda net: _columns(net, x, method, value, create_graph, wrt))
    mlp = network_of(mlp)
    frame = frame_of(mlp, x)
    chosen = select(mlp, frame, wrt)
    found = compute_cached(mlp, JACOBIAN, (frame.x,), method, Request(value, create_graph, wrt=chosen.columns))
    return (frame.rows(found[0]), chosen.of(frame, found[1])) if value else chosen.of(frame, found)


def _traced(
    mlp: MLP, quantity: str, inputs: tuple[Tensor, ...], method: str, request: Request, loss: str | Loss | None, asked: str | None
) -> Any:
    """Compute where a graph is recorded in which sizes are no plain integers: by an operator, or in readable torch."""
    if torch.compiler.is_compiling():
        from jacobians.planning import operators  # which takes as long to load as torch itself

        found = operators.take(mlp, quantity, inputs, method, request, loss_text(quantity, loss), asked)
        if found is not None:
            return found
    if quantity == JACOBIAN:
        mode = find_method("mixed" if method == "auto" else method).mode
        y, J = _READABLE[mode](mlp, inputs[0], value=request.value, columns=index_of(request.wrt))
        return (y, J) if request.value else J
    problem = problem_of(mlp, inputs[0]).with_(quantity=quantity, loss=loss_text(quantity, loss), asked=asked)
    if find_quantity(quantity).of_parameters:
        not_folded(mlp)
    run = find_readable("", quantity).prepare(mlp, problem, request).run
    return run(inputs[0] if len(inputs) == 1 else inputs)[1]


def _describe(problem: Problem) -> str:
    return f"x of shape {problem.input_shape}, {problem.dtype}, {problem.device}, widths {'-'.join(map(str, problem.widths))}"

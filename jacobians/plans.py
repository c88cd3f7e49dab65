"""Plans: a method prepared once for a shape, device and dtype; and the one-call functions built on them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from jacobians import planner, transforms
from jacobians.kernels.cpu import program
from jacobians.kernels.cpu.runner import Runner
from jacobians.mlp import MLP
from jacobians.modes.chunked import chunked
from jacobians.modes.factored import FactoredJacobian
from jacobians.modes.factored import factored as factor
from jacobians.modes.forward import forward
from jacobians.modes.mixed import mixed
from jacobians.modes.reverse import reverse
from jacobians.planner import EFFORTS, Choice
from jacobians.problem import Problem, is_integer
from jacobians.registry import Computation, Method, NotPlain, Request, find_method

_READABLE = {"forward": forward, "reverse": reverse, "mixed": mixed}


def problem_of(mlp: MLP, x: Tensor) -> Problem:
    """Describe a network and an input, refusing an input that does not fit.

    Args:
        mlp: The network.
        x: Input of shape (D,) or (N, D).

    Returns:
        The problem.

    Raises:
        TypeError: `mlp` is not an `MLP`, `x` is not a floating-point tensor, or their dtypes differ.
        ValueError: The shape or device of `x` does not fit the network.
    """
    if not isinstance(mlp, MLP):
        raise TypeError(f"mlp must be a jacobians.MLP, got {type(mlp).__name__}; wrap an nn.Sequential with MLP.from_torch")
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}; convert it with torch.as_tensor")
    if not x.dtype.is_floating_point:
        raise TypeError(f"x must be floating-point, got {x.dtype}; convert it with x.to({mlp.dtype})")
    if x.ndim not in (1, 2):
        raise ValueError(f"x must have shape (D,) or (N, D), got shape {tuple(x.shape)}; reshape it to (-1, {mlp.D})")
    if x.shape[-1] != mlp.D:
        raise ValueError(f"x has {x.shape[-1]} features, but the network takes D={mlp.D}; expected ({mlp.D},) or (N, {mlp.D})")
    if x.dtype != mlp.dtype:
        raise TypeError(f"x is {x.dtype} but the network is {mlp.dtype}; convert one of them, e.g. x.to({mlp.dtype})")
    if x.device != mlp.device:
        raise ValueError(f"x is on {x.device} but the network is on {mlp.device}; move one of them, e.g. x.to('{mlp.device}')")
    return Problem(
        widths=mlp.widths,
        batch=x.shape[0] if x.ndim == 2 else None,
        activation=mlp.activation,
        output_activation=mlp.output_activation,
        bias=any(b is not None for b in mlp.biases),
        dtype=str(x.dtype).removeprefix("torch."),
        device=str(x.device),
    )


@dataclass(frozen=True)
class Plan:
    """A method prepared for one problem. Calls compute with the weights as they are at the call.

    Plans hold no buffers of results, so what a call returned is never overwritten, and threads may share a plan.

    Attributes:
        mlp: The network.
        problem: What the plan was prepared for.
        choice: The method, the candidates with predicted and measured times, and why it won.
        request: What is returned besides J.
        computation: The prepared steps, for those who time them.
        expects: Shape, dtype and device of x.
    """

    mlp: MLP
    problem: Problem
    choice: Choice
    request: Request
    computation: Computation
    expects: tuple[torch.Size, torch.dtype, torch.device]

    @property
    def method(self) -> str:
        """The method's full name."""
        return self.choice.method.name

    def __call__(self, x: Tensor) -> Any:
        """Compute the Jacobian at `x`.

        Args:
            x: Input of the planned shape, dtype and device.

        Returns:
            J of shape (P, D) or (N, P, D), `J[..., p, d] = ∂y_p/∂x_d`; or `(y, J)` where the plan was asked for values.

        Raises:
            TypeError: `x` has another dtype than planned.
            ValueError: `x` has another shape or device than planned.
        """
        if transforms.tracing():
            return _in_torch(self.mlp, x, self.choice.method, self.request)
        if not isinstance(x, Tensor) or (x.shape, x.dtype, x.device) != self.expects:
            got = problem_of(self.mlp, x)  # says what is wrong where something is
            raise ValueError(f"this plan is for {_describe(self.problem)}, got {_describe(got)}; make another with jacobians.plan")
        return self._compute(x, transforms.active())

    def _compute(self, x: Tensor, transformed: bool) -> Any:
        computation = self.computation
        if transformed:  # what is recorded now is the transform's business
            if not computation.records:
                return _in_torch(self.mlp, x, self.choice.method, self.request)
            y, J = computation.run(computation.convert(x))
        elif computation.records:
            with torch.set_grad_enabled(self.request.create_graph):
                y, J = computation.run(computation.convert(x))
        else:
            try:
                y, J = computation.run(computation.convert(x))
            except NotPlain:
                with torch.set_grad_enabled(self.request.create_graph):
                    return _in_torch(self.mlp, x, self.choice.method, self.request)
        J = computation.restore(J)
        return (computation.restore(y), J) if self.request.value else J

    def explain(self) -> str:
        """Say what was chosen and why: the candidates with predicted and, where known, measured times.

        Returns:
            A line for the choice, one for the reason, and one per candidate, in microseconds.

        Example:
            >>> mlp = MLP.random(L=2, D=3, K=8, P=2)
            >>> print(plan(mlp, torch.zeros(3), "reverse:eager").explain())
            reverse:eager for x of shape (3,), float32, cpu, widths 3-8-8-2
            asked for by name
        """
        lines = [f"{self.method} for {_describe(self.problem)}", self.choice.reason]
        for name, seconds in self.choice.predicted.items():
            known = self.choice.measured.get(name)
            measured = f", measured {known * 1e6:.1f} µs" if known is not None else ""
            lines.append(f"  {name}: predicted {seconds * 1e6:.1f} µs{measured}")
        return "\n".join(lines)


def plan(mlp: MLP, x: Tensor, method: str = "auto", *, value: bool = False, create_graph: bool = False, effort: str = "estimate") -> Plan:
    """Prepare a method for the shape, dtype and device of `x`.

    Args:
        mlp: The network.
        x: An example input; only its shape, dtype and device matter.
        method: `"auto"`, a mode, or a full method name.
        value: Whether calls return `(y, J)`.
        create_graph: Whether J can be back-propagated through to the weights and to x.
        effort: For `"auto"`: `"estimate"` goes by predicted times, or by what was measured before on this machine; `"measure"` times
            the best three candidates at `x` now, and remembers.

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
    problem = problem_of(mlp, x)
    request = Request(value=value, create_graph=create_graph)
    if effort not in EFFORTS:
        raise ValueError(f"unknown effort {effort!r}; choose from {', '.join(EFFORTS)}")
    if method == "auto":
        choice = planner.choose(problem, request) if effort == "estimate" else planner.measure(mlp, x, problem, request)
    else:
        choice = Choice(find_method(method), reason="asked for by name")
    chosen = choice.method
    why_not = chosen.unsupported(problem, request)
    if why_not is not None:
        raise ValueError(f"method {chosen.name!r} cannot compute this: {why_not}; use method='auto' or another from jacobians.methods()")
    computation = chosen.prepare(mlp, problem, request)
    return Plan(mlp, problem, choice, request, computation, (x.shape, x.dtype, x.device))


@overload
def jacobian(
    mlp: MLP, x: Tensor, method: str = ..., *, create_graph: bool = ..., factored: Literal[False] = ..., chunk: int | None = ...
) -> Tensor: ...
@overload
def jacobian(mlp: MLP, x: Tensor, method: str = ..., *, create_graph: bool = ..., factored: Literal[True]) -> FactoredJacobian: ...
def jacobian(
    mlp: MLP, x: Tensor, method: str = "auto", *, create_graph: bool = False, factored: bool = False, chunk: int | None = None
) -> Tensor | FactoredJacobian:
    """Compute `J[..., p, d] = ∂y_p/∂x_d` of an MLP.

    The plan is kept with the network, so a second call of the same shape prepares nothing.

    Args:
        mlp: The network.
        x: Input of shape (D,) or (N, D).
        method: `"auto"`, a mode, or a full method name.
        create_graph: Whether J can be back-propagated through to the weights and to x.
        factored: Whether to return `J = A @ B` through the narrowest hidden layer, never multiplied out.
        chunk: Bound in bytes of the memory used beyond J: samples, and columns (forward) or rows (reverse), are computed a few at a time.

    Returns:
        J of shape (P, D) or (N, P, D), or its factors.

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
    """
    if factored:
        if chunk is not None:
            raise ValueError("chunk bounds the memory of a dense J; factors are not computed in pieces, so leave out one of the two")
        if method not in {"auto", "mixed", "mixed:eager"}:
            raise ValueError(f"factored=True is computed by mixed mode, got method={method!r}; use method='auto' or 'mixed'")
        problem_of(mlp, x)
        with torch.set_grad_enabled(create_graph):
            return factor(mlp, x)
    if chunk is not None:
        return _bounded(mlp, x, method, create_graph, chunk)
    return _compute(mlp, x, method, False, create_graph)


def _bounded(mlp: MLP, x: Tensor, method: str, create_graph: bool, chunk: int) -> Tensor:
    """Keep to a bound of memory: by a kernel whose working set is small enough, else by pieces of the readable modes."""
    problem = problem_of(mlp, x)
    if not is_integer(chunk) or chunk < 1:
        raise ValueError(f"chunk must be a positive number of bytes, got {chunk!r}; pass e.g. chunk=2**28 for 256 MB")
    if create_graph:
        raise ValueError("chunk cannot bound a J that is differentiated again: its graph holds every piece; leave out chunk")
    wanted = [find_method(name) for name in planner.candidates(problem)] if method == "auto" else [find_method(method)]
    compiled = [m.mode for m in wanted if m.implementation == "native" and m.unsupported(problem) is None]
    for mode in compiled if not transforms.active() else ():
        if program.working_bytes(mode, problem) <= chunk:
            return _compute(mlp, x, f"{mode}:native", False, False)
    for mode in compiled if not transforms.active() else ():
        if mode != "mixed" and program.working_bytes(mode, problem, lean=True) <= chunk:
            with suppress(NotPlain):  # then by the readable modes
                return Runner(mlp, mode, problem, value=False, lean=True)(x)[1]
    readable = [m.mode for m in wanted if m.implementation == "eager" and m.mode != "mixed"]
    if not readable:
        raise ValueError(f"{method!r} cannot keep to chunk={chunk} bytes on this network; use method='auto', 'forward' or 'reverse'")
    with torch.no_grad():
        return chunked(mlp, x, problem, readable[0], chunk)


def value_and_jacobian(mlp: MLP, x: Tensor, method: str = "auto", *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Compute `y = f(x)` and its Jacobian; our methods share one evaluation between them.

    Args:
        mlp: The network.
        x: Input of shape (D,) or (N, D).
        method: `"auto"`, a mode, or a full method name.
        create_graph: Whether y and J can be back-propagated through.

    Returns:
        y of shape (P,) or (N, P), and J of shape (P, D) or (N, P, D).

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input does not fit, or the method is unknown or does not support the problem.

    Example:
        >>> mlp = MLP.random(L=2, D=3, K=8, P=2)
        >>> y, J = value_and_jacobian(mlp, torch.ones(4, 3))
        >>> tuple(y.shape), tuple(J.shape)
        ((4, 2), (4, 2, 3))
    """
    return _compute(mlp, x, method, True, create_graph)


def _compute(mlp: MLP, x: Tensor, method: str, value: bool, create_graph: bool) -> Any:
    transformed = transforms.active()
    if transformed and transforms.tracing():
        chosen = find_method("mixed" if method == "auto" else method)
        return _in_torch(mlp, x, chosen, Request(value, create_graph))
    # Anything odd fails this cheap look-up, or misses, and is then looked at closely by `plan`.
    key = (getattr(x, "shape", None), getattr(x, "dtype", None), getattr(x, "device", None), method, value, create_graph)
    cached = mlp._plans.get(key) if isinstance(mlp, MLP) and isinstance(x, Tensor) else None  # pyright: ignore[reportPrivateUsage]
    if cached is None:
        cached = plan(mlp, x, method, value=value, create_graph=create_graph)
        mlp._plans[key] = cached  # pyright: ignore[reportPrivateUsage]  # the network owns its plans
    assert isinstance(cached, Plan)
    return cached._compute(x, transformed)  # pyright: ignore[reportPrivateUsage]


def _in_torch(mlp: MLP, x: Tensor, method: Method, request: Request) -> Any:
    """Compute by the readable mode of a method, which is right under every transform, mode and subclass."""
    y, J = _READABLE[method.mode](mlp, x, value=request.value)
    return (y, J) if request.value else J


def _describe(problem: Problem) -> str:
    return f"x of shape {problem.input_shape}, {problem.dtype}, {problem.device}, widths {'-'.join(map(str, problem.widths))}"

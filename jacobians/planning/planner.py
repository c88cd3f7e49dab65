"""The choice of a method for a problem: estimated from operation counts and the machine's ceilings, or measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jacobians.planning import machine
from jacobians.planning.cost_model import estimate, estimate_back
from jacobians.planning.registry import ALONE, JACOBIAN, Method, NotPlain, Request, Stale, find_method, methods
from jacobians.problem import Problem

if TYPE_CHECKING:
    from jacobians.network.mlp import MLP

EFFORTS = ("compare", "estimate", "measure")
TO_MEASURE = 3  # of the candidates, by estimate
CLOSE = 1.5  # times the shortest predicted time: within that, `compare` times both at the first call
MOVE_S, MOVE_RATE = 1e-5, 1e10  # of a copy to or from an accelerator, and its bytes per second: assumed of PCI Express
KEPT = 1024  # comparisons that a process remembers
_compared: dict[tuple[str, str], dict[str, float]] = {}


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen method, the candidates it was chosen from, and the reason in one line."""

    method: Method
    predicted: Mapping[str, float] = field(default_factory=dict)  # method name to predicted seconds, fastest first
    measured: Mapping[str, float] = field(default_factory=dict)  # method name to seconds measured on this machine, where known
    reason: str = ""
    provisional: bool = False  # other methods could not answer at once, e.g. because they are still being compiled
    rivals: tuple[str, ...] = ()  # the winner and another whose predicted time is close: the first call times both


def candidates(
    problem: Problem, request: Request = ALONE, ceilings: machine.Ceilings | None = None, threads: int | None = None, wait: bool = True
) -> dict[str, float]:
    """Predict every hand-written method that can serve a problem."""
    known = methods(quantity=problem.quantity)
    if request.wrt:  # the products are those of a network of so many inputs
        problem = problem.with_(widths=(len(request.wrt), *problem.widths[1:]))
    by_name_alone = "torch.compile"  # which takes seconds
    ours = [m for m in known if m.hand_written and m.implementation != by_name_alone and (wait or m.ready(problem))]
    able = [method for method in ours if method.unsupported(problem, request) is None]
    rates = ceilings or machine.ceilings(problem.device)
    predicted = {method.name: estimate(problem, method.mode, method.implementation, rates, threads) for method in able}
    if request.create_graph:
        predicted = {m.name: predicted[m.name] + estimate_back(problem, m.implementation, rates, threads) for m in able}
    # Where two are equal, e.g. mixed mode that is reverse mode, the plainer name comes first.
    return dict(sorted(predicted.items(), key=lambda item: (item[1], item[0].startswith("mixed"), item[0].startswith("forward"))))


def choose(problem: Problem, request: Request = ALONE, wait: bool = True, compare: bool = False) -> Choice:
    """Choose the method with the shortest predicted time, or the fastest one where they were measured on this machine.

    Example:
        >>> choose(Problem(widths=(1000, 1000, 1000, 1), dtype="bfloat16")).method.name
        'reverse:eager'
        >>> choose(Problem(widths=(1, 1000, 1000, 1000), dtype="bfloat16")).method.name
        'forward:eager'
        >>> choose(Problem(widths=(256, 512, 8, 512, 256), dtype="bfloat16")).method.name
        'mixed:eager'
    """
    provisional = not wait and not settled(problem)
    predicted = candidates(problem, request, wait=False) if provisional else {}
    if not predicted:
        provisional, predicted = False, _some(problem, request)
    key = key_of(problem, request)
    known = machine.known_times(problem.device, key)
    if compare and not torch.are_deterministic_algorithms_enabled():
        known = {**_compared.get((machine.fingerprint(problem.device), key), {}), **known}
    measured = {name: s for name, s in known.items() if name in predicted}
    choice = decide(predicted, measured)
    if not provisional:
        return replace(choice, rivals=_rivals(problem, request, predicted)) if compare and not measured else choice
    return replace(choice, reason=f"{choice.reason}; the kernels are being compiled, and are considered from then on", provisional=True)


def _rivals(problem: Problem, request: Request, predicted: Mapping[str, float]) -> tuple[str, ...]:
    """Name the two fastest where predictions cannot tell which is."""
    first, *others = predicted
    # Mixed mode with the time of another is that other.
    apart = [n for n in others if predicted[n] > 1.001 * predicted[first] or not (n.startswith("mixed") or first.startswith("mixed"))]
    close = [name for name in apart if predicted[name] < CLOSE * predicted[first]]
    if not close or problem.device != "cpu" or request.create_graph or torch.are_deterministic_algorithms_enabled():
        return ()
    return first, close[0]


def compare_rivals(mlp: MLP, inputs: tuple[Tensor, ...], problem: Problem, request: Request, choice: Choice) -> Choice:
    """Time two rivals against each other, three calls each, keep the faster, and remember it in this process."""
    calls: dict[str, Callable[[], object]] = {}
    given = inputs[0] if len(inputs) == 1 else inputs
    try:
        for name in choice.rivals:
            computation = find_method(name).prepare(mlp, problem, request)
            if computation.reset is not None:  # a call trains
                return replace(choice, rivals=())
            calls[name] = partial(computation.run, computation.convert(given))
        with torch.no_grad():
            times = machine.time_few(calls)
    except (NotPlain, Stale):
        return replace(choice, rivals=())
    while len(_compared) >= KEPT:
        _compared.pop(next(iter(_compared)), None)
    _compared[machine.fingerprint(problem.device), key_of(problem, request)] = times
    winner = min(times, key=lambda name: times[name])
    return Choice(find_method(winner), choice.predicted, times, "the faster of two whose predictions are close, timed at the first call")


def settled(problem: Problem) -> bool:
    """Say whether every hand-written method for a problem could answer at once; what needs to be compiled is, meanwhile."""
    return all(method.ready(problem) for method in methods(quantity=problem.quantity) if method.hand_written)


def elsewhere(problem: Problem, request: Request, device: str) -> str:
    """Say what a Jacobian would take on another device, x moved there and J back."""
    name, seconds = next(iter(candidates(problem.with_(device=device), request).items()))
    moved = 2 * MOVE_S + problem.itemsize * problem.N * problem.D * (1 + problem.P) / MOVE_RATE
    return f"on {device}: {name} predicted {seconds * 1e6:.1f} µs, and {moved * 1e6:.1f} µs to move x there and J back"


def _some(problem: Problem, request: Request) -> dict[str, float]:
    predicted = candidates(problem, request)
    if not predicted:
        reasons = {m.name: m.unsupported(problem, request) for m in methods(quantity=problem.quantity) if m.hand_written}
        why = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
        raise ValueError(f"no hand-written method computes the {problem.quantity} of this network: {why}")
    return predicted


def decide(predicted: Mapping[str, float], measured: Mapping[str, float]) -> Choice:
    """Name the winner of predictions and measurements."""
    if measured:
        winner = min(measured, key=lambda name: measured[name])
        reason = f"the fastest of {len(measured)} measured on this machine"
    else:
        winner, *others = predicted
        behind = f", {predicted[others[0]] / predicted[winner]:.2f} times as fast as {others[0]}" if others else ""
        reason = f"the shortest predicted time{behind}"
    return Choice(find_method(winner), predicted, measured, reason)


def key_of(problem: Problem, request: Request) -> str:
    """Name what times depend on: shape, activations or steps, dtype, and what is wanted."""
    sizes = f"{'-'.join(map(str, problem.widths))} N{problem.batch}"
    wanted = f"value{int(request.value)} graph{int(request.create_graph)}{f' wrt{len(request.wrt)}' * bool(request.wrt)}"
    if problem.quantity != JACOBIAN:
        of = problem.loss or problem.asked
        wanted = f"{problem.quantity} {of} inputs{int(request.inputs)} trace{int(request.trace)} graph{int(request.create_graph)}"
    of_steps = f" of steps, for {problem.structure}" if problem.structure else ""
    return f"{sizes} {problem.activation} {problem.output_activation} bias{int(problem.bias)} {problem.dtype} {wanted}{of_steps}"


def measure(
    mlp: MLP,
    inputs: tuple[Tensor, ...],
    problem: Problem,
    request: Request = ALONE,
    names: Sequence[str] | None = None,
    seconds: float = 0.05,
) -> Choice:
    """Time candidates against each other now, remember what hand-written ones took, and choose."""
    predicted = _some(problem, request)
    key = key_of(problem, request)
    known = machine.known_times(problem.device, key)
    few = list(predicted)[:TO_MEASURE] if names is None else list(names)
    if names is not None or not set(few) <= set(known):
        calls: dict[str, Callable[[], object]] = {}
        given = inputs[0] if len(inputs) == 1 else inputs
        for name in few:
            computation = find_method(name).prepare(mlp, problem, request)
            calls[name] = partial(_finished, computation.run, computation.convert(given), problem.device)
        with torch.set_grad_enabled(request.create_graph):
            known = {**known, **machine.time_in_turn(calls, seconds)}
        machine.remember_times(problem.device, key, {name: s for name, s in known.items() if find_method(name).hand_written})
    choice = decide(predicted, {name: s for name, s in known.items() if name in predicted})
    return replace(choice, measured=known)


def _finished(run: Callable[[Any], object], x: Any, device: str) -> None:
    run(x)
    if device != "cpu":
        torch.accelerator.synchronize(torch.device(device))

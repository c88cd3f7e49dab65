"""From a question on the command line to a recommendation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks.analysis.recommend import Recommendation, as_record, code, evidence, measure, recommend, table, with_measured
from benchmarks.analysis.tables import byte_count, duration
from benchmarks.errors import BadInput
from benchmarks.run import environment
from benchmarks.workloads import target
from benchmarks.workloads.checkpoint import load_mlp
from jacobians.network.activations import activation
from jacobians.network.mlp import MLP
from jacobians.planning.cost import memory_bytes
from jacobians.planning.plan import loss_text
from jacobians.planning.registry import JACOBIAN, find_quantity
from jacobians.problem import Problem

__all__ = ["Question", "answer", "as_record", "lines", "table"]
TOP = 3  # to measure
UNASKED_S = 0.05  # predicted time of a call of each, up to which they are timed without being asked: about two seconds of calls
CONFIDENCE = {
    "measured": "this very problem was measured on this machine",
    "nearby": "every size is within a factor of two of a measured problem",
    "extrapolated": "no measured problem is near; the model carries the prediction",
}


@dataclass(frozen=True, slots=True)
class Question:
    """The user's question: sizes, widths, a checkpoint or a module; and the device, `None` for whichever is the fastest."""

    L: int | None = None
    D: int | None = None
    K: int | None = None
    P: int | None = None
    N: int = 1
    widths: tuple[int, ...] | None = None
    checkpoint: Path | None = None
    module: str | None = None
    activation: str = "tanh"
    device: str | None = None
    dtype: str | None = None
    quantity: str = JACOBIAN
    loss: str | None = None


def answer(question: Question, measure_now: bool | None = False) -> Recommendation:
    """Recommend a method; without a device, on the one here that is predicted to be the fastest.

    The first three are timed now where `measure_now` says so, or, if it is `None`, where no measured problem is near.
    """
    if question.device is None:
        here = [answer(replace(question, device=device)) for device in environment.available_devices()]
        best = min(here, key=lambda found: found.best.seconds)
        return answer(replace(question, device=best.problem.device), measure_now)
    (device,) = environment.parse_devices(question.device)[:1]
    problem, mlp = _problem(question, device)
    try:
        problem = problem.with_(quantity=question.quantity, loss=loss_text(question.quantity, question.loss))
    except ValueError as error:
        raise BadInput(str(error)) from None
    quantity = find_quantity(problem.quantity)
    if quantity.batched and problem.batch is None:
        problem = problem.with_(batch=1)
    mode = next(iter(quantity.modes))
    if quantity.name == JACOBIAN:
        mode = "reverse" if problem.P < problem.D else "forward"
    needed, there = memory_bytes(problem, mode), psutil.virtual_memory().total
    if device == "cpu" and needed > there:
        raise BadInput(
            f"this does not fit in memory: the network and what is computed take at least {byte_count(needed)}, and the machine has "
            f"{byte_count(there)}; use smaller widths, fewer samples, or max_bytes="
        )
    found = recommend(problem, evidence())
    here = device in environment.available_devices()
    if measure_now is None:
        quick = sum(p.predicted for p in found.ranked[:TOP]) <= UNASKED_S
        measure_now = here and quick and found.confidence == "extrapolated"
    if not measure_now:
        return found
    if not here:
        raise BadInput(f"torch finds no {device} device here, so nothing can be measured; leave out --measure")
    return with_measured(found, measure(problem, [p.method for p in found.ranked[:TOP]], mlp))


def lines(found: Recommendation) -> list[str]:
    """Write what stands below the table."""
    nowhere = found.problem.device != "cpu" and found.confidence != "measured"
    near = f" (nearest: {found.nearest})" if found.nearest and found.confidence != "measured" else ""
    library = min((p for p in found.ranked if not p.hand_written), key=lambda p: p.seconds, default=None)
    known = "predicted" if library is None or library.measured is None else "measured"
    return [
        "",
        f"{'predicted, never measured on this device: ' if nowhere else ''}use {found.best.method}: {found.reason}",
        *(
            [f"the best library, {library.method}: {duration(library.seconds)} {known}, {library.seconds / found.best.seconds:.2f}x"]
            if library
            else []
        ),
        f"{found.confidence}: {CONFIDENCE[found.confidence]}{near}",
        "",
        *(f"    {line}" for line in code(found.problem, found.best.method).splitlines()),
    ]


def _problem(question: Question, device: str) -> tuple[Problem, MLP | None]:
    sizes = (question.L, question.D, question.K, question.P, question.widths)
    sources = [question.checkpoint is not None, question.module is not None, any(size is not None for size in sizes)]
    if sum(sources) > 1:
        raise BadInput("give one of sizes, --checkpoint and --module")
    try:
        activation(question.activation)  # refuses an unknown name
        mlp = None
        if question.checkpoint is not None:
            mlp = load_mlp(question.checkpoint, question.activation)
        elif question.module is not None:
            mlp = target.from_module(question.module)
        if mlp is not None:
            return target.problem_of_network(mlp, question.N, device, question.dtype), mlp
        problem = Problem(
            widths=target.from_sizes(*sizes),
            batch=None if question.N == 1 else question.N,
            activation=question.activation,
            dtype=question.dtype or "float32",
            device=device,
        )
    except (TypeError, ValueError) as error:
        raise BadInput(str(error)) from None
    return problem, None

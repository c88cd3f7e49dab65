"""An answer for one shape: every method with a predicted time, measured ones where they are known, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.analysis.tables import Table, duration
from benchmarks.measure.oracle import draw_inputs, network_and_inputs
from benchmarks.records.csv_file import OWN_RESULTS, read_csv, result_files
from benchmarks.records.problems import groups, is_baseline, problem_of, title
from benchmarks.records.rows import Row
from benchmarks.run import environment
from benchmarks.run.provenance import read_provenance
from jacobians.network.losses import loss_of
from jacobians.network.mlp import MLP
from jacobians.planning import machine, planner
from jacobians.planning.cost import cost
from jacobians.planning.cost_model import estimate
from jacobians.planning.machine import Ceilings
from jacobians.planning.registry import JACOBIAN, find_method, find_quantity, split
from jacobians.problem import Problem
from jacobians.quantities.derivatives import asked_of, write

NEARBY = 1.0  # of log2: every size within a factor of two


@dataclass(frozen=True, slots=True)
class Prediction:
    """One method."""

    method: str
    hand_written: bool  # ours, as against a peer
    predicted: float  # seconds, from the cost model; for a peer, scaled from the nearest measured problem
    measured: float | None = None  # seconds, where this very problem was measured

    @property
    def seconds(self) -> float:
        """The measured time, or else the predicted one."""
        return self.predicted if self.measured is None else self.measured


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A recommendation for a problem."""

    problem: Problem
    ranked: tuple[Prediction, ...]  # every method that can serve it, fastest first
    reason: str  # why the first one of ours wins, in one line
    confidence: str  # `measured`, `nearby` (a measured problem has every size within a factor of two) or `extrapolated`
    nearest: str | None  # sizes of the nearest measured problem

    @property
    def best(self) -> Prediction:
        """The method to use: the fastest of ours, which alone are predicted by a model of their own."""
        return next(p for p in self.ranked if p.hand_written)


def features(problem: Problem) -> tuple[float, ...]:
    """Describe the size of a problem by logarithms: layers, D, mean hidden width, P, N.

    Example:
        >>> features(Problem(widths=(2, 8, 8, 8, 4), batch=16))
        (2.0, 1.0, 3.0, 2.0, 4.0)
    """
    hidden = problem.widths[1:-1]
    width = sum(math.log2(w) for w in hidden) / len(hidden) if hidden else 0.0
    return math.log2(problem.L + 1), math.log2(problem.D), width, math.log2(problem.P), math.log2(max(1, problem.N))


def distance(one: Problem, other: Problem) -> float:
    """Say how far two problems are apart: the largest difference of their features.

    Example:
        >>> distance(Problem(widths=(2, 8, 4)), Problem(widths=(2, 8, 16)))
        2.0
    """
    return max(abs(a - b) for a, b in zip(features(one), features(other), strict=True))


@dataclass(frozen=True, slots=True)
class Evidence:
    """Measured times of a problem."""

    rows: Sequence[Row] = ()  # rows of one machine
    rates: Mapping[str, Ceilings] = field(default_factory=dict)  # device to that machine's ceilings
    here: bool = True  # whether that is the machine at hand, so that its times count as measured


def evidence() -> Evidence:
    """Read what was measured: the user's own results, else the committed ones of this kind of machine, else those of another.

    A result is of this machine only where the fingerprint of its processor says so; a name may be shared.
    """
    own, committed = result_files(OWN_RESULTS), result_files()
    origins = {path: read_provenance(path) for path in (*own, *committed)}
    here = environment.hardware_fingerprint()
    mine = next((found for files in (own, committed) if (found := [path for path in files if origins[path].fingerprint == here])), None)
    files = mine or [path for path in committed if path.parent == committed[0].parent]
    rates = {device: found for path in files for device, found in origins[path].rates.items()}
    return Evidence([row for path in files for row in read_csv(path)], rates, here=mine is not None)


def recommend(
    problem: Problem,
    known: Evidence = Evidence(),
    rates: Ceilings | None = None,
    threads: int | None = None,
) -> Recommendation:
    """Rank the methods for a problem.

    Hand-written methods are predicted by `jacobians.planning.cost_model`. A peer is predicted from the nearest measured problem: its time
    there, times the ratio of what the model says for the readable implementation of its mode on either problem.
    """
    predicted = planner.candidates(problem, ceilings=rates, threads=threads)
    near, away = _nearest(problem, known.rows)
    same = known.here and away == 0 and _same(problem, near)
    here = {row.method: row.median_s for row in near if row.median_s} if same else {}
    ranked = [Prediction(name, True, seconds, here.get(name)) for name, seconds in predicted.items()]
    if near:
        there = problem_of(near[0])
        their_rates = known.rates.get(problem.device, rates)
        for row in near:
            if not is_baseline(row) or not row.median_s or _unsupported(row.method, problem):
                continue
            scale = _model(problem, row.mode, rates, threads) / _model(there, row.mode, their_rates, near[0].threads)
            ranked.append(Prediction(row.method, False, row.median_s * scale, here.get(row.method)))
    timed = {p.method: p.measured for p in ranked if p.hand_written and p.measured is not None}
    # Ours are ordered by one kind of time: as measured where all were, else as predicted.
    by_measure = len(timed) == len(predicted)
    ranked.sort(key=lambda p: p.seconds if by_measure or not p.hand_written else p.predicted)
    confidence = "measured" if here else "nearby" if away <= NEARBY else "extrapolated"
    nearest = title(near[0]) if near else None
    best = next(p for p in ranked if p.hand_written)
    return Recommendation(problem, tuple(ranked), reason(problem, best.method), confidence, nearest)


def reason(problem: Problem, method: str) -> str:
    """Say in one line why a method wins.

    Example:
        >>> reason(Problem(widths=(1000, 1000, 1000, 1)), "reverse:native")
        'reverse mode takes 251 times fewer operations than forward mode, for P = 1 against D = 1000, in compiled C'
    """
    quantity, short = split(method)
    mode, _, implementation = short.partition(":")
    if quantity != JACOBIAN:
        where = "in one call of compiled C" if implementation == "native" else "in torch operations"
        return f"{find_quantity(quantity).modes[mode]}, {where}; {cost(problem, mode).flops:.3g} operations"
    flops = {name: cost(problem, name).flops for name in ("forward", "reverse", "mixed")}
    how = "in compiled C" if implementation == "native" else "in torch operations"
    if problem.L == 0:
        return f"with no hidden layer the Jacobian is the weight matrix, with its rows scaled by the slopes of the output, {how}"
    either = min(flops["forward"], flops["reverse"])
    if mode == "mixed" and flops["mixed"] < either:
        saved = either / flops["mixed"]
        narrow = min(problem.widths[1:-1])
        return f"mixed mode meets at the layer of width {narrow} and takes {saved:.3g} times fewer operations than either mode, {how}"
    if mode == "mixed":  # it is one of them
        mode = "reverse" if flops["reverse"] <= flops["forward"] else "forward"
    other = "forward" if mode == "reverse" else "reverse"
    ratio = flops[other] / max(1, flops[mode])
    if ratio < 1.05:
        return f"{mode} mode takes {1 / ratio:.2f} times the operations of {other} mode, but suits the machine better {how}"
    seeds = {"forward": f"D = {problem.D}", "reverse": f"P = {problem.P}"}
    return f"{mode} mode takes {ratio:.3g} times fewer operations than {other} mode, for {seeds[mode]} against {seeds[other]}, {how}"


def code(problem: Problem, method: str) -> str:
    """Write the Python lines to paste."""
    x = f"torch.randn({problem.D})" if problem.batch is None else f"torch.randn({problem.N}, {problem.D})"
    dtype = "" if problem.dtype == "float32" else f", dtype=torch.{problem.dtype}"
    device = "" if problem.device == "cpu" else f', device="{problem.device}"'
    options = "" if problem.activation == "tanh" else f', activation="{problem.activation}"'
    options += "" if problem.output_activation == "identity" else f', output_activation="{problem.output_activation}"'
    options += ", bias=True" if problem.bias else ""
    quantity = find_quantity(problem.quantity)
    target: list[str] = []
    if quantity.loss:
        some = (problem.P,) if problem.batch is None else (problem.N, problem.P)
        classes = loss_of(problem.loss or "mse").classes
        given = f"torch.randint({problem.P}, {some[:-1]})" if classes else f"torch.rand({some}{dtype})"
        target = [f"target = {given}"]
    call = quantity.call or f'found = jac.plan(mlp, x, quantity="{quantity.name}")(x)'
    last = [*target, *call.format(method=method, loss=problem.loss, asked=write(asked_of(problem), problem.D, problem.P)).splitlines()]
    return "\n".join(
        [
            "import torch",
            "import jacobians as jac",
            f"mlp = jac.MLP.random(widths={list(problem.widths)}{options}{dtype}{device})  # or jac.MLP.from_torch(your_network)",
            f"x = {x[:-1]}{dtype}{device})",
            *last,
        ]
    )


def table(found: Recommendation) -> Table:
    best = found.best
    rows = [
        [
            str(rank),
            p.method,
            "hand-written" if p.hand_written else "library",
            duration(p.predicted),
            duration(p.measured),
            f"{p.seconds / best.seconds:.2f}x",
        ]
        for rank, p in enumerate(found.ranked, start=1)
    ]
    return ["", "method", "by", "predicted", "measured", "time"], rows


def as_record(found: Recommendation) -> dict[str, Any]:
    """Return a recommendation for other programs."""
    p = found.problem
    return {
        "problem": {
            "quantity": p.quantity,
            "loss": p.loss,
            "widths": list(p.widths),
            "N": p.N,
            "activation": p.activation,
            "bias": p.bias,
            "dtype": p.dtype,
            "device": p.device,
        },
        "method": found.best.method,
        "reason": found.reason,
        "confidence": found.confidence,
        "nearest": found.nearest,
        "ranked": [
            {"method": r.method, "hand_written": r.hand_written, "predicted_s": r.predicted, "measured_s": r.measured} for r in found.ranked
        ],
        "code": code(p, found.best.method),
    }


def with_measured(found: Recommendation, measured: Mapping[str, float]) -> Recommendation:
    """Put times that were measured just now into a recommendation."""
    ranked = [replace(p, measured=measured.get(p.method, p.measured)) for p in found.ranked]
    ours = sorted((p for p in ranked if p.method in measured), key=lambda p: measured[p.method])
    rest = [p for p in ranked if p.method not in measured]
    confidence = "measured" if ours else found.confidence
    winner = ours[0].method if ours else found.best.method
    return replace(found, ranked=tuple([*ours, *rest]), confidence=confidence, reason=reason(found.problem, winner))


def measure(problem: Problem, names: Sequence[str], mlp: MLP | None = None) -> dict[str, float]:
    """Time methods against each other now, and let the planner remember ours."""
    if mlp is None or str(mlp.device) != problem.device or str(mlp.dtype) != f"torch.{problem.dtype}":
        mlp = network_and_inputs(problem, "xavier", 0)[0]
    return dict(planner.measure(mlp, draw_inputs(problem, 0), problem, names=names, seconds=0.2).measured)


def _nearest(problem: Problem, rows: Sequence[Row]) -> tuple[list[Row], float]:
    """Return the rows of the nearest problem of the same device and dtype that peers were measured on, and how far it is."""
    best: tuple[float, int, list[Row]] = (math.inf, 0, [])
    alike = (problem.quantity, problem.device, problem.dtype)
    for group in groups(row for row in rows if (row.quantity, row.device, row.dtype) == alike):
        away = distance(problem, problem_of(group[0]))
        if not _same(problem, group):
            away += 1e-6  # the very problem before another of its sizes
        normal = group[0].init == "normal"
        candidate = (away + (1e-6 if normal else 0.0), -len(group), group)
        best = min(best, candidate, key=lambda item: item[:2])
    return best[2], 0.0 if best[0] < 1e-5 else best[0]


def _same(problem: Problem, group: Sequence[Row]) -> bool:
    return bool(group) and problem_of(group[0]) == problem


def _unsupported(method: str, problem: Problem) -> bool:
    try:
        return find_method(method).unsupported(problem) is not None
    except ValueError:  # of an older result
        return True


def _model(problem: Problem, mode: str, rates: Ceilings | None, threads: int | None) -> float:
    return estimate(problem, mode, "eager", rates or machine.ceilings(problem.device), threads)

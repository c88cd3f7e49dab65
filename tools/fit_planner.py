"""Fit the planner's constants to measured rows: `python -m tools.fit_planner results/<machine>`.

The constants of `jacobians/planning/cost_model.py` are fitted so that the logarithm of predicted over measured time is small over the rows
of every second problem; the regret of the choice is reported on the other half, before and after. Nothing is written: the lines to put
into `cost_model.py` are printed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from benchmarks.analysis import regret
from benchmarks.errors import BadInput
from benchmarks.records.csv_file import read_csv
from benchmarks.records.problems import problem_of
from benchmarks.records.rows import Row, ok_rows
from benchmarks.run.provenance import file_beside, read_provenance
from jacobians.planning import cost_model
from jacobians.planning.machine import Ceilings
from jacobians.planning.registry import find_method

CPU = ("NATIVE_CALL", "EAGER_CALL", "ROW_S", "LAYER_S", "NUMBER_S", "EFFICIENCY", "EAGER_EFFICIENCY")
GPU = ("GPU_CALL", "GRAPH_START", "GRAPH_CALL", "GRAPH_BATCH_CALL", "TRITON_START", "TRITON_LAYER_S", "TRITON_TILE_S", "EAGER_EFFICIENCY")
HELD = 0.05  # weight of staying near the constants that there are, for those that few rows depend on
MOST = 4.0  # times a constant may grow or shrink
FEWEST = 20  # rows


@dataclass(frozen=True)
class Fit:
    """Constants before and after, and what they do on problems that were not fitted."""

    device: str
    rows: tuple[int, int]  # rows that were fitted, and held out
    before: dict[str, float]  # constants there are
    after: dict[str, float]  # fitted ones
    errors: tuple[float, float]  # median of |ln(predicted / measured)| on the rows held out: before, after
    regrets: tuple[tuple[float, float], tuple[float, float]] | None  # median and worst of those held out, where two methods are


@contextmanager
def constants(values: dict[str, float]) -> Iterator[None]:
    """Let the planner go by other constants."""
    before = {name: getattr(cost_model, name) for name in values}
    try:
        for name, value in values.items():
            setattr(cost_model, name, value)
        cost_model._estimate.cache_clear()
        yield
    finally:
        for name, value in before.items():
            setattr(cost_model, name, value)
        cost_model._estimate.cache_clear()


def logs(rows: Sequence[Row], rates: Ceilings) -> np.ndarray:
    """Return the logarithm of predicted over measured time of each row."""
    return np.array([math.log(cost_model.estimate(problem_of(r), r.mode, r.implementation, rates, r.threads) / r.median) for r in rows])


def fit(rows: Sequence[Row], rates: Ceilings, device: str) -> Fit:
    own = [row for row in ok_rows(rows) if row.device == device and find_method(row.method).hand_written]
    own = [row for row in own if row.implementation in {"native", "eager", "cuda-graph", "triton", "triton-graph"}]
    problems = {problem: number for number, problem in enumerate(dict.fromkeys(problem_of(row) for row in own))}
    fitted = [row for row in own if problems[problem_of(row)] % 2 == 0]
    held = [row for row in own if problems[problem_of(row)] % 2]
    if min(len(fitted), len(held)) < FEWEST:
        raise BadInput(f"{len(own)} rows of hand-written methods on {device}; a fit needs {2 * FEWEST}: measure more sweeps")
    names = CPU if device == "cpu" else GPU
    before = {name: float(getattr(cost_model, name)) for name in names}

    def values(x: np.ndarray) -> dict[str, float]:
        return {
            name: value * math.exp(shift)
            for (name, value), shift in zip(before.items(), np.clip(x, -math.log(MOST), math.log(MOST)), strict=True)
        }

    def loss(x: np.ndarray) -> float:
        with constants(values(x)):
            found = logs(fitted, rates)
        # A planner has to order methods: outliers are not to move it, so errors count by their size, not its square.
        return float(np.abs(found).mean() + HELD * np.square(x).mean())

    best = minimize(loss, np.zeros(len(names)), method="Powell", options={"maxiter": 4, "xtol": 0.02, "ftol": 1e-3})
    after = values(best.x)
    errors, regrets = [], []
    for constant in (before, after):
        with constants(constant):
            errors.append(float(np.median(np.abs(logs(held, rates)))))
            try:
                planner = regret.regrets([r for r in held if r.implementation != "eager"] or held, rates={device: rates})[0]
                regrets.append((planner.median, planner.ratios[-1]))
            except BadInput:
                regrets.append(None)
    both = None if None in regrets else (regrets[0], regrets[1])
    return Fit(device, (len(fitted), len(held)), before, after, (errors[0], errors[1]), both)


def lines(found: Fit) -> list[str]:
    said = [f"# {found.device}: fitted on {found.rows[0]} rows, judged on {found.rows[1]} of other problems"]
    said += [f"{name} = {value:.3g}  # was {found.before[name]:.3g}" for name, value in found.after.items()]
    said.append(f"# error of the prediction: {math.exp(found.errors[0]):.2f}x before, {math.exp(found.errors[1]):.2f}x after (median)")
    if found.regrets:
        (a, b), (c, d) = found.regrets
        said.append(f"# regret: median {a:.2f} and worst {b:.2f} before, median {c:.2f} and worst {d:.2f} after")
    return said


def of_directory(directory: Path) -> list[Fit]:
    """Fit every device of a machine's results."""
    paths = sorted(path for path in directory.glob("*.csv") if file_beside(path).exists())
    if not paths:
        raise BadInput(f"{directory}: no results with their environment; name results/<machine>")
    rows = [row for path in paths for row in read_csv(path)]
    rates = {device: found for path in paths for device, found in read_provenance(path).rates.items()}
    devices = dict.fromkeys(row.device for row in ok_rows(rows) if row.device in rates)
    return [fit(rows, rates[device], device) for device in devices]


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the planner's constants to the results of a machine.")
    parser.add_argument("directory", type=Path, metavar="results/<machine>")
    try:
        for found in of_directory(parser.parse_args().directory):
            print("\n".join(lines(found)))
    except BadInput as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()

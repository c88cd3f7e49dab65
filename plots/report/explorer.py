"""The explorer: what its arithmetic in the page computes from, and the constants that it shares with Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.analysis import recommend
from benchmarks.records.problems import NAIVE, groups, is_ours, problem_of
from benchmarks.records.rows import Row, ok_rows
from benchmarks.run.provenance import Provenance
from jacobians.kernels.cuda import blocks, wide
from jacobians.kernels.native import program
from jacobians.modes import bracketing
from jacobians.planning import cost_model, registry
from jacobians.planning.registry import JACOBIAN, methods

SHARED: tuple[tuple[ModuleType, str], ...] = (
    (bracketing, "PER_SAMPLE"),
    (program, "MOST_TANGENTS MOST_COTANGENTS FEWEST_OPERATIONS FEWEST_BYTES"),
    (recommend, "NEARBY"),
    (cost_model, "NATIVE_CALL EAGER_CALL GPU_CALL GRAPH_START GRAPH_CALL GRAPH_BATCH_CALL GPU_PASSES"),
    (cost_model, "TRITON_START TRITON_LAYER_S TRITON_TILE_S TRITON_AT_ONCE"),
    (blocks, "MOST_NEURONS MOST_STREAMS MOST_ROWS MULTIPROCESSORS"),
    (wide, "WIDE_ROWS"),
    (cost_model, "EAGER_OPERATIONS ROW_S LAYER_S NUMBER_S EFFICIENCY EAGER_EFFICIENCY"),
    (registry, "MODES"),
)
CONSTANTS: dict[str, Any] = {name: getattr(module, name) for module, names in SHARED for name in names.split()}


def model() -> str:
    """Return the script of the cost model, with Python's own constants written in."""
    script = Path(__file__).with_name("templates") / "model.js"
    return f"const CONSTANTS = {json.dumps(CONSTANTS)};\n" + script.read_text(encoding="utf-8")


def machines(loaded: Sequence[tuple[Sequence[Row], Provenance]]) -> list[dict[str, Any]]:
    """Collect per machine and device its ceilings, and the measured times of each problem."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for rows, origin in loaded:
        for device, rates in origin.rates.items():
            here = [row for row in ok_rows(rows) if (row.quantity, row.device, row.dtype) == (JACOBIAN, device, "float32")]
            if not here:
                continue
            # What is made for the device: what is installed where the page is written does not count.
            ours = [m.implementation for m in methods() if m.hand_written and m.device in {None, device}]
            record = found.setdefault(
                (origin.machine, device, origin.threads),
                {
                    "name": f"{here[0].device_name} ({device}, {origin.threads} threads)",
                    "device": device,
                    "threads": origin.threads,
                    "read": rates.read,
                    "gemm": rates.gemm,
                    "call_s": rates.call_s,
                    "ours": list(dict.fromkeys(ours)),
                    "problems": [],
                },
            )
            record["problems"] += [_measured(group) for group in groups(here)]
    return list(found.values())


def _measured(group: list[Row]) -> dict[str, Any]:
    problem = problem_of(group[0])
    return {
        "widths": problem.widths,
        "batch": problem.batch,
        "itemsize": problem.itemsize,
        "plain": (problem.activation, problem.output_activation, problem.bias) == ("tanh", "identity", False),
        "normal": group[0].init == "normal",
        "times": [[row.method, float(f"{row.median_s:.6g}")] for row in group if is_ours(row) or row.implementation not in NAIVE],
    }

"""Rows for tests, and where they come from: complete, valid, and cheap."""

from benchmarks.measure.ceilings import as_record
from benchmarks.records.csv_file import write_csv
from benchmarks.records.rows import Row
from benchmarks.run.provenance import Provenance
from benchmarks.workloads.cases import Sweep
from jacobians.planning.machine import Ceilings
from jacobians.planning.registry import find_quantity, split

RATES = Ceilings(
    tuple(zip([2**18, 2**20, 2**22, 2**24, 2**25, 2**26, 2**28], [2.3e11, 2.2e11, 1.9e11, 1.9e11, 6e10, 3.1e10, 2.9e10], strict=True)),
    3e11,
    1.5e11,
    2e11,
    1.05e-6,
    measured=True,
)


def origin(sweep="quick", machine="some-machine-2-cores", **changes):
    """Make a provenance; `grid` names the sweep's problems."""
    grid = changes.pop("grid", [{"L": 2, "D": 3, "K": 5, "P": 4}])
    values = {
        "machine": machine,
        "facts": {"commit": "abc", "cpu_model": "Some CPU", "libraries": {"torch": "2.13.0"}},
        "sweep": Sweep.model_validate({"name": sweep, "title": "A sweep", "grid": grid}),
        **{
            "devices": ["cpu"],
            "methods": [],
            "seed": 0,
            "threads": 2,
            "timeout_s": 120.0,
            "seconds": None,
            "precision": 0.01,
            "cache": "hot",
        },
        **{"command": f"python bench.py run {sweep}", "overhead": {"timer_s": 5e-8}, "ceilings": {"cpu": as_record(RATES)}},
        **{"wall_s": 10.0, "busy_s": 8.0},
    }
    return Provenance.model_validate({**values, **changes})


def write_result(rows, path, **changes):
    """Write a CSV and the environment beside it."""
    write_csv(rows, path)
    path.with_suffix(".environment.json").write_text(origin(path.stem, **changes).model_dump_json(by_alias=True))
    return path


def row(method="reverse:eager", *, L=2, D=3, K=5, P=4, N=1, status="ok", median=1e-4, spread=0.02, sweep="quick", device="cpu", **changes):
    """Make a valid row; the interval of its median is ± `spread`."""
    quantity, short = split(method)
    mode, implementation = short.split(":", 1)
    widths = "-".join(map(str, (D, *[K] * L, P)))
    values = {
        "sweep": sweep,
        **{"L": L, "D": D, "K": K, "P": P, "N": N, "widths": widths},
        **{"activation": "tanh", "dtype": "float32", "device": device, "device_name": f"Some {device}", "machine": "some-machine-2-cores"},
        **{"quantity": quantity, "method": method, "mode": mode, "implementation": implementation, "status": status},
        "reason": None if status == "ok" else "a reason",
        **{"init": "xavier", "bias": False, "seed": 0, "run": "2026-01-01T00:00:00Z"},
        **{"flops": 1000, "bytes": 2000, "threads": 2, "torch": "2.13.0", "commit": "abc", "started_at": "2026-01-01T00:00:00+00:00"},
    }
    if status == "ok":
        values |= {
            "rel_error": 1e-7,
            "tolerance": 1e-5,
            "rounds": 100,
            "iterations": 2,
            "stddev_s": median / 50,
            "prepare_s": 0.1,
            "peak_bytes": 4096,
        }
        values |= {
            "min_s": median * 0.9,
            "q1_s": median * 0.95,
            "median_s": median,
            "q3_s": median * 1.1,
            "max_s": median * 2,
            "mean_s": median,
        }
        values |= {"ci_low_s": median * (1 - spread), "ci_high_s": median * (1 + spread), "stop": "precision", "cache": "hot"}
        steps = (-1, -0.6, -0.2, 0.2, 0.6, 1)
        values["block_medians_s"] = " ".join(f"{median * (1 + step * spread):.6g}" for step in steps)
    values |= changes
    if "loss" not in values and find_quantity(quantity).loss:
        values["loss"] = "mse"
    problem = " ".join(
        [
            f"{values['widths']} N{N} {values['activation'].replace(' > ', '>')} {'bias' if values['bias'] else 'nobias'} {values['init']}",
            f"seed{values['seed']} {values['dtype']}",
            *([text] if (text := values.get("loss") or values.get("asked")) else []),
        ]
    )
    return Row.model_validate({"case": f"{problem}/{values['device']}/{method}", **values})

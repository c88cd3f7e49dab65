"""Provenance of a result: the environment file beside each CSV, validated on writing and on reading."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.errors import BadInput, printable
from benchmarks.measure import ceilings, overhead
from benchmarks.records.csv_file import write_atomically
from benchmarks.records.rows import describe
from benchmarks.run import environment
from benchmarks.run.worker import Settings
from benchmarks.workloads.cases import Sweep
from jacobians.planning.machine import Ceilings

SCHEMA = 3


class Provenance(BaseModel):
    """All that is needed to trace a result, and to measure it again."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: int = Field(SCHEMA, alias="schema", le=SCHEMA)
    machine: str
    fingerprint: str | None = None
    facts: dict[str, Any]
    sweep: Sweep
    devices: list[str]
    methods: list[str]
    seed: int
    threads: int
    timeout_s: float
    seconds: float | None
    precision: float
    cache: str
    command: str | None
    overhead: dict[str, float]
    ceilings: dict[str, dict[str, float]]
    wall_s: float = Field(0.0, ge=0)
    busy_s: float = Field(0.0, ge=0)

    def as_text(self) -> str:
        """Write what stands in its file."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    @property
    def commit(self) -> str:
        """Commit, with `-dirty` where the tree had changes."""
        return str(self.facts.get("commit") or "?")

    @property
    def rates(self) -> dict[str, Ceilings]:
        """The ceilings of each device that has all of them; results of before schema 3 lack some."""
        found: dict[str, Ceilings] = {}
        for device, record in self.ceilings.items():
            with contextlib.suppress(KeyError):
                found[device] = ceilings.from_record(record)
        return found


def describe_run(sweep: Sweep, settings: Settings) -> Provenance:
    """Collect where the rows of a run will come from. Takes about a second: the ceilings and overheads are measured."""
    # Only what was typed after the name: the path of the script is the machine's business.
    typed = shlex.join(_without_place(word) for word in sys.argv[1:]) if Path(sys.argv[0]).name == "bench.py" else None
    present = [device for device in settings.devices if device in environment.available_devices()]
    return Provenance(
        schema=SCHEMA,
        machine=environment.machine_slug(),
        fingerprint=environment.hardware_fingerprint(),
        facts=environment.collect(),
        sweep=sweep,
        **{**settings.asked(), "threads": settings.threads_asked},
        command=None if typed is None else f"python bench.py {typed}",
        overhead=overhead.measure(),
        ceilings=_ceilings(present, settings.threads_asked),
    )


def _without_place(word: str) -> str:
    """Strip directories from absolute paths: they name a machine, or its user. Names of files need not be text."""
    return printable(f".../{Path(word).name}" if Path(word).is_absolute() else word)


def with_ceilings_of_now(origin: Provenance, settings: Settings, doubted: bool) -> Provenance:
    """Measure the ceilings once more, at the end of a run of more than a minute, and keep the best rates seen."""
    return origin.model_copy(update={"ceilings": _ceilings(list(origin.ceilings), settings.threads_asked, doubted)})


def _ceilings(devices: list[str], threads: int, doubted: bool = False) -> dict[str, dict[str, float]]:
    """Measure the ceilings with as many threads as the run will use."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return {device: ceilings.as_record(ceilings.raised(device, doubted)) for device in devices}
    finally:
        torch.set_num_threads(before)


def file_beside(csv: Path) -> Path:
    """Name the environment file of a CSV."""
    return csv.with_suffix(".environment.json")


def write_provenance(csv: Path, origin: Provenance) -> None:
    """Write the environment file beside a CSV."""
    write_atomically(file_beside(csv), origin.as_text())


def read_provenance(csv: Path) -> Provenance:
    """Read the environment file beside a CSV."""
    path = file_beside(csv)
    try:
        return Provenance.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; it belongs beside {csv.name}, measure again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as text ({type(error).__name__})") from None
    except ValidationError as error:
        raise BadInput(f"{path}: {describe(error)}; restore the file or measure again") from None

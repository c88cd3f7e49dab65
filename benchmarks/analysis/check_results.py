"""Is a results directory fit to be kept? Schema, verdicts, environment, and what is faster than the machine can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.errors import BadInput
from benchmarks.measure.ceilings import MOST, floor_s
from benchmarks.records.csv_file import read_csv
from benchmarks.records.problems import problem_of
from benchmarks.records.rows import Row, ok_rows
from benchmarks.run.items import Item
from benchmarks.run.provenance import Provenance, read_provenance


def check_results(paths: Sequence[Path]) -> list[Item]:
    items: list[Item] = []
    for path in paths:
        try:
            rows, origin = read_csv(path), read_provenance(path)
        except BadInput as error:
            items.append(Item(path.name, "wrong", str(error)))
            continue
        wrong = list(_wrong(rows, origin))
        good = ok_rows(rows)
        detail = f"{len(rows)} rows, {len(good)} of them ok, {', '.join(sorted({row.device_name for row in rows}))}"
        items += [Item(path.name, "wrong", one) for one in wrong] or [Item(path.name, "ok", detail)]
    return items


def verdict(items: Sequence[Item]) -> str:
    """Say in one line whether all is right."""
    files = dict.fromkeys(item.what for item in items if item.failed)
    return f"not fit to be kept: {', '.join(files)}" if files else "fit to be kept"


def _wrong(rows: Sequence[Row], origin: Provenance) -> Iterator[str]:
    """Go over what contradicts itself, the environment or the machine."""
    good = ok_rows(rows)
    if not good:
        yield "no measured case"
    machines = {row.machine for row in rows} - {origin.machine}
    if machines:
        yield f"rows of {', '.join(sorted(machines))}, but the environment file is of {origin.machine}"
    for row in good:
        rates = origin.rates.get(row.device)
        if rates is None:
            yield f"{row.case}: the environment file has no ceilings of {row.device}"
        elif row.flops is not None:
            floor = floor_s(problem_of(row), row.mode, rates)
            if floor > MOST * row.median:
                yield f"{row.case}: {row.median:.3g} s, but this machine cannot do it in less than {floor:.3g} s"

"""Put all results of a machine under its best ceilings: `python -m tools.best_ceilings results/<machine>`.

Each run measures the ceilings at both ends, and what else the machine did can only hide how fast it is. So the best rate of all runs
counts for every row of the machine: fractions of the ceiling become comparable between files.
"""

from __future__ import annotations

import sys
from functools import reduce
from pathlib import Path

from benchmarks.errors import BadInput
from benchmarks.measure import ceilings
from benchmarks.records.csv_file import read_csv, write_csv
from benchmarks.records.journal import Entry
from benchmarks.run.provenance import read_provenance, write_provenance
from benchmarks.run.supervisor import under


def rewrite(directory: Path) -> list[Path]:
    paths = sorted(path for path in directory.glob("*.csv") if not path.name.endswith(".previous.csv"))
    origins = {path: read_provenance(path) for path in paths}
    kinds = {(origin.machine, origin.fingerprint) for origin in origins.values()}
    if len(kinds) != 1:
        raise BadInput(f"{directory}: expected the results of one machine, got those of {len(kinds)}")
    written: list[Path] = []
    for path, origin in origins.items():
        alike = [other for other in origins.values() if other.threads == origin.threads]
        devices = {device for other in alike for device in other.rates}
        rates = {device: reduce(ceilings.best, [other.rates[device] for other in alike if device in other.rates]) for device in devices}
        rows = [under(Entry(row), rates).row for row in read_csv(path)]
        record = {device: ceilings.as_record(found) for device, found in rates.items() if device in origin.ceilings}
        write_csv(rows, path)
        write_provenance(path, origin.model_copy(update={"ceilings": record}))
        written.append(path)
    return written


if __name__ == "__main__":
    for result in sys.argv[1:]:
        for name in rewrite(Path(result)):
            print(f"wrote {name}")

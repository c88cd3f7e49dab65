"""Two results beside each other: rows matched by problem and method, the ratio of their medians, a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.errors import BadInput
from benchmarks.measure import statistics
from benchmarks.measure.statistics import Ratio
from benchmarks.records.problems import (
    best_of_ours,
    certainty,
    changed,
    groups,
    is_baseline,
    key_of,
    ratio,
    ratio_in_cycles,
    title,
    together,
)
from benchmarks.records.rows import Row, ok_rows

LEAST_REFERENCES = 4  # rows of libraries that tell how much two runs differ


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method on one problem in two results; the ratio is other / base, below 1 the other one is faster."""

    base: Row
    other: Row
    deviation: float = 0.0  # between runs

    @property
    def method(self) -> str:
        """The method, or both where the best of either side is compared."""
        return self.base.method if self.base.method == self.other.method else f"{self.base.method} / {self.other.method}"

    @property
    def ratio(self) -> Ratio:
        """Time of the other one over that of the base, with its interval."""
        found = ratio(self.other, self.base)
        return found if found.kind == "paired" else statistics.widened(found, self.deviation)

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, `same` or `inconclusive`: the other one against the base, in time, and in cycles where these are known."""
        blocks = [row.block_medians for row in (self.base, self.other)]
        in_time, cycles = statistics.verdict(self.ratio, *blocks), ratio_in_cycles(self.other, self.base)
        if cycles is None or in_time not in {"faster", "slower"}:
            return in_time
        blocks = [[m / loop for m, loop in zip(row.block_medians, row.block_loops, strict=True)] for row in (self.base, self.other)]
        cycles = cycles if cycles.kind == "paired" else statistics.widened(cycles, self.deviation)
        return in_time if statistics.verdict(cycles, *blocks) == in_time else "inconclusive"

    @property
    def note(self) -> str:
        """The verdict with what else must be known: the weaker word of the two rows, and whether the code is the same."""
        notes = [one for one in (certainty(self.base, self.other), changed(self.base, self.other)) if one]
        return f"{self.verdict} ({', '.join(notes)})" if notes else self.verdict

    def worse_than(self, threshold: float) -> bool:
        """Say whether the other one is slower than a ratio, beyond doubt."""
        ratio = self.ratio
        return ratio.low is not None and ratio.low > threshold and self.verdict == "slower"


def compare(base: Sequence[Row], other: Sequence[Row], *, force: bool = False) -> list[Comparison]:
    """Match rows by problem and method; across devices also the best hand-written method of either side, whatever their methods."""
    base, other = ok_rows(base), ok_rows(other)
    if not force:
        for name, words in (("schema_version", "schema"), ("dtype", "dtype"), ("cache", "cache")):
            ours, theirs = ({str(getattr(row, name)) for row in rows} for rows in (base, other))
            if ours and theirs and not ours & theirs:
                got = f"{', '.join(sorted(ours))} against {', '.join(sorted(theirs))}"
                raise BadInput(f"the results differ in {words}: {got}; measure them alike, or give --force")
    matching: dict[tuple[object, str], list[Row]] = {}
    for row in other:
        matching.setdefault(_match(row, force), []).append(row)
    pairs = [Comparison(row, _likest(row, matching[_match(row, force)])) for row in base if _match(row, force) in matching]
    if {row.device for row in base} != {row.device for row in other}:
        pairs += _best_against_best(base, other, force)
    deviation = _deviation(pairs)
    pairs = [replace(c, deviation=deviation) if _place(c.base) == _place(c.other) else c for c in pairs]
    if not pairs:
        raise BadInput("the two results have no measured case in common; compare runs of the same sweep")
    return pairs


def _deviation(pairs: Sequence[Comparison]) -> float:
    """Estimate how much two runs on one machine differ by the methods of libraries, whose code is the same, if there are enough."""
    same = [c for c in pairs if _place(c.base) == _place(c.other) and is_baseline(c.base) and not together(c.base, c.other)]
    return statistics.between_runs([c.other.median / c.base.median for c in same]) if len(same) >= LEAST_REFERENCES else 0.0


def _place(row: Row) -> tuple[object, ...]:
    return row.machine, row.device, row.threads, row.cache


def _best_against_best(base: Sequence[Row], other: Sequence[Row], force: bool) -> list[Comparison]:
    theirs = {_match(group[0], force)[0]: best_of_ours(group) for group in groups(other)}
    found: list[Comparison] = []
    for group in groups(base):
        ours, best = best_of_ours(group), theirs.get(_match(group[0], force)[0])
        if ours and best and ours.method != best.method:
            found.append(Comparison(ours, best))
    return found


def _likest(row: Row, candidates: Sequence[Row]) -> Row:
    """Return the row measured most alike: on the same device with the same threads where there is one."""
    return max(candidates, key=lambda other: (other.device == row.device, other.threads == row.threads))


def as_records(comparisons: Sequence[Comparison]) -> list[dict[str, str | float | None]]:
    """Return a comparison for other programs."""
    return [
        {
            "problem": title(c.base),
            "method": c.method,
            "base": c.base.case,
            "other": c.other.case,
            "base_s": c.base.median_s,
            "other_s": c.other.median_s,
            "ratio": c.ratio.value,
            "low": c.ratio.low,
            "high": c.ratio.high,
            "kind": c.ratio.kind,
            "verdict": c.verdict,
            "certainty": certainty(c.base, c.other),
            "sources": changed(c.base, c.other),
        }
        for c in comparisons
    ]


def _match(row: Row, force: bool) -> tuple[object, str]:
    key = key_of(row)
    return (key._replace(dtype="") if force else key), row.method

"""Two results beside each other: rows matched by problem and method, the ratio of their medians, a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.analysis import statistics
from benchmarks.analysis.statistics import Ratio
from benchmarks.errors import BadInput
from benchmarks.records.rows import Row, ok_rows


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method on one problem in two results; the ratio is other / base, below 1 the other one is faster."""

    base: Row
    other: Row

    @property
    def ratio(self) -> Ratio:
        """Ratio of the medians with its interval."""
        if self.base.block_medians and self.other.block_medians:
            return statistics.unpaired_ratio(self.other.block_medians, self.base.block_medians)
        assert self.base.median_s
        assert self.other.median_s
        return Ratio(self.other.median_s / self.base.median_s, None, None)  # schema 1 kept no blocks

    @property
    def verdict(self) -> str:
        """`faster`, `slower`, `same` or `inconclusive`: the other one against the base."""
        return statistics.verdict(self.base.block_medians, self.other.block_medians) if self.ratio.low is not None else "inconclusive"

    def worse_than(self, threshold: float) -> bool:
        """Say whether the other one is slower than a ratio, beyond doubt.

        Args:
            threshold: E.g. 1.1 for 10 % slower.

        Returns:
            Whether the whole interval lies beyond it and the rank test agrees that the two differ.
        """
        ratio = self.ratio
        agrees = statistics.p_value(self.base.block_medians, self.other.block_medians) < statistics.SIGNIFICANCE
        return ratio.low is not None and ratio.low > threshold and agrees


def compare(base: Sequence[Row], other: Sequence[Row], *, force: bool = False) -> list[Comparison]:
    """Match rows by problem and method.

    Args:
        base: Rows of the first result.
        other: Rows of the second; a device may stand against another device.
        force: Compare although threads, schema or cache differ, and match problems of different dtype.

    Returns:
        One comparison per matched pair of `ok` rows, in the order of `base`.

    Raises:
        BadInput: No row of one matches a row of the other, or they were measured under different conditions.
    """
    if not force:
        for name, words in (("schema_version", "schema"), ("dtype", "dtype"), ("threads", "number of threads"), ("cache", "cache")):
            _same(words, {str(getattr(row, name)) for row in ok_rows(base)}, {str(getattr(row, name)) for row in ok_rows(other)})
    theirs = {_match_key(row, force): row for row in ok_rows(other)}
    pairs = [Comparison(row, theirs[_match_key(row, force)]) for row in ok_rows(base) if _match_key(row, force) in theirs]
    if not pairs:
        raise BadInput("the two results have no measured case in common; compare runs of the same sweep")
    return pairs


def as_records(comparisons: Sequence[Comparison]) -> list[dict[str, str | float | None]]:
    """Return a comparison for other programs.

    Args:
        comparisons: What was compared.

    Returns:
        One record per pair: case keys, times in seconds, ratio with its interval, verdict.
    """
    return [
        {
            "problem": c.base.problem_key,
            "method": c.base.method,
            "base": c.base.case,
            "other": c.other.case,
            "base_s": c.base.median_s,
            "other_s": c.other.median_s,
            "ratio": c.ratio.value,
            "low": c.ratio.low,
            "high": c.ratio.high,
            "verdict": c.verdict,
        }
        for c in comparisons
    ]


def _same(words: str, ours: set[str], theirs: set[str]) -> None:
    if ours and theirs and not ours & theirs:
        got = f"{', '.join(sorted(ours))} against {', '.join(sorted(theirs))}"
        raise BadInput(f"the results differ in {words}: {got}; measure them alike, or give --force")


def _match_key(row: Row, force: bool) -> tuple[str, str]:
    # The dtype is the last word of a problem's key.
    return (row.problem_key.rsplit(" ", 1)[0] if force else row.problem_key), row.method

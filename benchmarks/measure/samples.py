"""One case being measured: its blocks of rounds, when to stop, and the summary."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure.statistics import certainty, drifting_interval, half_width


class ClockError(RuntimeError):
    """A clock that stands still, runs backward or is too coarse to time anything."""


@dataclass(frozen=True)
class StopRule:
    """When a case has been measured enough.

    The blocks are the independent samples: rounds within a block share whatever the machine was doing then. So the
    precision is that of the median of the block medians, and at least six blocks are measured, which a 95 % interval needs.
    """

    seconds: float = 2.0  # measuring time of a case, warm-up not counted; a slow call may exceed it, for each block has one round at least
    precision: float = 0.01  # relative half-width of the median's 95 % interval that is good enough
    least_blocks: int = 6
    most_blocks: int = 12  # blocks that fill the time

    @property
    def block_seconds(self) -> float:
        """Measuring time of one block."""
        return self.seconds / self.most_blocks

    def decide(self, blocks: Sequence[Sequence[float]], iterations: int) -> str | None:
        """Say whether to stop.

        Example:
            >>> rule = StopRule()
            >>> rule.decide([[1e-3]] * 5, 1), rule.decide([[1e-3]] * 6, 1)
            (None, 'precision')
        """
        if len(blocks) < self.least_blocks:
            return None
        if half_width([statistics.median(block) for block in blocks]) <= self.precision:
            return "precision"
        spent = sum(map(sum, blocks)) * iterations
        return "time" if len(blocks) >= self.most_blocks or spent >= self.seconds else None


@dataclass
class Measurement:
    """Samples of a case, block by block, with what was noticed beside them."""

    rule: StopRule
    iterations: int = 1
    rounds: int = 0
    blocks: list[list[float]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    device_times: list[float] = field(default_factory=list)
    loops: list[float] = field(default_factory=list)  # the fixed loop beside each block
    busy_s: float = 0.0
    stop: str | None = None

    def add(self, samples: Sequence[float]) -> None:
        bad = [sample for sample in samples if not (sample > 0 and math.isfinite(sample))]
        if bad or not samples:
            got = f"{bad[0]:g} s for {self.iterations} calls" if bad else "no samples"
            raise ClockError(f"the clock stands still, runs backward or is too coarse: it gave {got}")
        self.blocks.append(list(samples))
        self.busy_s += sum(samples) * self.iterations
        self.stop = self.rule.decide(self.blocks, self.iterations)

    @property
    def block_medians(self) -> list[float]:
        """Median of each block, in seconds per call."""
        return [statistics.median(block) for block in self.blocks]

    def summary(self) -> dict[str, Any]:
        samples = sorted(sample for block in self.blocks for sample in block)
        quartiles = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else samples * 3
        medians = self.block_medians
        interval = drifting_interval(medians)
        word, reason = certainty(medians, self.loops)
        median = statistics.median(samples)
        # The interval comes from the blocks, the median from all samples: a skewed block must not leave it outside.
        low, high = (min(interval[0], median), max(interval[1], median)) if interval else (None, None)
        return {
            "rounds": len(samples),
            "iterations": self.iterations,
            "min_s": samples[0],
            "q1_s": quartiles[0],
            "median_s": median,
            "q3_s": quartiles[2],
            "max_s": samples[-1],
            "mean_s": statistics.fmean(samples),
            "stddev_s": statistics.stdev(samples) if len(samples) > 1 else 0.0,
            "ci_low_s": low,
            "ci_high_s": high,
            "stop": self.stop,
            "flags": " ".join(self.flags(median, quartiles)) or None,
            "block_medians_s": " ".join(f"{value:.6g}" for value in medians),
            "block_loops_s": " ".join(f"{value:.6g}" for value in self.loops) or None,
            "certainty": word,
            "certainty_reason": reason,
            "device_median_s": statistics.median(self.device_times) if self.device_times else None,
        }

    def flags(self, median: float, quartiles: Sequence[float]) -> list[str]:
        """List the warnings about this measurement."""
        # The median of the blocks stands what disturbs a few of them: what counts is what disturbed a quarter.
        found = {flag for flag in self.notices if self.notices.count(flag) > len(self.blocks) * DISTURBED or flag == "threads"}
        if quartiles[2] - quartiles[0] > NOISY * median:
            found.add("noisy")
        medians = self.block_medians
        if len(medians) > 1:
            low, _, high = statistics.quantiles(medians, n=4, method="inclusive")
            if high > (1 + DRIFT) * low:
                found.add("drift")
        # Device time cannot exceed the time on the wall, but for the resolution of the events (about 1 µs).
        if self.device_times and statistics.median(self.device_times) > 1.05 * median + 2e-6:
            found.add("events")
        return [flag for flag in FLAG_ORDER if flag in found]


NOISY = 0.25
DRIFT = 0.15
DISTURBED = 0.25  # of the blocks
FLAG_ORDER = ("noisy", "drift", "clock", "load", "threads", "events")

"""Statistics of samples: intervals of a median and of a ratio, and tests of a difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median

import numpy as np
from scipy.special import bdtr, stdtrit

Interval = Callable[[Sequence[float]], "tuple[float, float] | None"]


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return a distribution-free interval of the median: two order statistics, by the binomial distribution.

    Example:
        >>> median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        (1.0, 6.0)
        >>> median_interval([1.0, 2.0, 3.0]) is None
        True

    Source:
        Conover, Practical Nonparametric Statistics (3rd ed., 1999), section 3.2; the same as `scipy.stats.quantile_test` gives.
    """
    # The k smallest and k largest samples may be left out while P(X <= k - 1) of the binomial distribution stays below half the rest.
    tail = (1 - confidence) / 2
    if not len(samples) or bdtr(0, len(samples), 0.5) > tail:
        return None
    left_out = 0
    while bdtr(left_out + 1, len(samples), 0.5) <= tail:
        left_out += 1
    ordered = sorted(samples)
    return float(ordered[left_out]), float(ordered[-1 - left_out])


def drifting_interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """Return a 95 % interval of the median of samples that follow each other, while the machine drifts.

    Neighbours are taken to be correlated by 0.8, whatever they look like: six to twelve samples cannot tell how much they are. The
    mean of n such samples varies as `1ᵀR1/n²`, their variance shows `tr(AR)/(n-1)` of the whole with `tr(AR)²/tr(ARAR)` degrees of
    freedom, where `R[i, j] = 0.8^|i-j|` and A takes away the mean. Logarithms are taken, for a machine slows down by factors.

    Example:
        >>> [round(end, 1) for end in drifting_interval([99.0, 100.0, 100.0, 100.0, 100.0, 101.0])]
        [97.3, 102.8]
        >>> drifting_interval([100.0] * 5) is None
        True
    """
    if median_interval(samples) is None:
        return None
    wide = math.exp(_spread(len(samples)) * float(np.log(samples).std(ddof=1)))
    return median(samples) / wide, median(samples) * wide


CORRELATION = 0.8


@lru_cache
def _spread(count: int) -> float:
    """Return half the width of that interval, in standard deviations of the samples."""
    R = CORRELATION ** np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    AR = R - R.mean(0)
    seen, freedom = np.trace(AR) / (count - 1), np.trace(AR) ** 2 / np.trace(AR @ AR)
    return float(stdtrit(freedom, 0.975) * math.sqrt(R.mean() / seen))


def half_width(samples: Sequence[float], interval: Interval = median_interval) -> float:
    """Return half the width of the median's 95 % interval, relative to the median.

    Example:
        >>> half_width([99.0, 100.0, 100.0, 100.0, 100.0, 101.0])
        0.01
    """
    ends = interval(samples)
    return math.inf if ends is None else (ends[1] - ends[0]) / 2 / median(samples)


CERTAIN = 0.05  # half an interval that is this narrow is enough for a time, or for one in cycles
WORDS = ("undecided", "corrected", "confirmed")  # from the weakest on


def certainty(medians: Sequence[float], loops: Sequence[float]) -> tuple[str, str]:
    """Return the word on the noise of a measurement, and why: from its blocks, and a fixed loop that was timed beside each.

    Example:
        >>> certainty([1.0, 1.01, 0.99, 1.0, 1.0, 1.0], [1.0] * 6)
        ('confirmed', '±2.8 %, 0 of 6 blocks off')
        >>> certainty([1.0, 1.2, 1.4, 1.2, 1.0, 1.1], [1.0, 1.2, 1.4, 1.2, 1.0, 1.1])
        ('corrected', '±60 %, ±0 % in cycles, 3 of 6 blocks off, clock fell by 29 %')
    """
    if median_interval(medians) is None:
        return "undecided", f"{len(medians)} blocks give no interval"
    known = len(loops) == len(medians)
    width = half_width(medians, drifting_interval)
    in_cycles = half_width([m / loop for m, loop in zip(medians, loops, strict=True)], drifting_interval) if known else math.inf
    word = "confirmed" if width <= CERTAIN else "corrected" if in_cycles <= CERTAIN else "undecided"
    off = sum(abs(m / median(medians) - 1) > CERTAIN for m in medians)
    fell = 1 - min(loops) / max(loops) if known else 0.0
    cycles = f", ±{in_cycles * 100:.2g} % in cycles" if known and word != "confirmed" else ""
    return word, f"±{width * 100:.2g} %{cycles}, {off} of {len(medians)} blocks off" + (
        f", clock fell by {fell:.0%}" if fell > 0.02 else ""
    ).replace("%", " %")


WIDE = 1.5  # an interval whose ends differ more than this is called wide


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two times with its 95 % interval, `None` where the data are too few."""

    value: float
    low: float | None  # lower end of the interval
    high: float | None
    kind: str = "medians"  # the ratio of two medians, or `"paired"`: the median of the ratios of blocks that were measured in turn

    @property
    def wide(self) -> bool:
        """Whether the interval is too wide for more than one digit to mean anything."""
        return self.low is not None and self.high is not None and self.high > WIDE * self.low

    def __str__(self) -> str:
        """Write e.g. `1.25x (1.22-1.29)`, and `about 1.3x (0.9-2)` where the interval is wide.

        Example:
            >>> str(Ratio(1.25, 1.22, 1.29)), str(Ratio(1.31, 0.91, 2.04)), str(Ratio(18.6, 17.4, 23.7))
            ('1.25x (1.22-1.29)', 'about 1.3x (0.9-2)', '18.6x (17.4-23.7)')
        """
        if self.low is None or self.high is None:
            return f"{_digits(self.value, 3)}x"
        if self.wide:
            return f"about {_digits(self.value, 2)}x ({_digits(self.low, 1)}-{_digits(self.high, 1)})"
        return f"{_digits(self.value, 3)}x ({_digits(self.low, 3)}-{_digits(self.high, 3)})"

    def short(self) -> str:
        """Write the value with the half-width of its interval in per cent.

        Example:
            >>> Ratio(1.25, 1.2, 1.3).short(), Ratio(1.3, 0.9, 2.0).short()
            ('1.25x ±4%', 'about 1.3x')
        """
        if self.low is None or self.high is None or self.wide:
            return f"about {_digits(self.value, 2)}x" if self.wide else f"{_digits(self.value, 3)}x"
        return f"{_digits(self.value, 3)}x ±{(self.high - self.low) / 2 / self.value:.0%}"


def _digits(value: float, count: int) -> str:
    text = f"{value:#.{count}g}" if count > 1 else f"{value:.1g}"
    return (f"{value:.0f}" if "e" in text else text).removesuffix(".")


def paired_ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """Compare two methods measured in turn: block by block, so that what slowed both cancels.

    Example:
        >>> paired_ratio([2.0, 4.0, 6.0, 2.0, 4.0, 6.0], [1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
        Ratio(value=2.0, low=2.0, high=2.0, kind='paired')
    """
    ratios = [a / b for a, b in zip(over, under, strict=False)]
    interval = median_interval(ratios) or (None, None)
    return Ratio(median(ratios), *interval, kind="paired")


Median = tuple[float, float | None, float | None]


def ratio_of_medians(over: Median, under: Median) -> Ratio:
    """Compare two measurements made at different times.

    The interval is made of the ends of the two medians' intervals: it covers the ratio with at least 90 % where each
    covers its median with 95 % (Bonferroni). Wide, but never too narrow.

    Example:
        >>> ratio_of_medians((2.0, 1.8, 2.2), (1.0, 0.8, 1.1)).value
        2.0
    """
    (a, a_low, a_high), (b, b_low, b_high) = over, under
    if a_low is None or a_high is None or b_low is None or b_high is None:
        return Ratio(a / b, None, None)
    return Ratio(a / b, a_low / b_high, a_high / b_low)


def between_runs(ratios: Sequence[float]) -> float:
    """Estimate how much a run as a whole differs from another one: the standard deviation, in logarithms, that equal things show.

    Example:
        >>> round(between_runs([1.05, 1.04, 1.06, 0.99]), 3), between_runs([])
        (0.065, 0.0)
    """
    return 1.4826 * median([abs(math.log(ratio)) for ratio in ratios]) if ratios else 0.0


def widened(ratio: Ratio, deviation: float) -> Ratio:
    """Return a ratio whose interval allows for the variation between runs too."""
    if ratio.low is None or ratio.high is None:
        return ratio
    factor = math.exp(1.96 * deviation)
    return replace(ratio, low=ratio.low / factor, high=ratio.high * factor)


def p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided Mann-Whitney p-value for two sets of block medians.

    Example:
        >>> p_value([1.0, 1.0, 1.0], [1.0, 1.0])
        1.0

    Source:
        Mann & Whitney (1947), as in `scipy.stats.mannwhitneyu`.
    """
    if not first or not second or len({*first, *second}) == 1:
        return 1.0
    from scipy import stats  # takes most of a second to load, and only comparisons need it

    return float(stats.mannwhitneyu(first, second, alternative="two-sided").pvalue)


SIGNIFICANCE = 0.05
SAME_WITHIN = 1.05  # an interval this narrow around 1 is called the same


def verdict(ratio: Ratio, first: Sequence[float], second: Sequence[float]) -> str:
    """Say how the second measurement stands to the first.

    A difference is claimed only where the interval of the ratio leaves out 1, and the rank test agrees where blocks are no pairs: those
    are worth what their interval is, whatever both have drifted.
    """
    if ratio.low is None or ratio.high is None:
        return "inconclusive"
    if ratio.kind == "paired" or p_value(first, second) < SIGNIFICANCE:
        if ratio.high < 1:
            return "faster"
        if ratio.low > 1:
            return "slower"
    return "same" if 1 / SAME_WITHIN <= ratio.low and ratio.high <= SAME_WITHIN else "inconclusive"

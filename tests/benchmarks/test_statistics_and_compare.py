"""Intervals, ratios, verdicts and comparisons."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.analysis import tables
from benchmarks.analysis.compare import compare
from benchmarks.errors import BadInput
from benchmarks.measure import statistics
from benchmarks.measure.statistics import half_width, median_interval, p_value, paired_ratio, ratio_of_medians
from benchmarks.records import problems
from benchmarks.records.rows import SCHEMA
from tests.benchmarks.rows import row


class TestMedianInterval:
    def test_published_example(self):
        """Conover (1999), section 3.2: n = 16, the 90 % interval of the upper quartile; ours is the median of the same kind."""
        samples = list(range(1, 17))
        assert median_interval(samples) == (4.0, 13.0)  # binomial(16, 1/2): P(X <= 3) = 0.0106, P(X <= 4) = 0.038

    @pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
    def test_equals_scipy(self, confidence):
        generator = np.random.default_rng(1)
        for count in (8, 9, 12, 16, 31, 100):
            samples = generator.exponential(size=count)
            exact = stats.quantile_test(samples, p=0.5).confidence_interval(confidence)
            assert median_interval(samples, confidence) == (exact.low, exact.high)

    def test_coverage(self):
        generator = np.random.default_rng(0)
        inside = 0
        for _ in range(400):
            low, high = median_interval(generator.exponential(size=21))
            inside += low <= np.log(2) <= high
        assert inside >= 0.94 * 400

    @pytest.mark.parametrize("samples", [[], [1.0], [1.0] * 5])
    def test_too_few(self, samples):
        assert median_interval(samples) is None

    def test_constant(self):
        assert median_interval([2.0] * 10) == (2.0, 2.0)


def medians(samples):
    return (float(np.median(samples)), *(median_interval(samples) or (None, None)))


def unpaired_ratio(over, under):
    return ratio_of_medians(medians(over), medians(under))


def verdict(first, second):
    return statistics.verdict(unpaired_ratio(second, first), first, second)


class TestRatios:
    @pytest.mark.parametrize(
        ("ratio", "text"),
        [
            (statistics.Ratio(6.21 / 1.89, 3.1, 3.5), "3.29x (3.10-3.50)"),
            (statistics.Ratio(1.37, 0.95, 1.97), "about 1.4x (0.9-2)"),
            (statistics.Ratio(118.3, 110.0, 121.0), "118x (110-121)"),
            (statistics.Ratio(2.0, None, None), "2.00x"),
        ],
    )
    def test_digits_follow_the_interval(self, ratio, text):
        assert str(ratio) == text

    def test_rows_of_one_run_are_paired_and_others_are_not(self):
        slow = row(median=2e-4)
        assert problems.ratio(slow, row("forward:eager", median=1e-4)).kind == "paired"
        for changes in ({"run": "2026-01-02T00:00:00Z"}, {"machine": "other"}, {"threads": 1}, {"device": "cuda"}):
            assert problems.ratio(slow, row("forward:eager", median=1e-4, **changes)).kind == "medians"

    def test_a_paired_ratio_is_of_the_blocks_and_not_of_the_medians(self):
        drift = [1.0, 2.0, 3.0, 4.0, 5.0, 60.0]
        over = row(block_medians_s=" ".join(str(3 * d) for d in drift), median=1.0, spread=0)
        under = row("forward:eager", block_medians_s=" ".join(map(str, drift)), median=1.0, spread=0)
        assert problems.ratio(over, under).value == pytest.approx(3)
        assert problems.ratio(over, under.model_copy(update={"run": "another"})).value == pytest.approx(1)

    def test_the_ratio_of_two_results_is_that_of_the_times_beside_it(self):
        (found,) = compare([row(median=6.21e-3)], [row(median=1.89e-3, run="another")])
        _, (line,) = tables.comparisons([found])
        assert line[2:4] == ["6.21 ms", "1.89 ms"]
        assert found.ratio.value == pytest.approx(1.89 / 6.21)
        assert line[4].startswith("0.304x")

    def test_pairs_cancel_what_slowed_both(self):
        drift = np.linspace(1, 2, 8)
        paired, unpaired = paired_ratio(3 * drift, drift), unpaired_ratio(3 * drift, drift)
        assert (paired.value, paired.low, paired.high) == pytest.approx((3, 3, 3))
        assert unpaired.high > 4

    def test_too_few_blocks_give_no_interval(self):
        assert str(paired_ratio([2.0], [1.0])) == "2.00x"
        assert unpaired_ratio([2.0] * 3, [1.0] * 6).low is None

    def test_mann_whitney_as_published(self):
        """Two groups of five without overlap: p = 2 / C(10, 5), the smallest there is (Mann & Whitney 1947, table I)."""
        assert p_value([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(2 / 252)

    @pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], []), ([1.0] * 3, [1.0] * 3), ([1.0, 1.0, 2.0], [1.0, 2.0, 2.0])])
    def test_what_cannot_tell_is_inconclusive(self, first, second):
        assert p_value(first, second) > statistics.SIGNIFICANCE
        if first and second:
            assert verdict(first, second) == "inconclusive"

    def test_constant_samples(self):
        assert verdict([1.0] * 6, [1.0] * 6) == "same"
        assert verdict([1.0] * 6, [2.0] * 6) == "slower"
        assert half_width([1.0] * 6) == 0

    def test_false_positives_stay_below_the_stated_rate(self):
        generator = np.random.default_rng(0)
        claims = sum(
            verdict(*generator.lognormal(sigma=0.05, size=(2, blocks)).tolist()) in {"faster", "slower"}
            for blocks in (6, 9, 12)
            for _ in range(300)
        )
        assert claims <= statistics.SIGNIFICANCE * 900


class TestCompare:
    def test_verdicts(self):
        base = [row(median=1.0, L=n) for n in range(1, 5)]
        times = [(0.5, 1, 0.02), (2.0, 2, 0.02), (1.001, 3, 0.02), (1.05, 4, 0.2)]
        other = [row(median=median, L=L, spread=spread, run="later") for median, L, spread in times]
        found = compare(base, other)
        assert [c.verdict for c in found] == ["faster", "slower", "same", "inconclusive"]
        assert [c.ratio.kind for c in found] == ["medians"] * 4
        assert [c.ratio.value for c in found] == pytest.approx([0.5, 2.0, 1.001, 1.05], rel=1e-5)
        assert found[1].ratio.low == pytest.approx(2 * 0.98 / 1.02, rel=1e-5)
        assert [c.worse_than(1.1) for c in found] == [False, True, False, False]

    def test_a_threshold_needs_the_whole_interval_and_the_test(self, monkeypatch):
        (found,) = compare([row(median=1.0, spread=0.1)], [row(median=1.25, spread=0.1, run="later")])
        assert not found.worse_than(1.1)  # 1.25 is beyond it, the interval is not
        (found,) = compare([row(median=1.0)], [row(median=1.25)])
        assert found.worse_than(1.1)
        monkeypatch.setattr(statistics, "p_value", lambda first, second: 0.5)
        assert not found.worse_than(1.1)

    def test_rows_without_blocks_are_inconclusive(self):
        none = {"block_medians_s": None, "ci_low_s": None, "ci_high_s": None}
        (found,) = compare([row(**none)], [row(median=1.0, **none)])
        assert found.verdict == "inconclusive"
        assert not found.worse_than(1.1)

    def test_wrong_jacobians_are_not_compared(self):
        with pytest.raises(BadInput, match="no measured case in common"):
            compare([row()], [row(status="invalid")])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"schema": 1}, f"schema: {SCHEMA} against 1"),
            ({"cache": "cold"}, "cache: hot against cold"),
            ({"dtype": "float64"}, "dtype: float32 against float64"),
        ],
    )
    def test_unlike_conditions_are_refused_unless_forced(self, changes, message):
        with pytest.raises(BadInput, match=f"the results differ in {message}; measure them alike, or give --force"):
            compare([row()], [row(**changes)])
        assert len(compare([row()], [row(**changes)], force=True)) == 1

    def test_threads_and_machines_are_what_is_compared(self):
        (found,) = compare([row(threads=1, median=2e-4)], [row(threads=2, median=1e-4)])
        columns, (line,) = tables.comparisons([found])
        assert columns[2:4] == ["Some cpu, cpu, 1 thread", "Some cpu, cpu, 2 threads"]
        assert line[-1] == "faster"

    def test_across_devices_the_best_meets_the_best(self):
        cpu = [row("reverse:native", median=1e-4), row("reverse:eager", median=3e-4)]
        cuda = [row("reverse:eager", median=2e-4, device="cuda"), row("reverse:cuda-graph", median=1e-5, device="cuda")]
        found = compare(cpu, cuda)
        assert [c.method for c in found] == ["reverse:eager", "reverse:native / reverse:cuda-graph"]
        assert found[1].ratio.value == pytest.approx(0.1)

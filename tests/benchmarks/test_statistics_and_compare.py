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


def drifting(generator, runs, blocks, correlation, deviation=0.03):
    """Blocks whose logarithms are those of a stationary AR(1) process around zero."""
    steps = generator.normal(size=(runs, blocks))
    found = np.empty_like(steps)
    found[:, 0] = steps[:, 0]
    for block in range(1, blocks):
        found[:, block] = correlation * found[:, block - 1] + np.sqrt(1 - correlation**2) * steps[:, block]
    return np.exp(deviation * found)


@pytest.mark.parametrize("blocks", [6, 12, 24])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_the_interval_of_a_time_covers_it_while_the_machine_drifts(blocks, correlation):
    runs = drifting(np.random.default_rng(blocks), 2000, blocks, correlation)
    intervals = [statistics.drifting_interval(run) for run in runs]
    assert np.mean([low <= 1 <= high for low, high in intervals]) >= 0.93
    if correlation == 0:  # and is no wider than four times the one for independent blocks
        widths = [np.median([b - a for a, b in found]) for found in (intervals, [median_interval(run) for run in runs])]
        assert widths[0] <= 5 * widths[1]


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8, 0.95])
def test_within_a_run_equal_things_differ_in_five_of_a_hundred_and_a_tenth_is_found(correlation):
    """Both have the machine's drift, and one per cent of their own."""
    generator = np.random.default_rng(1)
    claims, found = 0, 0
    for drift in drifting(generator, 400, 12, correlation, 0.05):
        first, second = drift * generator.lognormal(sigma=0.01, size=(2, 12))
        claims += statistics.verdict(paired_ratio(second, first), first, second) in {"faster", "slower"}
        found += statistics.verdict(paired_ratio(1.1 * second, first), first, 1.1 * second) == "slower"
    assert claims <= 0.05 * 400 + 8  # three standard deviations of a count of 20 would be 13
    assert found >= 0.9 * 400


@pytest.mark.parametrize("offset", [0.0, 0.02, 0.05, 0.1])
def test_across_runs_equal_things_differ_in_five_of_a_hundred(offset):
    """Each run is slower or faster as a whole; the methods of libraries, whose code is the same, tell how much that is."""
    generator, claims, rows_compared = np.random.default_rng(2), 0, 0
    names = ("reverse:torch.func", "reverse:autograd-loop", "reverse:native", "reverse:eager")
    for _ in range(20):
        runs = []
        for run in ("one", "another"):
            slower = np.exp(generator.normal(0, offset))
            rows = []
            for L in (1, 2, 3):
                for name in names:
                    (drift,) = drifting(generator, 1, 12, 0.8)
                    blocks = slower * drift * generator.lognormal(sigma=0.01, size=12)
                    low, high = statistics.drifting_interval(blocks)
                    median, text = float(np.median(blocks)), " ".join(f"{b:.6g}" for b in blocks)
                    rows.append(row(name, L=L, median=median, run=run, block_medians_s=text, ci_low_s=low, ci_high_s=high))
            runs.append(rows)
        verdicts = [c.verdict for c in compare(*runs)]
        claims += sum(verdict in {"faster", "slower"} for verdict in verdicts)
        rows_compared += len(verdicts)
    assert claims <= 0.05 * rows_compared


class TestCertainty:
    def test_words(self):
        still, loops = [1.0, 1.01, 0.99, 1.0, 1.005, 0.995], [1e-5] * 6
        falling = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
        assert statistics.certainty(still, loops)[0] == "confirmed"
        assert statistics.certainty(falling, [1e-5 * f for f in falling])[0] == "corrected"
        assert statistics.certainty(falling, loops)[0] == "undecided"
        assert statistics.certainty(falling, [])[0] == "undecided"
        assert statistics.certainty(still[:5], loops[:5]) == ("undecided", "5 blocks give no interval")
        assert "clock fell by 33 %" in statistics.certainty(falling, [1e-5 * f for f in falling])[1]

    def test_a_comparison_takes_the_weaker_word_and_older_rows_have_none(self):
        sure, unsure = row(certainty="confirmed"), row("forward:eager", certainty="undecided")
        assert problems.certainty(sure, unsure) == "undecided"
        assert problems.certainty(sure, row()) is None
        assert problems.certainties([sure, unsure]) == "1 confirmed, 1 undecided of 2 measurements"
        assert problems.certainties([row()]) == "none of 1 measurements was disturbed"
        assert problems.said("2.00x", sure, unsure) == "2.00x, undecided"

    def test_a_difference_must_hold_in_cycles_too(self):
        slower = [1e-4 * (1.2 + 0.001 * step) for step in range(6)]
        loops = {"still": [1e-5] * 6, "fell": [1.2e-5] * 6}
        base = row(block_loops_s=" ".join(map(str, loops["still"])))
        for clock, expected in (("still", "slower"), ("fell", "inconclusive")):
            other = row(
                median=1.2e-4, spread=0.01, block_medians_s=" ".join(map(str, slower)), block_loops_s=" ".join(map(str, loops[clock]))
            )
            (found,) = compare([base], [other])
            assert found.verdict == expected, clock


class TestSources:
    def test_what_changed_is_said(self):
        base = row(sources="aa-bb")
        for sources, words in (("aa-bb", None), ("cc-bb", "method changed"), ("aa-cc", "oracle changed"), (None, "sources unknown")):
            (found,) = compare([base], [row(sources=sources)])
            assert (problems.changed(found.base, found.other), found.note == found.verdict) == (words, words is None)
            assert (words or "") in found.note


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
        (found,) = compare([row(median=1.0)], [row(median=1.25, run="later")])
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

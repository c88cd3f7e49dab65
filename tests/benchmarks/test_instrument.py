"""The instrument measures itself: known times, equal things, and a slowdown that was put in."""

import itertools
import os
import random
import re
import statistics

import psutil
import pytest

from benchmarks.measure import clock, conditions
from benchmarks.measure.clock import resolution, rounds_and_iterations, settle_and_warm
from benchmarks.measure.conditions import Snapshot, notices
from benchmarks.measure.samples import ClockError, Measurement, StopRule
from benchmarks.measure.statistics import SIGNIFICANCE, median_interval, ratio_of_medians, verdict
from tests.instrument import measure_in_turn


class NoisyMachine:
    """A clock and calls on a machine whose speed wanders by a few per cent within seconds, as a shared one's does, and whose calls
    are now and then held up. Simulated, so that what the instrument makes of it does not depend on the machine of the day.
    """

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.now, self.speed = 0.0, 1.0

    def clock(self):
        self.now += 4e-8
        return self.now

    def call(self, seconds):
        def run():
            self.speed = 1 + 0.999 * (self.speed - 1) + self.random.gauss(0, 0.001)
            held_up = 5e-5 if self.random.random() < 0.01 else 0
            self.now += seconds * self.speed * self.random.lognormvariate(0, 0.02) + held_up

        return run


def test_a_known_time_is_measured_within_two_percent_whatever_the_machine_does():
    for seconds in (2e-5, 1e-3):
        machine = NoisyMachine(1)
        machine.random.gauss = lambda mean, deviation: 0.0  # its speed stays; calls are still held up
        (measured,) = measure_in_turn([machine.call(seconds)], StopRule(seconds=0.1), machine.clock)
        assert measured.summary()["median_s"] == pytest.approx(seconds, rel=0.02)


def judge(first, second):
    ratio = ratio_of_medians(*((statistics.median(m.block_medians), *median_interval(m.block_medians)) for m in (second, first)))
    return verdict(ratio, first.block_medians, second.block_medians)


def test_equal_things_are_called_different_no_more_often_than_stated():
    rule = StopRule(seconds=0.012)
    claims = 0
    for seed in range(100):
        machine = NoisyMachine(seed)
        first, second = measure_in_turn([machine.call(5e-5), machine.call(5e-5)], rule, machine.clock)
        claims += judge(first, second) in {"faster", "slower"}
    assert claims <= 100 * SIGNIFICANCE


def test_a_slowdown_of_ten_percent_is_found_nine_times_of_ten():
    rule = StopRule(seconds=0.06, precision=0.0)
    found = 0
    for seed in range(30):
        machine = NoisyMachine(seed)
        first, second = measure_in_turn([machine.call(2e-4), machine.call(2.2e-4)], rule, machine.clock)
        found += judge(first, second) == "slower"
    assert found >= 27


def test_a_method_takes_beside_others_what_it_takes_alone():
    rule = StopRule(seconds=0.06)
    alone, beside = NoisyMachine(3), NoisyMachine(4)
    (by_itself,) = measure_in_turn([alone.call(1e-4)], rule, alone.clock)
    among, _, _ = measure_in_turn([beside.call(1e-4), beside.call(9e-4), beside.call(2e-5)], rule, beside.clock)
    assert among.summary()["median_s"] == pytest.approx(by_itself.summary()["median_s"], rel=0.1)


def test_a_block_pauses_then_warms_up_and_both_are_no_part_of_the_samples(monkeypatch):
    """The pause lets other libraries' threads come to rest; what is called before the samples counts as busy, not as measured."""
    pauses, calls = [], []
    monkeypatch.setattr(clock.time, "sleep", pauses.append)
    ticks = itertools.count()

    def timer():
        return next(ticks) * 1e-3

    def call():
        calls.append(len(pauses))

    rule = StopRule(seconds=0.1, least_blocks=6, most_blocks=6, precision=0.0)
    (measured,) = measure_in_turn([call], rule, timer, settle_s=0.01)
    assert pauses == [0.01] * 6
    assert calls[0] == 1, "it was called before the pause"
    timed = sum(map(len, measured.blocks)) * measured.iterations
    assert len(calls) >= timed + 2 * 6, "each block is warmed up by two calls at least"
    assert measured.busy_s > sum(map(sum, measured.blocks)) * measured.iterations


class TestStopRule:
    rule = StopRule(seconds=1.2, precision=0.01)

    def test_needs_six_blocks_then_precision(self):
        assert self.rule.decide([[1e-3]] * 5, 1) is None
        assert self.rule.decide([[1e-3]] * 6, 1) == "precision"

    def test_noise_goes_on_until_the_time_is_up(self):
        noisy = [[1e-3], [2e-3]] * 6
        assert self.rule.decide(noisy[:6], 1) is None
        assert self.rule.decide(noisy, 1) == "time"
        assert self.rule.decide([[0.1], [0.3]] * 3, 1) == "time"  # six calls used it up
        assert self.rule.decide([[1e-3], [2e-3]] * 3, 200) == "time"  # so did 200 calls a round


class TestMeasurement:
    @pytest.mark.parametrize("samples", [[0.0], [1e-3, -1e-3], [float("nan")], [float("inf")], []])
    def test_an_impossible_duration_is_an_error(self, samples):
        with pytest.raises(ClockError, match="stands still, runs backward or is too coarse"):
            Measurement(StopRule()).add(samples)

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_few_and_constant_samples_are_summarised(self, count):
        measured = Measurement(StopRule())
        measured.add([1.0] * count)
        summary = measured.summary()
        assert (summary["median_s"], summary["q1_s"], summary["stddev_s"], summary["ci_low_s"]) == (1.0, 1.0, 0.0, None)
        assert summary["flags"] is None

    def test_flags(self):
        measured = Measurement(StopRule(), notices=["load", "load"], device_times=[5.0])
        for block in ([1.0, 1.0, 2.0, 2.0], [1.3, 1.3, 2.0, 2.0], [2.4, 2.4, 3.5, 3.5]):
            measured.add(block)
        assert measured.summary()["flags"] == "noisy drift load events"

    def test_the_interval_holds_the_median(self):
        measured = Measurement(StopRule())
        for block in ([1.0] * 50, [2.0], [2.0], [2.0], [2.0], [2.0]):
            measured.add(block)
        summary = measured.summary()
        assert summary["ci_low_s"] <= summary["median_s"] <= summary["ci_high_s"]


class TestClock:
    def test_frozen_backward_and_coarse(self):
        ticks = iter(range(10**6, 0, -1))
        with pytest.raises(ClockError, match="the clock ran backward, by 1 s"):
            resolution(lambda: next(ticks))
        with pytest.raises(ClockError, match="the clock stands still: 100000 readings"):
            resolution(lambda: 1.0)

        fine = itertools.count()

        def coarse():
            return round(next(fine) * 1e-5, 3)

        assert resolution(coarse) == pytest.approx(1e-3, rel=0.01)
        _, iterations = rounds_and_iterations(1e-4, 1.0, coarse)
        assert iterations * 1e-4 >= 0.95 * 20 * 1e-3  # a round lasts twenty steps of the clock

    def test_warm_up_calls_at_least_twice_and_tells_the_typical_one(self):
        ticks = iter(range(100))
        calls = []
        assert settle_and_warm(lambda: calls.append(1), lambda: next(ticks), seconds=0.0, settle_s=0.0) == (1, 2)
        assert len(calls) == 2


class TestConditions:
    still = Snapshot(all_s=0.0, ours_s=0.0, wall_s=0.0, loop_s=1e-5)

    def after(self, **changes):
        values = {"all_s": 1.0, "ours_s": 1.0, "wall_s": 1.0, "loop_s": 1e-5, **changes}
        return Snapshot(**values)

    def test_quiet(self):
        assert notices(self.still, self.after(), self.still, threads=1) == []

    @pytest.mark.parametrize(
        ("changes", "flag"), [({"loop_s": 2e-5}, "clock"), ({"all_s": 1.5}, "load"), ({"all_s": 1.5, "wall_s": 0.05, "ours_s": 1.5}, None)]
    )
    def test_noticed(self, changes, flag):
        before = Snapshot(0.0, 0.0, 0.0, self.after(**changes).loop_s)
        assert notices(before, self.after(**changes), self.still, threads=1) == ([flag] if flag else [])

    def test_fewer_threads_than_asked_for(self):
        assert notices(self.still, self.after(), self.still, threads=1000) == ["threads"]

    def test_a_snapshot_counts_all_processes_and_ours(self, monkeypatch):
        times = psutil.cpu_times()._replace(user=7.0, system=2.0, idle=50.0)
        monkeypatch.setattr(conditions.psutil, "cpu_times", lambda: times)
        shot = conditions.snapshot()
        assert shot.all_s == pytest.approx(sum(times[:8]) - times.idle - times.iowait)
        assert 0 < shot.ours_s <= sum(os.times()[:2])

    def test_the_fixed_loop_of_a_card_is_products_by_its_own_clock(self):
        """Tried on the device without memory: the clock is read around each product, and the processor's loop is not taken."""
        ticks = itertools.count()
        assert conditions.fixed_s(self.after(), "meta", lambda: float(next(ticks))) == 1.0
        assert next(ticks) == 10
        assert conditions.fixed_s(self.after(), "cpu", lambda: float(next(ticks))) == self.after().loop_s

    def test_a_disturbance_of_a_few_blocks_is_no_flag_of_the_case(self):
        measured = Measurement(StopRule(), notices=["load"] * 2 + ["clock"] * 3)
        for _ in range(8):
            measured.add([1.0])
        assert measured.summary()["flags"] == "clock"

    @pytest.mark.parametrize(("percent", "line"), [(3.0, None), (80.0, "other processes keep .* cores busy: times will be longer")])
    def test_the_load_is_looked_at_before_a_run(self, monkeypatch, percent, line):
        monkeypatch.setattr(conditions.psutil, "cpu_percent", lambda interval: percent)
        said = conditions.load_before()
        assert said is None if line is None else re.search(line, said)

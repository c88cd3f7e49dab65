"""The scoreboard, the planner's regret, and the ceilings they go by."""

import json
from dataclasses import replace

import pytest

from benchmarks.analysis import regret, scoreboard
from benchmarks.errors import BadInput
from benchmarks.measure import ceilings
from benchmarks.records.csv_file import read_csv, result_files
from benchmarks.records.journal import Entry
from benchmarks.records.problems import problem_of
from benchmarks.run import supervisor
from benchmarks.workloads.cases import Sweep, expand, find_sweep
from jacobians.planning import machine
from jacobians.planning.machine import Ceilings
from jacobians.problem import Problem
from tests.benchmarks.rows import RATES, row, write_result
from tools import best_ceilings

SWEEP = Sweep.model_validate({"name": "workloads", "title": "t", "grid": [{"name": "tall", "L": 2, "D": 3, "K": 5, "P": 4}]})


class TestScoreboard:
    @pytest.mark.needs_compiler
    def test_ours_the_best_peer_and_the_choice(self):
        times = {"forward:native": 1e-5, "reverse:native": 2e-5, "reverse:jax": 4e-5, "forward:torch.func": 9e-5, "reverse:notebook": 1e-6}
        rows = [row(m, median=t, fraction_of_ceiling=0.25) for m, t in times.items()]
        (score,) = scoreboard.scores(rows, SWEEP, {"cpu": RATES})
        assert (score.name, score.ours.method, score.peer.method) == ("tall", "forward:native", "reverse:jax"), "dense is no peer"
        assert score.ratio.value == pytest.approx(4)
        assert score.regret == pytest.approx(times[score.choice] / 1e-5)
        columns, (line,) = scoreboard.table([score])
        assert len(columns) == len(line)
        assert line[6] == "0.25"

    def test_a_problem_without_a_peer_has_no_score(self):
        assert scoreboard.scores([row("forward:native"), row("reverse:notebook")], SWEEP) == []

    def test_every_workload_has_a_name_of_its_own(self):
        sweep = find_sweep("workloads")
        names = scoreboard.names_of(sweep)
        assert len(names) == len(sweep.grid) == len(set(names.values())) == 14
        compiled = [case for case in expand(sweep, ["cpu"]) if case.method.endswith(":torch.compile")]
        assert len(compiled) == 28
        assert not [case for case in expand(find_sweep("quick"), ["cpu"]) if case.method.endswith(":torch.compile")]


class TestRegret:
    def rows(self):
        found = []
        for D, P, forward, reverse in ((1, 64, 1e-5, 5e-5), (64, 1, 9e-5, 1e-5), (32, 64, 3e-5, 2e-5)):
            found += [row("forward:native", D=D, P=P, median=forward), row("reverse:native", D=D, P=P, median=reverse)]
            found += [row("reverse:jax", D=D, P=P, median=1e-9)]  # a peer's time is nobody's regret
        return found

    @pytest.mark.needs_compiler
    def test_rules_are_judged_on_the_measured_times(self):
        found = {
            r.chooser: r for r in regret.regrets(self.rows(), {"oracle": lambda p: "forward" if p.D == 1 else "reverse"}, {"cpu": RATES})
        }
        assert found["oracle"].ratios == pytest.approx((1, 1, 1))
        assert found["always reverse"].ratios == pytest.approx((1, 1, 5))
        assert found["always reverse"].worst.endswith("reverse")
        assert found["forward if D < P"].ratios == pytest.approx((1, 1, 1.5))
        assert found["forward if D < 100 or D ≤ 1.5 P"].ratios == pytest.approx((1, 1.5, 9))
        assert len(found[regret.PLANNER].ratios) == 3
        columns, lines = regret.table(list(found.values()))
        assert lines[0][0] == regret.PLANNER
        assert {len(line) for line in lines} == {len(columns)}

    def test_nothing_to_choose_from(self):
        with pytest.raises(BadInput, match="no problem has two measured hand-written methods"):
            regret.regrets([row("reverse:eager"), row("reverse:jax")])

    def test_the_ninetieth_percentile_is_that_of_its_definition(self):
        found = regret.Regret("a rule", tuple(float(n) for n in range(1, 11)), "where")
        _, (line,) = regret.table([found])
        assert line[2:5] == ["5.500", "9.000", "10.000"]

    def test_a_row_is_its_problem(self):
        exact = Problem(widths=(3, 5, 5, 4))
        assert problem_of(row()) == exact
        biased = row(bias=True, activation="relu > tanh", N=7)
        assert problem_of(biased) == exact.with_(bias=True, activation="relu", output_activation="tanh", batch=7)


class TestCeilings:
    rates = Ceilings(((10**6, 100e9), (10**8, 20e9)), 1e11, 5e10, 8e10, 1e-6, measured=True)

    def test_the_floor_is_traffic_or_arithmetic(self):
        wide, square = Problem(widths=(1000, 1000, 1000, 1)), Problem(widths=(512, 512, 512, 512))
        forward, reverse = (ceilings.floor_s(Problem(widths=(1, 1000, 1000, 1)), mode, self.rates) for mode in ("forward", "reverse"))
        near = ceilings.near_bytes()
        once, again = 4e6 / 100e9, min(4e6, near) / 100e9 + max(0, 4e6 - near) / 100e9
        assert forward == pytest.approx(self.rates.call_s + once, rel=0.02)
        assert reverse == pytest.approx(self.rates.call_s + once + again, rel=0.02), "reverse mode reads the weights twice"
        assert ceilings.floor_s(Problem(widths=(1, 1000, 1000, 1)), "mixed", self.rates) <= reverse
        assert ceilings.floor_s(wide, "reverse", self.rates) > 8e6 / 100e9
        assert ceilings.floor_s(square, "forward", self.rates) == pytest.approx(2 * 2 * 512**3 / 1e11, rel=0.02)
        double = ceilings.floor_s(square.with_(dtype="float64"), "forward", self.rates)
        assert double == pytest.approx(2 * ceilings.floor_s(square, "forward", self.rates), rel=0.01)

    def test_the_traffic_of_reverse_mode_has_the_weights_twice(self, monkeypatch):
        monkeypatch.setattr(ceilings, "near_bytes", lambda: 0)
        slow = Ceilings(read=((10**6, 1e6),), flops=1e30, flops64=1e30, gemm=1e30, call_s=0.0)
        batch, weights = 4 * 1000 * (100 + 50 * 100), 4 * (100 * 100 + 50 * 100)
        problem = Problem(widths=(100, 100, 50), batch=1000)
        assert ceilings.floor_s(problem, "forward", slow) == pytest.approx((batch + weights) / 1e6)
        assert ceilings.floor_s(problem, "reverse", slow) == pytest.approx((batch + 2 * weights) / 1e6)

    def test_measured_here_they_are_plausible_and_kept(self, monkeypatch, tmp_path):
        monkeypatch.setenv("JACOBIANS_CACHE", str(tmp_path))
        monkeypatch.setattr(ceilings, "READ_SIZES", {"256KB": 2**18, "1MB": 2**20})
        machine._ceilings.cache_clear()
        ceilings._measured_now.cache_clear()
        try:
            found = ceilings.measured("cpu")
            assert 1e9 < found.flops64 < found.flops < 1e14
            assert 1e9 < found.gemm
            assert all(1e8 < rate < 1e13 for _, rate in found.read)
            assert 1e-8 < found.call_s < 1e-3
            (kept,) = tmp_path.glob("ceilings-*.json")
            assert json.loads(kept.read_text())["flops"] == found.flops
            assert machine.ceilings("cpu") == ceilings.measured("cpu") == found
        finally:
            machine._ceilings.cache_clear()
            ceilings._measured_now.cache_clear()

    def test_they_are_measured_again_after_a_minute_or_where_a_row_doubts_them(self, monkeypatch, tmp_path):
        monkeypatch.setenv("JACOBIANS_CACHE", str(tmp_path))
        now, looks = [1000.0], []
        monkeypatch.setattr(ceilings, "monotonic", lambda: now[0])
        monkeypatch.setattr(ceilings, "measure", lambda device: (looks.append(now[0]), replace(RATES, flops=1e11 * len(looks)))[1])
        for cache in (machine._ceilings.cache_clear, ceilings._measured_now.cache_clear, ceilings._last_look.clear):
            cache()
        try:
            assert ceilings.raised("cpu").flops == 1e11
            assert ceilings.raised("cpu").flops == 1e11
            assert ceilings.raised("cpu", doubted=True).flops == 2e11
            now[0] += ceilings.AGAIN_S
            assert ceilings.raised("cpu").flops == 3e11
            assert looks == [1000.0, 1000.0, 1060.0]
        finally:
            for cache in (machine._ceilings.cache_clear, ceilings._measured_now.cache_clear, ceilings._last_look.clear):
                cache()

    def test_no_committed_measurement_is_above_its_ceiling(self):
        """What the ceilings are for: a fraction above 1.05 means that the ceiling is wrong."""
        rows = [row for path in result_files() for row in read_csv(path) if row.fraction_of_ceiling]
        assert [(row.case, row.fraction_of_ceiling) for row in rows if row.fraction_of_ceiling > ceilings.MOST] == []

    def test_the_best_rates_of_all_runs_count_for_every_row(self, tmp_path):
        slow = {"cpu": ceilings.as_record(RATES)}
        fast = {"cpu": {**slow["cpu"], "multiply_add_flops_per_s": 4e11}}
        problem = {"L": 3, "D": 512, "K": 512, "P": 512}
        for name, record in (("quick", slow), ("depth", fast)):
            rows = [row("forward:native", sweep=name, median=2e-3, **problem)]
            write_result(rows, tmp_path / f"{name}.csv", ceilings=record, fingerprint="a")
        assert len(best_ceilings.rewrite(tmp_path)) == 2
        (quick,), (depth,) = (read_csv(tmp_path / f"{name}.csv") for name in ("quick", "depth"))
        assert quick.fraction_of_ceiling == depth.fraction_of_ceiling == pytest.approx(3 * 2 * 512**3 / 4e11 / 2e-3, rel=0.05)
        write_result([row("forward:native", sweep="width")], tmp_path / "width.csv", fingerprint="b")
        with pytest.raises(BadInput, match="expected the results of one machine, got those of 2"):
            best_ceilings.rewrite(tmp_path)

    def test_a_row_above_its_ceiling_is_flagged(self):
        entry = supervisor.under(Entry(row("forward:native", L=3, D=512, K=512, P=512, median=1e-6)), {"cpu": self.rates})
        assert entry.row.flags == "ceiling"
        assert entry.row.fraction_of_ceiling > 1.05

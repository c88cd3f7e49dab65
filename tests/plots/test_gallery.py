"""The figures of the report: their data from rows, and that each can be drawn."""

import pytest

from benchmarks.analysis import saturation
from benchmarks.errors import BadInput
from benchmarks.workloads.cases import Sweep
from plots import comparisons, figures, growth, memory
from plots.gallery import ResultFile, gallery, saturation_chart
from tests.benchmarks.rows import RATES, row

OURS = ("forward:native", "reverse:native", "mixed:native")
PROBLEMS = Sweep.model_validate({"name": "workloads", "title": "t", "grid": [{"name": "first", "L": 2, "D": 3, "K": 5, "P": 4}]})


def power_law(exponents, sizes=(8, 16, 32, 64, 128)):
    """Rows whose times grow with K by given powers, a peer twice as slow as the best."""
    rows = []
    for K in sizes:
        times = {m: 1e-7 * K**e for m, e in zip(OURS, exponents, strict=True)}
        rows += [row(m, K=K, median=t, spread=0.0, flops=K**2, fraction_of_ceiling=0.5) for m, t in times.items()]
        rows.append(row("reverse:jax", K=K, median=2 * min(times.values())))
    return rows


class TestGrowth:
    def test_exponents_are_recovered_beside_those_of_the_operations(self):
        (chart,) = growth.growth_charts(power_law((3, 2, 1.5)), "growth")
        assert chart.stem == "growth-K"
        assert "from K = 32 to 128: forward K^3.00 ± 0.00 (operations 2.00), reverse K^2.00 ± 0.00" in chart.caption
        assert "The best of ours is 2.00 to 2.00 times as fast as the best peer" in chart.caption
        assert [trace.label for trace in chart.traces] == ["forward, ours", "reverse, ours", "mixed, ours", "best peer"]
        (ceiling,) = chart.ceilings
        assert ceiling.y == pytest.approx([0.5 * 1e-7 * K**1.5 for K in (8, 16, 32, 64, 128)])

    def test_noise_widens_the_interval(self):
        x = [1, 2, 4, 8, 16]
        exact, half = growth.exponent(x, [value**2 * wobble for value, wobble in zip(x, (1, 1.1, 0.9, 1.1, 0.9), strict=True)])
        assert half > 0.05
        assert exact - half < 2 < exact + half
        assert growth.exponent([1, 2], [1, 2]) is None

    def test_square_layers(self):
        rows = [row(m, L=3, D=M, K=M, P=1, median=1e-9 * M**e, flops=M**e) for M in (32, 64, 128) for m, e in ((OURS[0], 3), (OURS[1], 2))]
        chart = growth.square_chart(rows, "growth-M")
        assert "forward M^3.00 ± 0.00 (operations 3.00), reverse M^2.00" in chart.caption
        assert growth.square_chart(rows[:4], "growth-M") is None


def grid(K=16):
    times = {"forward:native": lambda D, P: 1e-6 * D, "reverse:native": lambda D, P: 1e-6 * P, "reverse:jax": lambda D, P: 5e-7 * (D + P)}
    return [row(m, D=D, P=P, K=K, median=t(D, P)) for D in (1, 8, 64) for P in (1, 8, 64) for m, t in times.items()]


class TestComparisons:
    def test_winners_and_both_crossovers(self):
        first, second = comparisons.winner_maps(grid(16) + grid(32), "winners", {"cpu": RATES})
        assert (first.stem, second.stem) == ("winners-K16", "winners-K32")
        assert first.winner[0] == ("reverse:jax" if 5e-7 * 2 < 1e-6 else "forward:native", "reverse:native", "reverse:native")
        assert all(d == pytest.approx(p) for d, p in first.measured)
        assert len(first.predicted) >= 5
        assert "equal time (dots) at D/P from 1 to 1" in first.caption
        assert comparisons.winner_maps(grid(16), "winners", {})[0].predicted == ()

    def test_speed_ups_are_sorted_and_named(self):
        rows = [
            row("reverse:native", median=1e-5),
            row("reverse:jax", median=3e-5),
            row("forward:jax", median=2e-5),
            row("reverse:dense", median=1e-4),
        ]
        rows += [row("reverse:native", P=9, median=1e-5), row("reverse:jax", P=9, median=9e-5)]
        chart = comparisons.speedup_chart(rows, "speedups", PROBLEMS)
        assert chart.problems == ("L=2 D=3 K=5 P=9", "first")
        assert {trace.label: trace.y for trace in chart.series} == {"jax": pytest.approx((9, 2)), "dense": pytest.approx((10,))}
        assert "faster than every peer on 2 of 2 problems" in chart.caption
        assert comparisons.speedup_chart([row("reverse:jax")], "speedups") is None

    def test_the_roofline_counts_every_case(self):
        rows = power_law((3, 2, 1.5))
        chart = comparisons.roofline(rows, "roofline", {"cpu": RATES})
        assert sum(len(trace.x) for trace in chart.points) == len(rows)
        assert chart.points[-1].label == "peers"
        assert chart.flops == RATES.flops
        assert comparisons.roofline(rows, "roofline", {}) is None

    def test_what_mixed_mode_gains(self):
        times = dict(zip(OURS, (8e-5, 6e-5, 2e-5), strict=True))
        rows = [row(m, L=3, D=64, K=K, P=64, median=t) for K in (8, 128) for m, t in times.items()]
        chart = comparisons.mixed_gain(rows, "gain")
        assert chart.points[0].x == (8 / 64, 2)
        assert chart.points[0].y == pytest.approx((3, 3))
        assert chart.points[1].y == pytest.approx((1.105, 1), rel=1e-3)
        assert comparisons.mixed_gain(rows[:2], "gain") is None

    def test_regret_as_steps(self):
        rows = [row(m, D=D, median=t) for D in (2, 64) for m, t in (("forward:native", 1e-5), ("reverse:native", 3e-5))]
        chart = comparisons.regret_chart(rows, "regret", {"cpu": RATES})
        assert dict(chart.series)["always reverse"] == pytest.approx((3, 3))
        assert "always reverse: 3.000 and 3" in chart.caption
        assert comparisons.regret_chart(rows[:1], "regret", {}) is None


def test_memory_is_what_lies_beyond_the_output():
    rows = [
        row(m, P=P, peak_bytes=4 * 3 * P + extra)
        for P in (10, 100, 1000)
        for m, extra in (("reverse:native", 9000), ("reverse:jax", 100_000))
    ]
    (chart,) = memory.memory_charts(rows, "memory")
    assert chart.unit == "B"
    assert {trace.method: trace.y for trace in chart.traces} == {"reverse:native": (9000,) * 3, "reverse:jax": (100_000,) * 3}
    assert chart.ceilings[0].label == "least that chunk= can keep to"
    assert "the leanest of ours, reverse:native 9 kB, stands beside the leanest peer, reverse:jax 100 kB" in chart.caption


class TestSaturation:
    def test_unscaled_weights_saturate_and_scaled_ones_do_not(self):
        records = saturation.study(depth=6, width=128)
        last = {record["init"]: record for record in records if record["layer"] == 6}
        assert last["normal"]["mean_slope"] < 0.15 < 0.5 < last["xavier"]["mean_slope"]
        assert last["normal"]["largest_singular_value"] > 1e2
        assert 0.1 < last["orthogonal"]["largest_singular_value"] <= 1.0001

    def test_the_committed_table_is_the_study(self):
        committed = saturation.read()
        again = saturation.study()
        assert len(committed) == len(again) == 60
        for kept, made in zip(committed, again, strict=True):
            assert kept["init"] == made["init"]
            for name in ("mean_slope", "largest_singular_value"):
                # Rounding is amplified from layer to layer where the weights are not scaled.
                tolerance = 1e-4 if made["init"] != "normal" or made["layer"] < 4 else 0.5
                assert kept[name] == pytest.approx(made[name], rel=tolerance)

    def test_a_broken_table_is_named(self, tmp_path):
        with pytest.raises(BadInput, match=r"missing\.csv: not the table of saturation"):
            saturation.read(tmp_path / "missing.csv")
        (tmp_path / "bad.csv").write_text("init,layer\nnormal,one\n")
        with pytest.raises(BadInput, match="not the table of saturation"):
            saturation.read(tmp_path / "bad.csv")


def test_every_exhibit_is_drawn_at_a_readable_size(tmp_path):
    workloads = [
        row(m, sweep="workloads", median=t) for m, t in (("reverse:native", 1e-5), ("forward:native", 2e-5), ("reverse:jax", 4e-5))
    ]
    P = [row(m, P=P, peak_bytes=10_000 * P, median=1e-5 * P) for P in (1, 8, 64) for m in (*OURS, "reverse:jax")]
    results = [
        ResultFile(tmp_path / "workloads.csv", workloads, {"cpu": RATES}, PROBLEMS),
        ResultFile(tmp_path / "aspect.csv", grid(), {"cpu": RATES}),
        ResultFile(tmp_path / "width.csv", power_law((3, 2, 1.5)), {"cpu": RATES}),
        ResultFile(tmp_path / "outputs.csv", P, {"cpu": RATES}),
        ResultFile(tmp_path / "bottleneck.csv", [row(m, D=64, P=64, K=8) for m in OURS], {"cpu": RATES}),
        ResultFile(tmp_path / "notebook.csv", [row("reverse:dense", L=L, D=1000, K=1000, P=1) for L in (3, 5, 10)], {"cpu": RATES}),
    ]
    found = gallery(results, figures.PUBLISHED)
    sections = list(dict.fromkeys(exhibit.section for exhibit in found))
    assert sections == [
        "Against every peer",
        "Which method where",
        "Growth",
        "Close to the machine",
        "Memory",
        "Mixed mode and the planner",
        "Why the weights are scaled",
        "The course notebook",
    ]
    assert len({exhibit.chart.stem for exhibit in found}) == len(found)
    for exhibit in found:
        drawing = figures.draw(exhibit.chart)
        drawing.canvas.draw()
        texts = [text for text in drawing.findobj(match=lambda artist: hasattr(artist, "get_fontsize")) if text.get_text().strip()]
        assert min(text.get_fontsize() for text in texts) >= 8, exhibit.chart.stem
        assert drawing.get_size_inches()[0] < 8
        (path,) = figures.save(exhibit.chart, tmp_path, ["svg"])
        assert path.stat().st_size > 5000


def test_two_devices_get_figures_of_their_own_and_one_together(tmp_path):
    fast = [
        r.model_copy(update={"device": "cuda", "device_name": "Some GPU", "case": r.case.replace("/cpu/", "/cuda/")})
        for r in power_law((3, 2, 1.5))
    ]
    fast = [r.model_copy(update={"median_s": 2e-5, "device_median_s": 5e-6}) for r in fast]
    results = [ResultFile(tmp_path / "width.csv", [*power_law((3, 2, 1.5)), *fast], {"cpu": RATES, "cuda": RATES})]
    stems = [exhibit.chart.stem for exhibit in gallery(results, figures.PUBLISHED, tmp_path / "none")]
    assert {"growth-cpu-K", "growth-cuda-K", "roofline-cpu", "roofline-cuda", "devices-width-devices"} <= set(stems)
    (together,) = (e.chart for e in gallery(results, figures.PUBLISHED) if e.section == "Devices")
    assert together.caption == "cuda is faster than cpu from K = 64 on. Launching takes 15 µs of a call there, in the median."


def test_the_drawing_of_unscaled_weights_spans_powers_of_ten():
    drawing = figures.draw(saturation_chart(saturation.study(depth=6, width=64), "saturation"))
    drawing.canvas.draw()
    labels = [label.get_text() for axes in drawing.axes for label in axes.get_yticklabels()]
    assert not [label for label in labels if "$" in label or "mathdefault" in label]

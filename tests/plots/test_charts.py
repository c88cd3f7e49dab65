"""The figures: their data from rows, and that each can be drawn."""

import re

import pytest

from benchmarks.workloads.cases import Sweep
from plots import figures, growth, style
from plots.chart import ResultFile, exhibits
from plots.charts import devices, dots, lines, memory, mixed_gain, published, quantities, regret, roofline, saturation, speedups, winners
from plots.families import crossings
from studies import saturation as study
from tests.benchmarks.rows import RATES, row

OURS = ("forward:native", "reverse:native", "mixed:native")
PROBLEMS = Sweep.model_validate({"name": "workloads", "title": "t", "grid": [{"name": "first", "L": 2, "D": 3, "K": 5, "P": 4}]})


def growing(**options):
    """Forward grows with D, reverse does not: they cross at D = 8."""
    rows = []
    for D in (1, 4, 16, 64):
        rows += [row("forward:eager", D=D, median=D * 1e-5, **options), row("reverse:eager", D=D, median=8e-5, **options)]
        rows += [row("reverse:jax", D=D, median=1e-4, **options), row("reverse:notebook", D=D, median=1e-7, **options)]
    return rows


def power_law(exponents, sizes=(8, 16, 32, 64, 128, 256), **options):
    """Rows whose times grow with K by given powers, a library twice as slow as the best."""
    rows = []
    for K in sizes:
        times = {m: 1e-7 * K**e for m, e in zip(OURS, exponents, strict=True)}
        rows += [row(m, K=K, median=t, spread=0.0, flops=K**2, fraction_of_ceiling=0.5, **options) for m, t in times.items()]
        rows.append(row("reverse:jax", K=K, median=2 * min(times.values()), **options))
    return rows


def grid(K=16):
    times = {"forward:native": lambda D, P: 1e-6 * D, "reverse:native": lambda D, P: 1e-6 * P, "reverse:jax": lambda D, P: 5e-7 * (D + P)}
    return [row(m, D=D, P=P, K=K, median=t(D, P)) for D in (1, 8, 64) for P in (1, 8, 64) for m, t in times.items()]


class TestLines:
    def test_the_best_of_each_mode_and_of_the_libraries(self):
        (chart,) = lines.charts(growing(), "s")
        assert [trace.label for trace in chart.traces] == ["forward, hand-written", "reverse, hand-written", "best library"], (
            "the naive baseline is none"
        )
        assert chart.traces[0].x == (1, 4, 16, 64)
        assert chart.crossovers == pytest.approx([8.0])
        assert chart.title == "Forward mode is faster up to D ≈ 8, reverse mode beyond"
        assert "Ahead of the best library on 4 of 4 problems: 1.25 to 10 times as fast" in chart.caption

    def test_the_winner_is_computed(self):
        same = [row(m, L=n, median=t) for n in (1, 2, 3) for m, t in (("forward:eager", 1e-5), ("reverse:eager", 2e-5))]
        (chart,) = lines.charts(same, "s")
        assert chart.title == "Forward mode is the faster of the two at every L measured"

    def test_exponents_are_recovered_beside_those_of_the_operations(self):
        (chart,) = lines.charts(power_law((3, 2, 1.5)), "growth")
        assert "forward K^3.00±0.00 (2.00), reverse K^2.00±0.00" in chart.caption
        assert chart.limit.y == pytest.approx([0.5 * 1e-7 * K**1.5 for K in (8, 16, 32, 64, 128, 256)])
        assert chart.limit.label == "no faster on this machine"

    def test_few_or_noisy_points_are_not_fitted(self):
        (few,) = lines.charts(power_law((3, 2, 1.5), sizes=(8, 16, 32)), "growth")
        assert "Growth" not in few.caption
        wobbly = power_law((2, 2, 2))
        noisy = [r.model_copy(update={"median_s": r.median_s * (8 if r.K in (32, 128) else 1)}) for r in wobbly]
        (chart,) = lines.charts(noisy, "growth")
        assert "Growth" not in chart.caption

    def test_only_points_beyond_the_overhead_count(self):
        flat = [
            r.model_copy(update={"median_s": r.median_s + 1e-3}) for r in power_law((3, 3, 3), sizes=(8, 16, 32, 64, 128, 256, 512, 1024))
        ]
        (chart,) = lines.charts(flat, "growth")
        assert re.search(r"forward K\^2\.[89]\d±\d\.\d\d", chart.caption), chart.caption

    def test_exponent(self):
        x = [1, 2, 4, 8, 16]
        exact, half = lines.exponent(x, [value**2 * wobble for value, wobble in zip(x, (1, 1.1, 0.9, 1.1, 0.9), strict=True)])
        assert half > 0.05
        assert exact - half < 2 < exact + half
        assert lines.exponent([1, 2], [1, 2]) is None

    def test_the_tail_of_square_layers_and_what_is_between_neighbours(self):
        powers = {"forward:native": 3, "reverse:native": 2}
        rows = [
            row(m, L=3, D=M, K=M, P=1, median=1e-9 * M**e, spread=0.0, flops=M**e) for M in (64, 256, 512, 2048) for m, e in powers.items()
        ]
        forward, reverse = growth.tails(rows)
        assert [r.D for r in forward.rows] == [256, 512, 2048], "below, a call is mostly overhead"
        for tail, power in ((forward, 3), (reverse, 2)):
            assert (tail.fitted, tail.of_minima, tail.counted) == pytest.approx((power, power, power))
            assert tail.local == pytest.approx((power, power))
        said = growth.sentence(rows)
        assert "forward as M^3.00 (±0.00; fastest rounds M^3.00), reverse as M^2.00" in said
        assert "by the operations forward M^3.00, reverse M^2.00" in said
        assert "(M = 256, 512, 2048; fastest rounds): forward 3.0, 3.0; reverse 2.0, 2.0" in said
        assert growth.sentence(rows[:4]) == ""

    def test_input_and_layers_that_grow_together(self):
        sizes = (32, 64, 128, 256, 512)
        rows = [row(m, L=3, D=M, K=M, P=1, median=1e-9 * M**e, flops=M**e) for M in sizes for m, e in ((OURS[0], 3), (OURS[1], 2))]
        (chart,) = lines.charts(rows, "square")
        assert chart.x_label == "width M of input and hidden layers"
        assert "forward M^3.00±0.00 (3.00), reverse M^2.00" in chart.caption
        assert lines.charts(rows[:4], "square") == []

    def test_mixed_mode_has_its_gain_in_the_caption(self):
        times = {"forward:eager": 4e-5, "reverse:eager": 3e-5, "mixed:eager": 1e-5}
        (chart,) = lines.charts([row(m, K=K, median=t * K) for K in (10, 20, 40) for m, t in times.items()], "s")
        assert "Mixed mode is 3.00 times as fast as the better of them at K = 10" in chart.caption

    def test_crossings(self):
        assert crossings([1, 2, 4], [2.0, 2.0, 2.0]) == ()
        assert crossings([1, 100], [0.1, 10.0]) == pytest.approx((10.0,))


class TestOthers:
    def test_dots_for_problems_that_share_no_size(self):
        chart = dots.chart_of([r for r in growing() if r.D < 8], "s")
        assert chart.problems == ("L=2 D=1 K=5 P=4", "L=2 D=4 K=5 P=4")
        assert chart.title == "Fastest hand-written: forward mode on 2 of 2"

    def test_winners_and_both_crossovers(self):
        first, second = winners.maps(grid(16) + grid(32), "winners", {"cpu": RATES})
        assert (first.stem, second.stem) == ("winners-K16", "winners-K32")
        assert first.winner[0] == ("forward", "reverse", "reverse")
        assert first.title == "Hand-written is the fastest in 9 of 9 cells; reverse 6, forward 3" or "cells" in first.title
        assert all(d == pytest.approx(p) for d, p in first.measured)
        assert len(first.predicted) >= 5
        assert "equal time at D/P from 1 to 1" in first.caption
        assert winners.maps(grid(16), "winners", {})[0].predicted == ()

    def test_speed_ups_are_sorted_and_named(self):
        times = {"reverse:native": 1e-5, "reverse:jax": 3e-5, "forward:jax": 2e-5, "reverse:notebook": 1e-6}
        rows = [row(m, median=t) for m, t in times.items()]
        rows += [row("reverse:native", P=9, median=1e-5), row("reverse:jax", P=9, median=9e-5)]
        chart = speedups.chart_of(rows, "speedups", PROBLEMS)
        assert chart.problems == ("L=2 D=3 K=5 P=9", "first")
        assert {trace.label: trace.y for trace in chart.series} == {"JAX jit": pytest.approx((9, 2))}
        assert chart.title.startswith("Faster than every library on 2 of 2 workloads")
        assert "9 times on" in chart.caption
        assert speedups.chart_of([row("reverse:jax")], "speedups") is None

    def test_the_roofline_has_one_point_of_ours_and_one_of_the_libraries_per_problem(self):
        rows = power_law((3, 2, 1.5))
        chart = roofline.chart_of(rows, "roofline", RATES)
        assert {trace.label: len(trace.x) for trace in chart.points} == {"best library": 6, "mixed, best hand-written": 6}
        assert (chart.flops, chart.gemm) == (RATES.flops, RATES.gemm)

    def test_what_mixed_mode_gains(self):
        times = dict(zip(OURS, (8e-5, 6e-5, 2e-5), strict=True))
        rows = [row(m, L=3, D=64, K=K, P=64, median=t) for K in (8, 128) for m, t in times.items()]
        chart = mixed_gain.chart_of(rows, "gain")
        assert chart.points[0].x == (8 / 64, 2)
        assert chart.points[0].y == pytest.approx((3, 3))
        assert chart.points[1].y == pytest.approx((1.105, 1), rel=1e-3)
        assert mixed_gain.chart_of(rows[:2], "gain") is None

    @pytest.mark.needs_compiler
    def test_regret_as_steps(self):
        rows = [row(m, D=D, median=t) for D in (2, 64) for m, t in (("forward:native", 1e-5), ("reverse:native", 3e-5))]
        chart = regret.chart_of(rows, "regret", {"cpu": RATES})
        assert dict(chart.series)["always reverse"] == pytest.approx((3, 3))
        assert "“always reverse” 3 and 3." in chart.caption
        assert regret.chart_of(rows[:1], "regret", {}) is None

    def test_memory_is_what_lies_beyond_the_output_with_what_a_kernel_keeps(self):
        from jacobians.kernels.native import program, runner

        sizes = {"reverse:native": 9000, "reverse:torch.func": 100_000, "reverse:jax": 0, "reverse:eager": 50_000}
        rows = [row(m, P=P, peak_bytes=4 * 3 * P + extra) for P in (10, 100, 1000) for m, extra in sizes.items()]
        chart = memory.chart_of(rows, "P", "memory-P")
        found = {trace.label: trace.y for trace in chart.traces}
        assert found["leanest library"] == (100_000,) * 3, "JAX, whose pool is not seen, is left out"
        assert found["reverse, hand-written in torch"] == (50_000,) * 3
        if runner.available():
            kept = [program.working_bytes("reverse", memory.problem_of(r)) for r in rows if r.method == "reverse:native"]
            assert found["reverse, hand-written in C"] == tuple(9000 + bytes_ for bytes_ in kept)
            assert chart.limit.label == "less than max_bytes= can keep to"

    def test_published_times_stand_beside_ours(self):
        rows = [row(m, L=L, D=1000, K=1000, P=1, median=1e-3) for L in (3, 5, 10) for m in ("reverse:notebook", "reverse:eager")]
        chart = published.chart_of(rows, "s", published.PUBLISHED)
        found = {trace.label: trace for trace in chart.traces}
        assert found["forward, published, cpu"].y == pytest.approx((0.0211333, 0.0412067, 0.0913489), rel=1e-4)
        assert len(chart.traces) == 5, "each has a bar of its own"

    def test_the_published_forward_and_the_notebooks_method_are_told(self):
        def rows(name, **times):
            return [row(f"{mode}:{name}", L=L, D=1000, K=1000, P=1, median=t) for L in (3, 5, 10) for mode, t in times.items()]

        ours = rows("native", forward=0.2, reverse=1e-3)
        chart = published.chart_of([*ours, *rows("notebook", forward=0.4, reverse=3e-3)], "s", published.PUBLISHED)
        assert chart.title == "Hand-written modes are 2 to 3 times as fast as the notebook's method on the same machine"
        assert "The published forward on the CPU is faster than every forward here" in chart.caption
        chart = published.chart_of(
            [*rows("native", forward=0.01, reverse=1e-3), *rows("dense", forward=0.04, reverse=3e-3)], "s", published.PUBLISHED
        )
        assert "as fast as diagonal matrices multiplied from an identity" in chart.title
        assert "is faster than every forward" not in chart.caption

    def test_depth_sets_the_ratios_beside_those_of_the_operations(self):
        found = []
        for L in (3, 5, 10):
            times = {
                "forward:notebook": 1e-2 * (L - 1),
                "reverse:notebook": 1e-3 * L,
                "forward:native": 5e-3 * L,
                "reverse:native": 1e-3 * L,
            }
            found += [row(m, L=L, D=1000, K=1000, P=1, median=t) for m, t in times.items()]
            found += [row(f"{mode}:notebook", L=L, D=2, K=30, P=10, median=t) for mode, t in (("forward", 1e-5), ("reverse", 2e-5))]
        chart = published.depth(found, "s", published.PUBLISHED)
        ratios, relative, little = ({series.label: series.y for series in panel.series} for panel in chart.panels)
        assert little == {"the notebook's method": (0.5, 0.5, 0.5)}
        assert ratios["published, cpu"] == pytest.approx((6.52, 7.13, 8.07), abs=5e-3)
        assert ratios["the notebook's method"] == pytest.approx((20 / 3, 8.0, 9.0))
        assert ratios["hand-written, kernels"] == pytest.approx((5.0, 5.0, 5.0))
        assert relative["the notebook's method"] == pytest.approx((1, 1.2, 1.35))
        rising, flat = [series.y for series in chart.panels[1].series if series.label.startswith("operations")]
        assert rising == pytest.approx((1, 1.2, 1.35))
        assert flat == (1, 1, 1)
        assert "published, cpu 1.24, the notebook's method 1.35; operations 1.35" in chart.title
        assert figures.render(chart, "svg")

    def test_devices_meet_best_against_best(self):
        there = {"device": "cuda", "device_name": "a card", "machine": "g"}
        card = [r.model_copy(update={**there, "median_s": 2e-5, "ci_low_s": 2e-5, "ci_high_s": 2e-5}) for r in power_law((3, 2, 1.5))]
        chart = devices.devices([*power_law((3, 2, 1.5)), *card])
        assert chart.title.startswith("Some cpu is the fastest on 3 of 6 problems")
        (panel,) = chart.panels
        assert panel.title == "from K = 8: Some cpu\nfrom K = 64: a card"
        assert {series.label: series.x for series in panel.series} == dict.fromkeys(
            ("Some cpu", "a card"), (8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
        )
        assert figures.render(chart, "svg")

    def test_threads_of_one_processor_are_told_apart_and_one_device_is_no_comparison(self):
        one = [r.model_copy(update={"threads": 1, "median_s": r.median_s * 2}) for r in power_law((3, 2, 1.5))]
        (panel,) = devices.devices([*power_law((3, 2, 1.5)), *one]).panels
        assert panel.title == "from K = 8: Some cpu (cpu, 2 threads)"
        assert devices.devices(power_law((3, 2, 1.5))) is None


def test_powers_of_ten_are_written_plainly():
    drawing = figures.draw(saturation.chart_of({"saturation": list(study.follow(depth=6, width=64))}))
    drawing.canvas.draw()
    labels = [label.get_text() for axes in drawing.axes for label in axes.get_yticklabels()]
    assert not [label for label in labels if "$" in label or "mathdefault" in label]


@pytest.fixture
def everything(tmp_path):
    workloads = [
        row(m, sweep="workloads", median=t) for m, t in (("reverse:native", 1e-5), ("forward:native", 2e-5), ("reverse:jax", 4e-5))
    ]
    P = [row(m, sweep="outputs", P=P, peak_bytes=10_000 * P, median=1e-5 * P) for P in (1, 8, 64) for m in (*OURS, "reverse:jax")]
    notebook = [row(m, sweep="notebook", L=L, D=1000, K=1000, P=1) for L in (3, 5, 10) for m in ("reverse:notebook", "reverse:native")]
    return [
        ResultFile(tmp_path / "workloads.csv", workloads, {"cpu": RATES}, PROBLEMS),
        ResultFile(tmp_path / "aspect.csv", grid(), {"cpu": RATES}),
        ResultFile(tmp_path / "anything.csv", power_law((3, 2, 1.5), sweep="anything"), {"cpu": RATES}),
        ResultFile(tmp_path / "outputs.csv", P, {"cpu": RATES}),
        ResultFile(tmp_path / "quick.csv", [*growing(), row("reverse:native", L=7, D=9, K=9, P=9)], {"cpu": RATES}),
        ResultFile(tmp_path / "bottleneck.csv", [row(m, sweep="bottleneck", D=64, P=64, K=8) for m in OURS], {"cpu": RATES}),
        ResultFile(tmp_path / "notebook.csv", notebook, {"cpu": RATES}),
    ]


@pytest.mark.long
def test_every_figure_is_drawn_at_a_readable_size(everything, tmp_path):
    found = exhibits(everything)
    expected = [
        "Against every library",
        "Which mode where",
        "Growth",
        "Close to the machine",
        "Memory",
        "Mixed mode and the planner",
        "The course notebook",
    ]
    assert [section for section in dict.fromkeys(exhibit.section for exhibit in found) if section in expected] == expected
    stems = [exhibit.chart.stem for exhibit in found]
    assert len(set(stems)) == len(stems)
    assert {"anything", "quick", "quick-2"} <= set(stems), "a sweep of any name has its figures"
    for exhibit in found:
        drawing = figures.draw(exhibit.chart)
        drawing.canvas.draw()
        texts = [text for text in drawing.findobj(match=lambda artist: hasattr(artist, "get_fontsize")) if text.get_text().strip()]
        assert min(text.get_fontsize() for text in texts) >= 8, exhibit.chart.stem
        assert drawing.get_size_inches()[0] <= 6.4, exhibit.chart.stem
        series = max(len(axes.get_legend_handles_labels()[1]) for axes in drawing.axes)
        assert series <= 8, exhibit.chart.stem
        (path,) = figures.save(exhibit.chart, tmp_path, ["svg"])
        content = path.read_text()
        assert f"<title>{(exhibit.chart.title or exhibit.chart.topic)[:20]}".replace("&", "&amp;") in content
        assert "prefers-color-scheme: dark" in content
        assert not re.findall(rf"(?<![(, ]){style.PAPER}\b(?!\))", content.split("<style>")[0])


def test_two_devices_get_figures_of_their_own_and_one_together(tmp_path):
    slow = power_law((3, 2, 1.5), sweep="width")
    fast = [r.model_copy(update={"device": "cuda", "device_name": "Some GPU", "median_s": 2e-5}) for r in slow]
    files = [ResultFile(tmp_path / "width.csv", [*slow, *fast], {"cpu": RATES, "cuda": RATES})]
    stems = {exhibit.chart.stem for exhibit in exhibits(files)}
    assert {"width-cpu", "width-cuda", "roofline-cpu", "roofline-cuda"} <= stems


class TestQuantities:
    """Rows of a gradient: figures of their own, and none of the Jacobian's."""

    def rows(self):
        found = []
        for N in (1, 4, 16, 64):
            common = {"N": N, "loss": "mse", "sweep": "gradients"}
            found += [row("gradient/reverse:native", median=N * 1e-6, **common), row("gradient/reverse:eager", median=N * 4e-6, **common)]
            found += [row("gradient/reverse:jax", median=N * 3e-6, **common), row("gradient/reverse:autograd", median=N * 5e-6, **common)]
        return found

    def sweep(self):
        grid = [{"name": "the named one", "L": 2, "D": 3, "K": 5, "P": 4, "N": 64}]
        return Sweep.model_validate({"name": "gradients", "title": "t", "quantity": "gradient", "grid": grid})

    def test_growth_and_leads(self):
        chart = quantities.growth_of(self.rows(), "growth")
        assert chart.title == "Gradient of a loss in the parameters: faster than every library at 4 of 4 sizes, 3 to 3 times"
        assert [(label, [t.label for t in traces]) for label, traces in chart.panels] == [
            ("samples N", ["best hand-written", "best library"])
        ]
        assert figures.render(chart, "svg")
        assert quantities.growth_of(self.rows()[:4], "growth") is None

    def test_only_named_problems_stand_beside_the_libraries(self):
        chart = speedups.chart_of(self.rows(), "named", self.sweep(), quantity="gradient")
        assert chart.problems == ("the named one",)
        assert {trace.label: trace.y for trace in chart.series} == {"JAX jit": (3.0,), "torch.autograd": (5.0,)}
        assert chart.title.startswith("Gradient of a loss in the parameters: faster than every library on 1 of 1 workloads")

    def test_no_chart_of_the_jacobian_shows_them(self, tmp_path):
        file = ResultFile(tmp_path / "gradients.csv", self.rows(), {"cpu": RATES}, self.sweep())
        stems = [exhibit.chart.stem for exhibit in exhibits([file]) if exhibit.sources]
        assert [stem for stem in stems if "gradients" in stem] == ["speedups-gradients", "growth-gradients"]


@pytest.mark.needs_compiler
def test_memory_is_that_of_the_threads_of_the_row(set_threads):
    one = row("forward:native", L=5, D=32, K=256, P=64, N=256, threads=2, peak_bytes=0)
    found = set()
    for here in (1, 2, 3):
        set_threads(here)
        found.add(memory.beyond_output(one))
    assert len(found) == 1
    assert found != {memory.beyond_output(one.model_copy(update={"threads": 5}))}

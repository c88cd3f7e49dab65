"""The headline figure: which rows it takes, what it says of them, and what noise may not decide."""

from pathlib import Path

import pytest

from plots import figures
from plots.chart import ResultFile
from plots.charts.headline import headline
from tests.benchmarks.rows import row


def result(sweep, rows, machine="m"):
    return ResultFile(Path(machine) / f"{sweep}.csv", rows, {})


def over(variable, forward, reverse, library, sizes=(1, 4, 16, 64), **options):
    times = {"forward:native": forward, "reverse:native": reverse, "reverse:jax": library}
    return [
        row(method, **{variable: size}, median=time(size), spread=0.01, sweep="s", **options)
        for size in sizes
        for method, time in times.items()
    ]


def inputs(**options):
    return over("D", lambda D: D * 1e-5, lambda D: 8e-5, lambda D: 2e-4 * D**0.5, **options)


def depth(**options):
    return over("L", lambda L: 3e-5 * L, lambda L: 2e-5 * L, lambda L: 4e-5 * L, **options)


GPU = {"device": "cuda", "device_name": "a card", "machine": "gpu"}


def on_both():
    gpu_inputs = over("D", lambda D: 6e-5, lambda D: 6e-5, lambda D: 1e-4, **GPU)
    gpu_depth = over("L", lambda L: 3e-5, lambda L: 3e-5, lambda L: 2e-5, **GPU)
    return [result("inputs", inputs()), result("depth", depth()), result("inputs", gpu_inputs, "g"), result("depth", gpu_depth, "g")]


def test_both_devices_in_one_panel_a_variable():
    chart = headline(on_both())
    assert [panel.x_label for panel in chart.panels] == ["hidden layers L", "input width D"]
    assert all(set(panel.traces) == {"cpu", "cuda"} for panel in chart.panels)
    assert chart.panels[1].traces["cpu"]["forward"].y == pytest.approx((1e-5, 4e-5, 16e-5, 64e-5))
    assert chart.title == "Forward and reverse mode differ by up to 8 times on the CPU, 1 times on the GPU"
    assert "JAX jit" in chart.libraries["cuda"]
    assert "8 of 8 CPU points" in chart.caption
    assert "4 of 8 GPU points" in chart.caption, "where a library wins, the figure says so"


def test_crossovers_of_modes_and_of_devices():
    L, D = headline(on_both()).panels
    assert [(c.device, c.first) for c in D.crossovers] == [("cpu", "forward")]
    assert D.crossovers[0].x == pytest.approx(8.0)
    assert D.crossovers[0].y == pytest.approx(8e-5)
    assert D.finding == "CPU: forward up to D ≈ 8, GPU: both alike\nGPU faster from D = 16"
    assert L.finding == "CPU: reverse, GPU: both alike\nGPU faster from L = 4"


def test_what_lies_within_the_intervals_is_no_crossover():
    rows = [
        row(mode, L=L, median=t, spread=0.4)
        for L, pair in ((1, (1e-5, 1.1e-5)), (2, (1.1e-5, 1e-5)), (4, (1e-5, 1.1e-5)))
        for mode, t in zip(("forward:native", "reverse:native"), pair, strict=True)
    ]
    panel = headline([result("depth", rows), result("inputs", inputs())]).panels[0]
    assert panel.crossovers == ()
    assert panel.finding == "CPU: both alike"


def test_the_machine_with_most_of_the_sweeps_is_taken_and_one_alone_is_no_headline():
    other = [result("inputs", inputs(machine="b", device_name="B"), "a-b")]
    assert headline(other) is None
    chart = headline([*other, *on_both()])
    assert "B" not in chart.subtitle


def test_it_is_drawn():
    text = figures.render(headline(on_both()), "svg").decode()
    assert "<title>Forward and reverse mode differ" in text


def test_a_point_that_one_mode_lacks_is_left_out_and_nothing_else():
    gap = [one for one in inputs() if (one.method, one.D) != ("reverse:native", 4)]
    failed = [row("reverse:native", D=4, status="oom"), *gap]
    chart = headline([result("inputs", failed), *on_both()[1:]])
    assert chart.panels[1].traces["cpu"]["reverse"].x == (1, 16, 64)
    assert chart.panels[1].traces["cpu"]["forward"].x == (1, 4, 16, 64)
    assert chart.panels[1].finding.startswith("CPU: forward up to D ≈ 8")
    assert figures.render(chart, "svg")


def test_other_problems_are_not_drawn_on_the_same_axes():
    other = over("D", lambda D: 6e-5, lambda D: 6e-5, lambda D: 1e-4, K=77, **GPU)
    chart = headline([*on_both()[:2], result("inputs", other, "g"), on_both()[3]])
    assert set(chart.panels[0].traces) == {"cpu", "cuda"}
    assert set(chart.panels[1].traces) == {"cpu"}


def test_a_sweep_with_one_mode_alone_is_no_panel():
    libraries = [one for one in inputs() if one.method != "reverse:native"]  # a library's reverse mode is none of the two lines
    assert headline([result("inputs", libraries), result("depth", depth())]) is None

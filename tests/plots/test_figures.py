"""Figures: their data, their bytes, and odd results."""

import math

import pytest

from benchmarks.errors import BadInput
from benchmarks.records.csv_file import read_csv, result_files, write_csv
from benchmarks.run.environment import ROOT
from benchmarks.run.provenance import read_provenance
from jacobians.kernels.cpu import runner as native
from jacobians.registry import methods
from plots import figures, report
from plots.data import DotChart, LineChart, RatioMap
from plots.published import published_charts
from plots.style import style_of
from plots.traces import charts, crossings
from tests.benchmarks.rows import row


def growing(**options):
    """Forward grows with D, reverse does not: they cross at D = 8."""
    rows = []
    for D in (1, 4, 16, 64):
        rows += [row("forward:eager", D=D, median=D * 1e-5, **options), row("reverse:eager", D=D, median=8e-5, **options)]
        rows += [row("reverse:jax", D=D, median=1e-4, **options)]
    return rows


class TestData:
    def test_one_varying_size_is_a_line_chart(self):
        (chart,) = charts(growing(), "s")
        assert isinstance(chart, LineChart)
        assert [trace.method for trace in chart.traces] == ["forward:eager", "reverse:eager", "reverse:jax"]
        assert chart.traces[0].x == (1, 4, 16, 64)
        assert chart.crossovers == pytest.approx([8.0])
        assert "D ≈ 8" in chart.caption
        assert "beats the best peer on 4 of 4 problems" in chart.caption

    def test_the_winner_is_computed(self):
        (chart,) = charts([r for r in growing() if r.D < 8], "s") or [None]
        assert isinstance(chart, DotChart)  # two positions are no line
        (chart,) = charts([row(m, L=n, median=t) for n in (1, 2, 3) for m, t in (("forward:eager", 1e-5), ("reverse:eager", 2e-5))], "s")
        assert "forward mode is the faster of the two at every L" in chart.caption

    def test_a_grid_is_a_map(self):
        rows = [
            row(m, D=D, P=P, median=1e-6 * (D if m[0] == "f" else P))
            for D in (1, 8, 64)
            for P in (1, 8, 64)
            for m in ("forward:eager", "reverse:eager")
        ]
        (chart,) = charts(rows, "s")
        assert isinstance(chart, RatioMap)
        assert chart.ratio[0] == pytest.approx((1, 8, 64))
        assert all(d == pytest.approx(p) for d, p in chart.crossover)
        assert "faster in 3 of 9 cells" in chart.caption

    def test_wrong_jacobians_are_never_plotted(self):
        rows = [*growing(), row("forward:dense", D=4, status="invalid"), row("forward:dense", D=16, status="timeout")]
        (chart,) = charts(rows, "s")
        assert "forward:dense" not in [trace.method for trace in chart.traces]

    def test_mixed_mode_has_its_gain_in_the_caption(self):
        times = {"forward:eager": 4e-5, "reverse:eager": 3e-5, "mixed:eager": 1e-5}
        (chart,) = charts([row(m, K=K, median=t * K) for K in (10, 20, 40) for m, t in times.items()], "s")
        assert "Mixed mode is 3.00 times as fast as the better of them at K = 10" in chart.caption

    def test_devices_meet_in_one_chart(self):
        fast = [r.model_copy(update={"median_s": 3e-5, "ci_low_s": 3e-5, "ci_high_s": 3e-5}) for r in growing(device="cuda")]
        names = [chart.stem for chart in charts([*growing(), *fast], "s")]
        assert names == ["s-cpu", "s-cuda", "s-devices"]
        assert charts([*growing(), *fast], "s")[-1].caption == "cuda is faster than cpu from D = 4 on."

    def test_published_times_stand_beside_ours(self):
        rows = [row(m, L=L, D=1000, K=1000, P=1, median=1e-3) for L in (3, 5, 10) for m in ("reverse:dense", "reverse:eager")]
        (chart,) = published_charts(rows, "s", figures.PUBLISHED)
        notes = {(trace.method, trace.note): trace for trace in chart.traces}
        assert notes["forward:dense", "published, cpu"].y == pytest.approx((0.0211333, 0.0412067, 0.0913489), rel=1e-4)

    def test_crossings(self):
        assert crossings([1, 2, 4], [2.0, 2.0, 2.0]) == ()
        assert crossings([1, 100], [0.1, 10.0]) == pytest.approx((10.0,))


class TestDrawing:
    @pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
    def test_the_same_rows_give_the_same_bytes(self, tmp_path, kind):
        write_csv(growing(), tmp_path / "s.csv")
        first, second = (figures.draw_results([tmp_path / "s.csv"], tmp_path / name, [kind], read_csv)[0] for name in "ab")
        assert first.read_bytes() == second.read_bytes()

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_partial_results_are_drawn(self, tmp_path, count):
        write_csv([*growing()[:count], row("reverse:dense", status="oom")], tmp_path / "s.csv")
        assert figures.draw_results([tmp_path / "s.csv"], tmp_path, ["svg"], read_csv)

    @pytest.mark.parametrize("rows", [[], [row(status="crashed")]])
    def test_nothing_to_draw_is_said(self, tmp_path, rows):
        write_csv(rows, tmp_path / "s.csv")
        with pytest.raises(BadInput, match="nothing to draw"):
            figures.draw_results([tmp_path / "s.csv"], tmp_path, ["svg"], read_csv)

    def test_irregular_widths_and_hostile_names(self, tmp_path):
        odd = [row(K=None, widths="3-7-2", device_name=r"$\frac{$ <script>", machine="../../x"), row("reverse:unheard-of", D=9)]
        write_csv(odd, tmp_path / "s.csv")
        (path,) = figures.draw_results([tmp_path / "s.csv"], tmp_path / "out", ["svg"], read_csv)
        assert "<script>" not in path.read_text()
        assert figures._folder(odd) == "------x"

    def test_every_chart_kind(self, tmp_path):
        rows = [
            row(m, D=D, P=P, median=1e-6 * (D if m[0] == "f" else P))
            for D in (1, 8, 64)
            for P in (1, 8, 64)
            for m in ("forward:eager", "reverse:eager")
        ]
        write_csv(rows, tmp_path / "s.csv")
        assert figures.draw_results([tmp_path / "s.csv"], tmp_path, ["svg"], read_csv)


def test_every_method_has_its_own_look():
    looks = [
        (s.colour, s.marker, s.line)
        for s in (style_of(m.name, m.hand_written) for m in methods() if "toy" not in m.name and "faulty" not in m.name)
    ]
    assert len(set(looks)) == len(looks)


COMMITTED = result_files()


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_committed_results_are_valid(path):
    rows = read_csv(path)
    origin = read_provenance(path)
    assert rows
    assert origin.rates.keys() == {"cpu"}
    assert {row.sweep for row in rows} == {origin.sweep.name} == {path.stem}
    assert origin.machine == path.parent.name
    assert all(row.reason for row in rows if row.status != "ok")
    assert all(math.isfinite(row.median_s) for row in rows if row.status == "ok")


def test_committed_figures_are_what_make_figures_draws(tmp_path):
    drawn = figures.draw_committed(tmp_path, ["svg"])
    committed = {path.name: path for path in (ROOT / "plots" / "figures").glob("*/*.svg")}
    assert {path.name for path in drawn} == committed.keys()
    for path in drawn:
        assert path.read_bytes() == committed[path.name].read_bytes(), f"{committed[path.name]} is not what `make figures` draws"


@pytest.mark.skipif(not native.available(), reason="no C compiler")
def test_the_committed_report_is_what_make_report_writes():
    committed = (ROOT / "docs" / "report.html").read_text(encoding="utf-8")
    assert report.render(result_files()) == committed


@pytest.mark.parametrize("path", [path for path in COMMITTED if path.stem == "notebook"], ids=lambda path: path.parent.name)
def test_committed_notebook_claim(path):
    """Both eager modes are faster than dense, autograd.functional and torch.func of the same mode, on every shape."""
    rows = [r for r in read_csv(path) if r.status == "ok"]
    for ours in (r for r in rows if r.method in {"forward:eager", "reverse:eager"}):
        others = [r for r in rows if r.problem_key == ours.problem_key and (r.device, r.mode) == (ours.device, ours.mode)]
        slower = [r for r in others if r.implementation in {"dense", "torch.func", "autograd-loop", "autograd-vectorized", "sum-trick"}]
        assert slower
        for other in slower:
            assert ours.median_s < other.median_s, (ours.case, other.method)

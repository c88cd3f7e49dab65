"""Figures: their data, their bytes, and odd results."""

import io
import math
import re

import pytest
from matplotlib.image import imread

from benchmarks.errors import BadInput
from benchmarks.records.csv_file import read_csv, result_files, write_csv
from benchmarks.records.problems import NAIVE, key_of, ratio
from benchmarks.run.environment import ROOT
from benchmarks.run.provenance import read_provenance
from jacobians.kernels.native import runner
from plots import figures
from plots.chart import MOST_WORDS, exhibits
from plots.charts import speedups
from plots.report import page
from plots.style import of_trace
from tests.benchmarks.rows import row
from tests.plots.test_charts import growing


class TestDrawing:
    @pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
    def test_the_same_rows_give_the_same_bytes(self, tmp_path, kind):
        write_csv(growing(), tmp_path / "s.csv")
        first, second = (figures.draw_files([tmp_path / "s.csv"], tmp_path / name, [kind])[0] for name in "ab")
        assert first.read_bytes() == second.read_bytes()

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_partial_results_are_drawn(self, tmp_path, count):
        write_csv([*growing()[:count], row("reverse:notebook", status="oom")], tmp_path / "s.csv")
        assert figures.draw_files([tmp_path / "s.csv"], tmp_path, ["svg"])

    @pytest.mark.parametrize("rows", [[], [row(status="crashed")]])
    def test_nothing_to_draw_is_said(self, tmp_path, rows):
        write_csv(rows, tmp_path / "s.csv")
        with pytest.raises(BadInput, match="nothing to draw"):
            figures.draw_files([tmp_path / "s.csv"], tmp_path, ["svg"])

    def test_irregular_widths_and_hostile_names(self, tmp_path):
        odd = [row(K=None, widths="3-7-2-4", device_name=r"$\frac{$ <script>", machine="../../x"), row("reverse:unheard-of", D=9)]
        write_csv(odd, tmp_path / "s.csv")
        drawn = figures.draw_files([tmp_path / "s.csv"], tmp_path / "out", ["svg"])
        assert [path.name for path in drawn if "<script>" in path.read_text()] == []
        assert drawn
        assert figures._folder(odd) == "------x"


def test_modes_and_libraries_have_looks_of_their_own():
    looks = [
        of_trace(name)
        for name in ("forward:native", "reverse:native", "mixed:native", *(f"library:{n}" for n in speedups.LIBRARIES.values()))
    ]
    assert len({(look.colour, look.marker) for look in looks}) == 3 + len(set(speedups.LIBRARIES.values()))


def test_what_stands_in_place_of_a_figure_is_replaced_and_not_written_through(tmp_path):
    write_csv(growing(), tmp_path / "s.csv")
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "s.svg").symlink_to(tmp_path / "precious")
    figures.draw_files([tmp_path / "s.csv"], tmp_path, ["svg"])
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "s.svg").is_symlink()
    assert not list(tmp_path.glob("*.part"))


COMMITTED = result_files()


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_committed_results_are_valid(path):
    rows = read_csv(path)
    origin = read_provenance(path)
    assert rows
    assert origin.rates.keys() == {row.device for row in rows}
    assert {row.sweep for row in rows} == {origin.sweep.name} == {path.stem}
    assert origin.machine == path.parent.name
    assert all(row.reason for row in rows if row.status != "ok")
    assert all(math.isfinite(row.median_s) for row in rows if row.status == "ok")


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def taken_apart(svg):
    """The text of a drawing with its hashed identifiers counted, and its numbers: the last digit of both depends on the processor."""
    seen = {}
    text = re.sub(r"\b[pm][0-9a-f]{10}\b", lambda found: seen.setdefault(found[0], f"id{'i' * len(seen)}"), svg.read_text(encoding="utf-8"))
    return NUMBER.sub("#", text), [float(number) for number in NUMBER.findall(text)]


@pytest.mark.long
def test_committed_figures_are_what_make_figures_draws(tmp_path):
    drawn = figures.draw_committed(tmp_path, ["svg"])
    committed = {path.relative_to(ROOT / "plots" / "figures"): path for path in (ROOT / "plots" / "figures").rglob("*.svg")}
    assert {path.relative_to(tmp_path) for path in drawn} == committed.keys()
    for path in drawn:
        other = committed[path.relative_to(tmp_path)]
        (text, numbers), (committed_text, committed_numbers) = taken_apart(path), taken_apart(other)
        assert text == committed_text, f"{other} is not what `make figures` draws"
        assert numbers == pytest.approx(committed_numbers, rel=1e-5, abs=1e-4), f"{other} is not what `make figures` draws"


@pytest.mark.long
def test_a_caption_has_thirty_words_at_most():
    machines = [[figures.load(path) for path in result_files() if path.parent == machine] for machine in {p.parent for p in result_files()}]
    every = [exhibit.chart for files in machines for exhibit in exhibits(files)]
    assert len(every) > 30
    assert [chart.stem for chart in every if len(chart.caption.split()) > MOST_WORDS] == []


@pytest.mark.long
@pytest.mark.skipif(not runner.available(), reason="no C compiler")
def test_the_committed_report_is_what_make_report_writes(monkeypatch):
    """But for its drawings, whose data are those of the committed figures, compared above."""

    def without_drawings(text):
        return re.sub(r"<svg .*?</svg>", "<svg/>", text, flags=re.DOTALL)

    monkeypatch.setattr(page, "_inline", lambda exhibit, number: "<svg ></svg>\n")
    committed = (ROOT / "docs" / "report.html").read_text(encoding="utf-8")
    assert without_drawings(page.render(result_files())) == without_drawings(committed)


@pytest.mark.parametrize("path", [path for path in COMMITTED if path.stem == "notebook"], ids=lambda path: path.parent.name)
def test_committed_notebook_claim(path):
    """No dense, autograd.functional or torch.func of the same mode is faster than our eager one, beyond what noise explains."""
    every = read_csv(path)
    rows = [r for r in every if r.status == "ok"]
    for ours in (r for r in rows if r.method in {"forward:eager", "reverse:eager"}):
        others = [r for r in rows if key_of(r) == key_of(ours) and (r.device, r.mode) == (ours.device, ours.mode)]
        slower = [r for r in others if r.implementation in {*NAIVE, "torch.func", "autograd-loop", "autograd-vectorized", "sum-trick"}]
        wrong = [r for r in every if key_of(r) == key_of(ours) and r.mode == ours.mode and r.status == "invalid"]
        assert slower or wrong  # what computes something else is not timed
        for other in slower:
            lead = ratio(other, ours)
            assert lead.high > 1, (ours.case, other.method, str(lead))


def test_a_viewer_that_knows_no_variables_shows_ink_on_paper(tmp_path):
    """Colours are attributes: a renderer that is no browser paints them, where `var(…)` came out black."""
    resvg = pytest.importorskip("resvg_py")
    write_csv(growing(), tmp_path / "s.csv")
    (drawn,) = figures.draw_files([tmp_path / "s.csv"], tmp_path, ["svg"])[:1]
    text = drawn.read_text(encoding="utf-8")
    assert "var(" not in text
    picture = imread(io.BytesIO(bytes(resvg.svg_to_bytes(svg_string=text, dpi=96))))[..., :3]
    assert picture[2, 2].min() > 0.95, "the corner is paper"
    assert picture.mean() > 0.8
    assert picture.min() < 0.3, "there is ink"

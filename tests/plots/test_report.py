"""The report: what is in it, that it stands alone, and that nothing from a file comes alive in it."""

import json
import re

import pytest

from benchmarks.errors import BadInput
from benchmarks.run.environment import ROOT
from plots.report import page as report
from plots.report import summary
from tests.benchmarks.rows import row, write_result
from tests.plots.conftest import HOSTILE, growing


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of two small results."""
    out = tmp_path_factory.mktemp("small")
    workloads = [
        row(m, sweep="workloads", median=t) for m, t in (("reverse:native", 1e-5), ("forward:native", 2e-5), ("reverse:jax", 4e-5))
    ]
    grid = [{"name": "tiny network", "L": 2, "D": 3, "K": 5, "P": 4}]
    inputs = write_result(growing(sweep="inputs"), out / "inputs.csv")
    return report.render([inputs, write_result(workloads, out / "workloads.csv", grid=grid)])


def embedded(page, name):
    """What a script element holds."""
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)[1])


@pytest.mark.needs_compiler
def test_the_page_holds_what_the_results_say(page):
    assert "15 measurements on 5 problems" in page
    assert "beats every library on 5 of 5 problems where one was measured" in page
    assert "times the faster mode&#39;s time on 3 of 5 CPU problems, 2 times at worst" in page  # D = 4 and P = 4, and the tiny network
    assert re.search(r'<th scope="row">tiny network</th><td>reverse:native</td>', page)
    assert "4.00x" in page
    for text in (
        "Jacobian time against input width D",
        "Time of each library over the best hand-written method",
        "python bench.py run inputs",
        "T_1 = S_1 W_1",
    ):
        assert text in page
    table = embedded(page, "table-data")
    assert len(table["rows"]) == 15
    assert set(report.COLUMNS) == set(table["columns"])
    (machine,) = embedded(page, "explorer-data")
    assert machine["gemm"] == 2e11
    assert len(machine["problems"]) == 5


@pytest.mark.needs_compiler
def test_it_asks_nobody_for_anything(page):
    addresses = set(re.findall(r"""(?:https?:)?//[\w.-]+""", page)) - {"http://www.w3.org"}  # the names of XML
    assert not {address for address in addresses if "." in address}
    assert not re.findall(r'(?:src|href)="(?!#|data:,")', page)
    assert "default-src 'none'" in page


@pytest.mark.needs_compiler
def test_ids_are_unique_and_what_they_name_is_there(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', page):
        assert target in ids, target


def test_hostile_text_stays_text(tmp_path):
    rows = [r.model_copy(update={"device_name": HOSTILE, "flags": HOSTILE}) for r in growing(sweep="inputs")]
    rows.append(row("reverse:notebook", sweep="inputs", status="crashed", reason=HOSTILE))
    path = write_result(rows, tmp_path / "inputs.csv", facts={"cpu_model": HOSTILE, "commit": HOSTILE}, command=HOSTILE)
    page = report.render([path])
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "49" not in re.findall(r"=cmd\(\) (\S+)", page)
    table = embedded(page, "table-data")
    assert [table["words"][line[-1]] for line in table["rows"]][-1] == HOSTILE
    assert page.count("<script") == page.count("</script>") == 4


@pytest.mark.long
def test_five_thousand_rows_stay_small(large_report):
    page = large_report.read_text(encoding="utf-8")
    assert len(page.encode()) < 3_000_000
    assert len(embedded(page, "table-data")["rows"]) == 5013


TIMES = ("min_s", "q1_s", "median_s", "q3_s", "max_s", "mean_s", "ci_low_s", "ci_high_s")


def test_several_machines_become_a_device_comparison(tmp_path):
    fast = [
        r.model_copy(
            update={
                "machine": "other-8-cores",
                "device_name": "Fast CPU",
                **{k: getattr(r, k) / 2 for k in TIMES},
            }
        )
        for r in growing(sweep="inputs")
    ]
    paths = [write_result(growing(sweep="inputs"), tmp_path / "inputs.csv")]
    (tmp_path / "other").mkdir()
    paths.append(write_result(fast, tmp_path / "other" / "inputs.csv", machine="other-8-cores"))
    page = report.render(paths)
    assert "Devices beside each other" in page
    assert page.count("<td>Fast CPU (cpu, 2 threads)</td><td>2.00x (1.92-2.08)</td>") == 4
    assert len(embedded(page, "explorer-data")) == 2


def test_without_ceilings_there_is_still_a_report(tmp_path):
    page = report.render([write_result(growing(sweep="inputs"), tmp_path / "inputs.csv", ceilings={"cpu": {"gemm_flops_per_s": 1e11}})])
    assert embedded(page, "explorer-data") == []


def test_bad_results(tmp_path):
    with pytest.raises(BadInput, match="no results yet"):
        report.render([])
    with pytest.raises(BadInput, match="nothing to report: the results have no measured case"):
        report.render([write_result([row(status="crashed")], tmp_path / "quick.csv")])
    with pytest.raises(BadInput, match="cannot be written"):
        report.write([write_result([row()], tmp_path / "quick.csv")], tmp_path / "quick.csv" / "report.html")


def test_one_row_makes_a_page(tmp_path):
    out = report.write([write_result([row()], tmp_path / "quick.csv")], tmp_path / "report.html")
    assert "1 measurements on 1 problems" in out.read_text(encoding="utf-8")
    assert summary.sentences([row()])[1] == "No problem has both a hand-written method and a library's."


def test_the_committed_page_answers_first_and_folds_the_rest():
    page = (ROOT / "docs" / "report.html").read_text(encoding="utf-8")
    parts = ['class="lead"', 'id="headline"', 'id="modes"', 'id="devices"', 'id="scoreboard"', 'id="explorer"', 'class="part"']
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    headings = re.findall(r"<h3>(.*?)</h3>", page)
    assert [re.search(r"over (\w+ \w),", text)[1] for text in headings[:4]] == ["depth L", "inputs D", "width K", "outputs P"]
    numbers = [int(number) for number in re.findall(r'id="figure-(\d+)"', page)]
    assert numbers == list(range(1, len(numbers) + 1))
    links = re.findall(r'<a href="(\.\./[^"]+)">', page)
    assert links
    assert all((ROOT / "docs" / link).is_file() for link in links)

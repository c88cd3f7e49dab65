"""J in evaluations: which y counts, what the bounds are, and that y without J, or J without y, is no chart."""

from plots import figures
from plots.charts.evaluations import chart_of
from tests.benchmarks.rows import row


def rows():
    found = []
    for D in (1, 4, 16):
        times = {"forward:native": 2e-5 * D, "reverse:native": 4e-5, "reverse:jax": 8e-5}
        times |= {"value/evaluation:eager": 3e-5, "value/evaluation:native": 1e-5}
        found += [row(method, D=D, median=time, sweep="evaluations") for method, time in times.items()]
    return found


def test_j_over_the_fastest_y():
    chart = chart_of(rows(), "evaluations")
    (panel,) = chart.panels
    costs = {trace.label: dict(zip(trace.x, trace.y, strict=True)) for trace in panel.traces}
    assert {name: {x: round(y, 9) for x, y in line.items()} for name, line in costs.items()} == {
        "forward, hand-written": {1: 2, 4: 8, 16: 32},
        "reverse, hand-written": {1: 4, 4: 4, 16: 4},
        "best library": {1: 8, 4: 8, 16: 8},
    }
    assert {bound.label: bound.y for bound in panel.bounds} == {"bound of forward": (2.5, 10, 40), "bound of reverse": (16, 16, 16)}
    assert chart.title == "J costs 2 to 4 evaluations, at most 80% of the bound"
    assert len(chart.caption.split()) <= 30
    assert b"evaluations" in figures.render(chart, "svg")


def test_both_are_needed():
    assert chart_of([r for r in rows() if r.quantity == "value"], "e") is None
    assert chart_of([r for r in rows() if r.quantity != "value"], "e") is None

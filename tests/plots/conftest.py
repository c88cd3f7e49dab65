"""What the tests of the report share."""

from itertools import product

import pytest

from plots.report import page as report
from tests.benchmarks.rows import row, write_result

HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)> =cmd() {{ 7 * 7 }} $\\frac{$ & "quoted"'


def growing(**options):
    """Forward grows with D, reverse does not; a peer is slower than both."""
    rows = []
    for D in (1, 4, 16, 64):
        rows += [row("forward:native", D=D, median=D * 1e-5, fraction_of_ceiling=0.5, **options)]
        rows += [
            row("reverse:native", D=D, median=8e-5, fraction_of_ceiling=0.5, **options),
            row("reverse:jax", D=D, median=1e-3, **options),
        ]
    return rows


@pytest.fixture(scope="session")
def large_report(tmp_path_factory):
    """A report of 5013 rows, hostile text among them."""
    out = tmp_path_factory.mktemp("report")
    methods = ("forward:native", "reverse:native", "reverse:jax", "forward:jax")
    sizes = product(range(1, 26), range(1, 26), (1, 4), methods)
    rows = [row(m, D=D, P=P, N=N, sweep="aspect", median=1e-6 * D) for D, P, N, m in sizes]
    rows += [r.model_copy(update={"flags": HOSTILE}) for r in growing(sweep="aspect", K=7)]
    rows.append(row("reverse:notebook", sweep="aspect", status="crashed", reason=HOSTILE))
    return report.write([write_result(rows, out / "aspect.csv")], out / "report.html")

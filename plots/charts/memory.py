"""Peak memory beyond the Jacobian itself, against a size, with the least that `max_bytes` can keep to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.analysis.tables import byte_count
from benchmarks.records.problems import is_baseline, is_ours, problem_of
from benchmarks.records.rows import Row
from jacobians.kernels.native import program, runner
from plots.chart import Exhibit, Results, figure
from plots.charts.lines import LineChart
from plots.families import VARIABLES, Point, by_size, families, limit_of, make_trace, subtitle_of

PAGE = 4096.0  # bytes; less is not seen
SHOWN = {"native": "in C", "eager": "in torch"}
UNSEEN = ("jax",)  # implementations that take J and all else from a pool of their own


@figure(50)
def memory(results: Results) -> Iterator[Exhibit]:
    """Make a chart against P and one against N, where these vary."""
    for name, variable in (("outputs", "P"), ("batch", "N")):
        rows = [row for row in results.rows(name) if row.peak_bytes is not None]
        for family in families(rows, variable):
            yield Exhibit("Memory", chart_of(family, variable, results.stem(f"memory-{variable}")), (name,))


def beyond_output(row: Row) -> float:
    """Return the peak memory of a call beyond the J that it returned, with what a kernel keeps between calls."""
    problem = problem_of(row)
    native = row.implementation == "native" and runner.available()
    kept = program.working_bytes(row.mode, problem, threads=row.threads) if native else 0  # where it was measured, not here
    return max(PAGE, kept + (row.peak_bytes or 0) - problem.itemsize * problem.N * problem.P * problem.D)


def chart_of(family: Sequence[Row], variable: str, stem: str) -> LineChart:
    """Make the chart: forward and reverse mode of ours in C and in torch, and the leanest library."""
    points: dict[tuple[str, str], list[Point]] = {}
    least: dict[int, float] = {}
    for row in family:
        x, y = getattr(row, variable), beyond_output(row)
        if is_ours(row) and row.mode != "mixed" and row.implementation in SHOWN:
            points.setdefault((row.method, f"{row.mode}, hand-written {SHOWN[row.implementation]}"), []).append((x, y, y, y))
        if runner.available():
            least[x] = min(program.working_bytes(mode, problem_of(row), lean=True) for mode in ("forward", "reverse"))
    for x, libraries in by_size(filter(_is_seen_library, family), variable).items():
        y = min(map(beyond_output, libraries))
        points.setdefault(("library:best", "leanest library"), []).append((x, y, y, y))
    return LineChart(
        stem=stem,
        title=_finding(family, variable),
        topic=f"Peak memory beyond J against {VARIABLES[variable]}",
        subtitle=subtitle_of(family, variable),
        caption="Resident memory of a call beyond J, with what kernels keep for the next call. "
        "JAX, whose memory comes from a pool of its own, is left out.",
        x_label=VARIABLES[variable],
        traces=tuple(make_trace(method, label, points[method, label]) for method, label in sorted(points)),
        y_label="peak memory beyond J (one page at least)",
        unit="B",
        limit=limit_of("less than max_bytes= can keep to", least),
    )


def _is_seen_library(row: Row) -> bool:
    return is_baseline(row) and row.implementation not in UNSEEN


def _finding(family: Sequence[Row], variable: str) -> str:
    largest, there = list(by_size(family, variable).items())[-1]
    ours = min((beyond_output(row) for row in there if is_ours(row)), default=None)
    theirs = min((beyond_output(row) for row in there if _is_seen_library(row)), default=None)
    if ours is None or theirs is None:
        return ""
    return f"At {variable} = {largest} the leanest hand-written method takes {byte_count(ours)}, the leanest library {byte_count(theirs)}"

"""Peak memory beyond the Jacobian itself, against a size, with the least that `chunk` can keep to."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.analysis.regret import problem_of_row
from benchmarks.analysis.tables import byte_count
from benchmarks.records.rows import Row, ok_rows
from jacobians.modes.chunked import working_bytes
from plots.data import LineChart
from plots.traces import VARIABLES, families, is_hand_written, make_trace, subtitle_of

PAGE = 4096.0  # bytes; less is not seen


def memory_charts(rows: Sequence[Row], stem: str) -> list[LineChart]:
    """Chart the peak memory of each method against P and N.

    Args:
        rows: Rows of one sweep and device.
        stem: Start of the file names.

    Returns:
        One chart per size that alone varies.
    """
    valid = [row for row in ok_rows(rows) if row.peak_bytes is not None and row.implementation != "dense"]
    found: list[LineChart] = []
    for variable in ("P", "N"):
        for family in families(valid, variable):
            found.append(_chart(family, variable, f"{stem}-{variable}"))
    return found


def beyond_output(row: Row) -> float:
    """Return the peak memory of a call beyond the J that it returned.

    Args:
        row: A row with `peak_bytes`.

    Returns:
        Bytes, one page at least.
    """
    problem = problem_of_row(row)
    return max(PAGE, (row.peak_bytes or 0) - problem.itemsize * problem.N * problem.P * problem.D)


def _chart(family: list[Row], variable: str, stem: str) -> LineChart:
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    least: dict[int, float] = {}
    for row in family:
        x, y = getattr(row, variable), beyond_output(row)
        points.setdefault(row.method, []).append((x, y, y, y))
        problem = problem_of_row(row)
        least[x] = min(working_bytes(problem, mode, 1, 1) for mode in ("forward", "reverse"))
    order = sorted(points, key=lambda method: (not is_hand_written(method), method))
    bound = make_trace("chunk", [(x, y, y, y) for x, y in least.items()], label="least that chunk= can keep to")
    return LineChart(
        stem=stem,
        title=f"Peak memory beyond J against {VARIABLES[variable]}",
        subtitle=subtitle_of(family, variable),
        x_label=VARIABLES[variable],
        traces=tuple(make_trace(method, points[method]) for method in order),
        crossovers=(),
        caption=_caption(family, variable),
        y_label="peak memory of a call beyond J (one page at least)",
        unit="B",
        ceilings=(bound,),
    )


def _caption(family: list[Row], variable: str) -> str:
    largest = max(getattr(row, variable) for row in family)
    there = [row for row in family if getattr(row, variable) == largest]
    ours = min((row for row in there if is_hand_written(row.method)), key=beyond_output, default=None)
    peer = min((row for row in there if not is_hand_written(row.method)), key=beyond_output, default=None)
    if ours is None or peer is None:
        return ""
    sizes = [f"{row.method} {byte_count(beyond_output(row))}" for row in (ours, peer)]
    return f"At {variable} = {largest} the leanest of ours, {sizes[0]}, stands beside the leanest peer, {sizes[1]}."

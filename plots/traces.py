"""From rows to the data of a figure. No drawing here; every caption is computed from the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import product

from benchmarks.analysis.regret import row_title
from benchmarks.records.rows import Row, ok_rows
from plots.data import Chart, DotChart, LineChart, RatioMap, Trace

Key = tuple[object, ...]
VARIABLES = {"L": "hidden layers L", "D": "input width D", "K": "hidden width K", "P": "output width P", "N": "samples N"}


def charts(rows: Sequence[Row], stem: str) -> list[Chart]:
    """Make the data of every figure that rows give rise to.

    Problems that differ in one variable alone make a line chart, a D × P grid makes a map, the rest a dot chart. Where
    several devices were measured they also meet in one chart.

    Args:
        rows: Rows of one sweep.
        stem: Start of the figures' file names.

    Returns:
        The charts; none where no row is `ok`.
    """
    valid = ok_rows(rows)
    found: list[Chart] = []
    devices = list(dict.fromkeys(row.device for row in valid))
    for device in devices:
        mine = [row for row in valid if row.device == device]
        suffix = f"{stem}-{device}" if len(devices) > 1 else stem
        found += _charts_of_device(mine, suffix)
    if len(devices) > 1:
        found += device_charts(valid, stem)
    return found


def best_by_mode(rows: Iterable[Row]) -> dict[str, Row]:
    """Return the fastest of our rows per mode.

    Args:
        rows: Valid rows of one problem on one device.

    Returns:
        Rows by mode.
    """
    best: dict[str, Row] = {}
    for row in rows:
        if is_hand_written(row.method) and (row.mode not in best or row.median < best[row.mode].median):
            best[row.mode] = row
    return best


def is_hand_written(method: str) -> bool:
    """Say whether a method is ours.

    Args:
        method: Full name.

    Returns:
        Whether it is; unknown names, of older results, are not.
    """
    from jacobians.registry import find_method

    try:
        return find_method(method).hand_written
    except ValueError:
        return False


def crossings(x: Sequence[float], ratio: Sequence[float]) -> tuple[float, ...]:
    """Find where a ratio crosses 1, by interpolation on log-log axes.

    Args:
        x: Increasing positive positions.
        ratio: Positive ratios there.

    Returns:
        The positions.

    Example:
        >>> crossings([1, 4], [0.5, 2.0])
        (2.0,)
    """
    found: list[float] = []
    for (x0, r0), (x1, r1) in zip(zip(x, ratio, strict=True), zip(x[1:], ratio[1:], strict=True), strict=False):
        a, b = math.log(r0), math.log(r1)
        if a == 0 or a * b < 0:
            found.append(math.exp(math.log(x0) + (math.log(x1) - math.log(x0)) * a / (a - b)) if a else float(x0))
    return tuple(round(position, 10) for position in found)


def _charts_of_device(rows: list[Row], stem: str) -> list[Chart]:
    found: list[Chart] = []
    used: set[str] = set()
    lines = [(variable, family) for variable in VARIABLES for family in families(rows, variable)]
    for grid in grids(rows):
        found.append(_ratio_map(grid, _numbered(f"{stem}", len(found))))
        used |= {row.problem_key for row in grid}
    for variable, family in lines:
        if not {row.problem_key for row in family} <= used:
            found.append(_line_chart(variable, family, _numbered(stem, len(found))))
            used |= {row.problem_key for row in family}
    rest = [row for row in rows if row.problem_key not in used]
    if rest:
        found.append(_dot_chart(rest, _numbered(stem, len(found))))
    return found


def _numbered(stem: str, index: int) -> str:
    return stem if index == 0 else f"{stem}-{index + 1}"


def _other_sizes(row: Row, *variables: str) -> Key:
    fixed = tuple(getattr(row, name) for name in VARIABLES if name not in variables)
    return (*fixed, row.activation, row.dtype, _settings(row))


def _settings(row: Row) -> str:
    """The words of the case key after its sizes: activation, bias, init, seed, dtype."""
    return row.problem_key.split(" ", 2)[-1]


def families(rows: list[Row], variable: str) -> list[list[Row]]:
    """Group the rows whose problems differ in one size alone, where it takes at least three values.

    Args:
        rows: Rows of one or more problems.
        variable: One of `VARIABLES`.

    Returns:
        The groups.
    """
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        if row.K is not None:  # irregular widths have no one size to vary
            groups.setdefault(_other_sizes(row, variable), []).append(row)
    return [group for group in groups.values() if len({getattr(row, variable) for row in group}) >= 3]


def grids(rows: list[Row]) -> list[list[Row]]:
    """Group the rows over D × P with at least three values of each.

    Args:
        rows: Valid rows of one device.

    Returns:
        The groups, each of problems that differ in D and P alone.
    """
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        if row.K is not None:
            groups.setdefault(_other_sizes(row, "D", "P"), []).append(row)
    return [g for g in groups.values() if len({(r.D, r.P) for r in g}) >= 9 and len({r.D for r in g}) >= 3 and len({r.P for r in g}) >= 3]


def _line_chart(variable: str, rows: list[Row], stem: str) -> LineChart:
    traces = traces_of(rows, lambda row: getattr(row, variable))
    x, ratio = _mode_ratio(rows, variable)
    crossovers = crossings(x, ratio)
    return LineChart(
        stem=stem,
        title=f"Jacobian time against {VARIABLES[variable]}",
        subtitle=subtitle_of(rows, variable),
        x_label=VARIABLES[variable],
        traces=traces,
        crossovers=crossovers,
        caption=_line_caption(variable, rows, x, ratio, crossovers),
    )


def _mode_ratio(rows: list[Row], variable: str) -> tuple[list[float], list[float]]:
    x: list[float] = []
    ratio: list[float] = []
    for value in sorted({getattr(row, variable) for row in rows}):
        best = best_by_mode(row for row in rows if getattr(row, variable) == value)
        if "forward" in best and "reverse" in best and value > 0:
            x.append(value)
            ratio.append(best["forward"].median / best["reverse"].median)
    return x, ratio


def _line_caption(variable: str, rows: list[Row], x: list[float], ratio: list[float], crossovers: tuple[float, ...]) -> str:
    if not x:
        return "Hand-written forward and reverse mode were not both measured here."
    if crossovers:
        where = " and ".join(f"{variable} ≈ {position:.3g}" for position in crossovers)
        text = f"Hand-written forward and reverse mode take equal time at {where}."
    else:
        text = f"Hand-written {'forward' if ratio[0] < 1 else 'reverse'} mode is the faster of the two at every {variable} measured."
    return " ".join(part for part in (text, _mixed_caption(variable, rows), _peer_caption(rows)) if part)


def _mixed_caption(variable: str, rows: list[Row]) -> str:
    """Say where mixed mode gains most over the better of the two modes, where it was measured."""
    gains: dict[int, float] = {}
    for value in sorted({getattr(row, variable) for row in rows}):
        best = best_by_mode(row for row in rows if getattr(row, variable) == value)
        if best.keys() >= {"forward", "reverse", "mixed"}:
            gains[value] = min(best["forward"].median, best["reverse"].median) / best["mixed"].median
    if not gains:
        return ""
    where, most = max(gains.items(), key=lambda item: item[1])
    return f"Mixed mode is {most:.2f} times as fast as the better of them at {variable} = {where}, its best."


def _peer_caption(rows: Sequence[Row]) -> str:
    """Say how the best of ours stands to the best peer, over the problems of a chart."""
    ratios: list[float] = []
    for key in dict.fromkeys(row.problem_key for row in rows):
        here = [row for row in rows if row.problem_key == key]
        ours = [row.median for row in here if is_hand_written(row.method)]
        peers = [row.median for row in here if not is_hand_written(row.method)]
        if ours and peers:
            ratios.append(min(peers) / min(ours))
    if not ratios:
        return ""
    ratios.sort()
    wins = sum(ratio > 1 for ratio in ratios)
    span = f"{ratios[0]:.2f}" if len(ratios) == 1 else f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    return f"The best hand-written method beats the best peer on {wins} of {len(ratios)} problems; it is {span} times as fast."


def _dot_chart(rows: list[Row], stem: str) -> DotChart:
    keys = list(dict.fromkeys(row.problem_key for row in rows))
    labels = {row.problem_key: row_title(row) for row in rows}
    return DotChart(
        stem=stem,
        title="Jacobian time by method",
        subtitle=hardware(rows),
        problems=tuple(labels[key] for key in keys),
        traces=traces_of(rows, lambda row: keys.index(row.problem_key)),
        caption=_peer_caption(rows),
    )


def _ratio_map(rows: list[Row], stem: str) -> RatioMap:
    D, P = sorted({row.D for row in rows}), sorted({row.P for row in rows})
    cells: dict[tuple[int, int], float] = {}
    for d, p in product(D, P):
        best = best_by_mode(row for row in rows if (row.D, row.P) == (d, p))
        if "forward" in best and "reverse" in best:
            cells[d, p] = best["forward"].median / best["reverse"].median
    along_d = [(position, float(p)) for p in P for position in crossings(*_line([(d, cells[d, p]) for d in D if (d, p) in cells]))]
    along_p = [(float(d), position) for d in D for position in crossings(*_line([(p, cells[d, p]) for p in P if (d, p) in cells]))]
    forward_wins = sum(ratio < 1 for ratio in cells.values())
    wins = f"Forward mode is faster in {forward_wins} of {len(cells)} cells (red), reverse mode in the others (blue)."
    off = [d / p for d, p in {*along_d, *along_p}]
    where = f" Diamonds: equal time, at D/P from {min(off):.2g} to {max(off):.2g}." if off else ""
    return RatioMap(
        stem=stem,
        title="Which mode is faster: forward time / reverse time, hand-written",
        subtitle=subtitle_of(rows, "D", "P"),
        D=tuple(D),
        P=tuple(P),
        ratio=tuple(tuple(cells.get((d, p), math.nan) for d in D) for p in P),
        crossover=tuple(sorted({*along_d, *along_p})),
        caption=f"{wins}{where} {_peer_caption(rows)}".strip(),
    )


def _line(points: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    return [float(x) for x, _ in points], [r for _, r in points]


def device_charts(rows: list[Row], stem: str) -> list[Chart]:
    """Chart the devices beside each other, one chart per size that alone varies.

    Args:
        rows: Valid rows of several devices.
        stem: Start of the file names.

    Returns:
        The charts.
    """
    found: list[Chart] = []
    for variable in VARIABLES:
        for family in families(rows, variable):
            traces: list[Trace] = []
            for device in dict.fromkeys(row.device for row in family):
                mine = [row for row in family if row.device == device and is_hand_written(row.method)]
                traces += [_with_note(trace, device) for trace in traces_of(mine, lambda row: getattr(row, variable))]  # noqa: B023
            found.append(
                LineChart(
                    stem=_numbered(f"{stem}-devices", len(found)),
                    title=f"Devices: Jacobian time against {VARIABLES[variable]}",
                    subtitle=subtitle_of(family, variable),
                    x_label=VARIABLES[variable],
                    traces=tuple(traces),
                    crossovers=(),
                    caption=_device_caption(family, variable),
                )
            )
    return found


def _device_caption(rows: list[Row], variable: str) -> str:
    devices = list(dict.fromkeys(row.device for row in rows))
    base, other = devices[0], devices[1]
    wins: list[int] = []
    for value in sorted({getattr(row, variable) for row in rows}):
        here = [row for row in rows if getattr(row, variable) == value and is_hand_written(row.method)]
        times = {device: min((row.median for row in here if row.device == device), default=math.inf) for device in (base, other)}
        if times[other] < times[base]:
            wins.append(value)
    if not wins:
        return f"{other} is never faster than {base} here."
    launch = [row.median_s - row.device_median_s for row in rows if row.device == other and row.median_s and row.device_median_s]
    cost = f" Launching takes {sorted(launch)[len(launch) // 2] * 1e6:.0f} µs of a call there, in the median." if launch else ""
    return f"{other} is faster than {base} from {variable} = {wins[0]} on.{cost}"


def traces_of(rows: Iterable[Row], position: Callable[[Row], float]) -> tuple[Trace, ...]:
    """Make one trace per method, ours first.

    Args:
        rows: Valid rows.
        position: Where a row stands on the x axis.

    Returns:
        The traces.
    """
    points: dict[str, list[tuple[float, float, float, float]]] = {}
    for row in rows:
        median = row.median
        points.setdefault(row.method, []).append((position(row), median, row.ci_low_s or median, row.ci_high_s or median))
    order = sorted(points, key=lambda method: (not is_hand_written(method), method))
    return tuple(make_trace(method, points[method]) for method in order)


def make_trace(method: str, points: list[tuple[float, float, float, float]], note: str = "", label: str = "") -> Trace:
    """Make a trace of points in any order.

    Args:
        method: Full name.
        points: Position, median and both ends of its interval.
        note: What to add to the method's name.
        label: What to write instead of it.

    Returns:
        The trace, by position.
    """
    x, y, low, high = zip(*sorted(points), strict=True)
    return Trace(method, x, y, low, high, note, label)


def _with_note(trace: Trace, note: str) -> Trace:
    return Trace(trace.method, trace.x, trace.y, trace.low, trace.high, note)


def subtitle_of(rows: Sequence[Row], *varying: str) -> str:
    """Write the sizes, settings and hardware that the rows of a chart share.

    Args:
        rows: Its rows.
        *varying: The sizes that they do not share.

    Returns:
        Two lines.
    """
    first = rows[0]
    sizes = ", ".join(f"{name} = {getattr(first, name)}" for name in VARIABLES if name not in varying)
    return f"{sizes}, {_settings_words(first)}\n{hardware(rows)}"


def _settings_words(row: Row) -> str:
    _, bias, init, _, dtype = _settings(row).split("/")[0].rsplit(" ", 4)
    return f"{row.activation}, {init} weights, {'biases' if bias == 'bias' else 'no biases'}, {dtype}"


def hardware(rows: Sequence[Row]) -> str:
    """Name the devices of rows.

    Args:
        rows: Any rows.

    Returns:
        Model, torch device and threads of each.
    """
    devices = dict.fromkeys(f"{row.device_name} ({row.device}, {row.threads} threads)" for row in rows)
    return "; ".join(devices)

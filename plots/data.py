"""The data of a figure: what is drawn, before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trace:
    """One line of a chart: positions, medians in seconds, and the interval of each median (its own value where none)."""

    method: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    note: str = ""
    label: str = ""  # instead of the method's name


@dataclass(frozen=True, slots=True)
class LineChart:
    """Time, or bytes, against one variable, one trace per method; `crossovers` are positions where forward and reverse are equal.

    A ceiling is drawn as a bare grey line: what a mode could take at best.
    """

    stem: str
    title: str
    subtitle: str
    x_label: str
    traces: tuple[Trace, ...]
    crossovers: tuple[float, ...]
    caption: str
    y_label: str = "time per call (median, 95 % interval)"
    unit: str = "s"  # or "B"
    ceilings: tuple[Trace, ...] = ()


@dataclass(frozen=True, slots=True)
class DotChart:
    """Time of every method on each of a few problems."""

    stem: str
    title: str
    subtitle: str
    problems: tuple[str, ...]
    traces: tuple[Trace, ...]  # x is the index of the problem
    caption: str


@dataclass(frozen=True, slots=True)
class RatioMap:
    """Forward time / reverse time over D × P; NaN where either was not measured."""

    stem: str
    title: str
    subtitle: str
    D: tuple[int, ...]
    P: tuple[int, ...]
    ratio: tuple[tuple[float, ...], ...]  # [index of P][index of D]
    crossover: tuple[tuple[float, float], ...]  # (D, P) where the ratio is 1, along each row and column
    caption: str


@dataclass(frozen=True, slots=True)
class WinnerMap:
    """The fastest method over D × P, and where forward and reverse mode are equal: as predicted, and as measured."""

    stem: str
    title: str
    subtitle: str
    D: tuple[int, ...]
    P: tuple[int, ...]
    winner: tuple[tuple[str, ...], ...]  # [index of P][index of D]; empty where nothing was measured
    seconds: tuple[tuple[float, ...], ...]
    predicted: tuple[tuple[float, float], ...]  # (D, P), a line
    measured: tuple[tuple[float, float], ...]
    caption: str


@dataclass(frozen=True, slots=True)
class SpeedupChart:
    """How many times faster ours is than each peer, one row per problem, with intervals."""

    stem: str
    title: str
    subtitle: str
    problems: tuple[str, ...]  # from the top
    series: tuple[Trace, ...]  # one per peer: x is the ratio's row, y the ratio
    caption: str


@dataclass(frozen=True, slots=True)
class Roofline:
    """Operations per second against arithmetic intensity, under the machine's ceilings."""

    stem: str
    title: str
    subtitle: str
    flops: float  # of products
    bandwidths: tuple[tuple[str, float], ...]  # name, bytes per second
    points: tuple[Trace, ...]  # x operations per byte, y operations per second; one trace per mode and owner
    caption: str


@dataclass(frozen=True, slots=True)
class ScatterChart:
    """Points on logarithmic axes; 1 is marked."""

    stem: str
    title: str
    subtitle: str
    x_label: str
    y_label: str
    points: tuple[Trace, ...]
    caption: str


@dataclass(frozen=True, slots=True)
class StepChart:
    """The share of problems up to a value, one step line per series; the first is ours."""

    stem: str
    title: str
    subtitle: str
    x_label: str
    y_label: str
    series: tuple[tuple[str, tuple[float, ...]], ...]  # name, values in ascending order
    caption: str


@dataclass(frozen=True, slots=True)
class PanelChart:
    """Line charts beside each other that share their x axis and the names of their lines."""

    stem: str
    title: str
    subtitle: str
    x_label: str
    panels: tuple[tuple[str, tuple[Trace, ...]], ...]  # label of the y axis, lines
    caption: str


Chart = LineChart | DotChart | RatioMap | WinnerMap | SpeedupChart | Roofline | ScatterChart | StepChart | PanelChart

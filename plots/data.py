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


@dataclass(frozen=True, slots=True)
class LineChart:
    """Time against one variable, one trace per method; `crossovers` are positions where forward and reverse are equal."""

    stem: str
    title: str
    subtitle: str
    x_label: str
    traces: tuple[Trace, ...]
    crossovers: tuple[float, ...]
    caption: str


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


Chart = LineChart | DotChart | RatioMap

"""Base of the data of every figure, and the register of figures. A new figure is a new file in `plots/charts/`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.records.rows import Row, ok_rows
from benchmarks.workloads.cases import Sweep
from jacobians.planning.machine import Ceilings
from jacobians.planning.registry import JACOBIAN
from studies import Tables as StudyTables
from studies import find_study, read


@dataclass(frozen=True, kw_only=True)
class Chart:
    """The data of a figure, before anything is drawn."""

    stem: str  # name of its file
    title: str  # the finding, computed from the rows
    topic: str
    subtitle: str = ""  # sizes and hardware
    caption: str  # more of what the rows say


MOST_WORDS = 30  # of a caption


def brief(*parts: str) -> str:
    """Join the sentences of a caption, in the order of their worth, as many as fit.

    Example:
        >>> brief("Reverse mode wins. It does so " + "again and " * 20 + "again.", "", "By 2 times.")
        'Reverse mode wins. By 2 times.'
    """
    told: list[str] = []
    for sentence in re.split(r"(?<=\.) (?=[A-Z])", " ".join(filter(None, parts))):
        if sentence and len(" ".join((*told, sentence)).split()) <= MOST_WORDS:
            told.append(sentence)
    return " ".join(told)


def numbered(stem: str, index: int) -> str:
    """Name the n-th file of a stem."""
    return stem if index == 0 else f"{stem}-{index + 1}"


@dataclass(frozen=True, slots=True)
class Trace:
    """Points of one look: positions, values, and the interval of each value (its own where none)."""

    method: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A result and where it comes from."""

    path: Path
    rows: Sequence[Row]
    rates: dict[str, Ceilings]
    sweep: Sweep | None = None

    @property
    def name(self) -> str:
        """Name of its sweep."""
        return self.path.stem


@dataclass(frozen=True)
class Results:
    """The results of one machine, as a figure sees them: on one device, or on all of them."""

    files: Sequence[ResultFile]
    device: str | None = None  # the device whose rows are shown; `None` for all
    several: bool = False  # whether the machine has results of several devices, which the names of figures then tell apart
    directory: Path | None = None  # of the machine, where its studies are

    def rows(self, *names: str, quantity: str | None = JACOBIAN) -> list[Row]:
        """Return the valid rows of some sweeps, or of all."""
        chosen = [file for file in self.files if not names or file.name in names]
        rows = [row for file in chosen for row in ok_rows(file.rows) if self.device in {None, row.device}]
        return [row for row in rows if quantity in {None, row.quantity}]

    @property
    def rates(self) -> dict[str, Ceilings]:
        """Device to ceilings."""
        return {device: ceilings for file in self.files for device, ceilings in file.rates.items()}

    def stem(self, name: str) -> str:
        """Name a file, with the device where there are several."""
        return f"{name}-{self.device}" if self.several and self.device else name


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A figure of the report."""

    section: str  # heading it stands under
    chart: Chart
    sources: tuple[str, ...] = ()  # the sweeps whose rows it shows
    study: str = ""  # the study whose tables it shows


Maker = Callable[[Results], Iterator[Exhibit]]
StudyMaker = Callable[[StudyTables], Chart]

_MAKERS: list[tuple[int, Maker, bool]] = []
_OF_STUDIES: dict[str, list[StudyMaker]] = {}


def figure(order: int, *, each_device: bool = True) -> Callable[[Maker], Maker]:
    """Register a function that makes figures from the results of a machine."""

    def decorate(make: Maker) -> Maker:
        _MAKERS.append((order, make, each_device))
        return make

    return decorate


def study_figure(order: int, name: str) -> Callable[[StudyMaker], StudyMaker]:
    """Register a function that makes a figure of a study from its tables."""

    def decorate(make: StudyMaker) -> StudyMaker:
        _OF_STUDIES.setdefault(name, []).append(make)

        def of_results(results: Results) -> Iterator[Exhibit]:
            tables = read(find_study(name), results.directory / "studies") if results.directory else None
            if tables:
                yield Exhibit("Studies", make(tables), study=name)

        figure(order, each_device=False)(of_results)
        return make

    return decorate


def study_charts(name: str, tables: StudyTables) -> list[Chart]:
    return [make(tables) for make in _OF_STUDIES[name]]


def exhibits(files: Sequence[ResultFile], directory: Path | None = None) -> list[Exhibit]:
    """Make every figure that the results of one machine give rise to."""
    devices = list(dict.fromkeys(row.device for file in files for row in ok_rows(file.rows)))
    several = len(devices) > 1
    directory = directory or (files[0].path.parent if files else None)
    found: list[Exhibit] = []
    for _, make, each in sorted(_MAKERS, key=lambda item: item[0]):
        for device in devices if each else [None]:
            found += make(Results(files, device, several, directory))
    return found


@singledispatch
def draw(chart: Chart) -> Figure:
    raise TypeError(f"no drawing for {type(chart).__name__}")

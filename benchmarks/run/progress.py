"""Progress on standard error, live on a terminal and lines in a pipe; plain text tables."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from time import monotonic
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from benchmarks.run.supervisor import Progress as Step

SILENCE_S = 4.0  # after which something is said, where lines cannot be rewritten


class _Shown:
    """A bar where lines can be rewritten, and else what `_say` prints."""

    def __init__(self, name: str, *columns: ProgressColumn, total: float | None = None) -> None:
        self.name, self._said_at = name, 0.0
        self._live: Progress | None = None
        if sys.stderr.isatty():
            self._live = Progress(TextColumn(name), BarColumn(), *columns, console=Console(stderr=True), transient=True)
            self._task = self._live.add_task("", total=total, doing="starting")

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        else:
            self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def _begin(self) -> None:
        """Say that it begins, where there is no bar."""

    def _say(self, what: str) -> None:
        self._said_at = monotonic()
        print(f"{self.name} {what}", file=sys.stderr, flush=True)

    def _silent(self) -> bool:
        return monotonic() - self._said_at > SILENCE_S


class SweepProgress(_Shown):
    """Progress of one sweep: case, method, time left."""

    def __init__(self, name: str) -> None:
        super().__init__(name, MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[doing]}", markup=False))
        self._doing = "still starting"
        self._ended = threading.Event()

    def _begin(self) -> None:
        self._say("looking at this machine and starting the workers")
        threading.Thread(target=self._break_silence, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        super().__exit__()

    def update(self, step: Step) -> None:
        if self._live:
            self._live.update(self._task, total=step.total, completed=step.done, doing=step.case.id)
        elif step.status is not None:
            self._say(f"{step.done}/{step.total} {step.case.id} {step.status}")
        else:
            self._doing = f"{step.done}/{step.total} measuring {step.case.id}"

    def _break_silence(self) -> None:
        while not self._ended.wait(1.0):
            if self._silent():
                self._say(self._doing)


class StudyProgress(_Shown):
    """Progress of one study: the share done and the time left."""

    def __init__(self, name: str) -> None:
        super().__init__(name, TimeRemainingColumn(), total=1.0)
        self._start = monotonic()

    def _begin(self) -> None:
        self._say("started")

    def update(self, share: float) -> None:
        if self._live:
            self._live.update(self._task, completed=share)
        elif self._silent() and share > 0.01:  # before, the time left is a guess
            left = (monotonic() - self._start) * (1 - share) / share
            self._say(f"{100 * share:.0f} % done, about {left:.0f} s left")


class CheckProgress(_Shown):
    """Progress of a check: what is checked now, and how many steps are done."""

    def __init__(self) -> None:
        super().__init__("check", MofNCompleteColumn(), TextColumn("{task.fields[doing]}", markup=False))

    def update(self, done: int, total: int, what: str) -> None:
        if self._live:
            self._live.update(self._task, total=total, completed=done, doing=what)
        elif done == 0 or self._silent():
            self._say(f"{done}/{total} {what}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: fitted to a terminal; in a pipe one line per row, columns two spaces apart, nothing cut."""
    console = Console()
    if console.is_terminal:
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        return
    widths = [max(len(line[i]) for line in (columns, *rows)) for i in range(len(columns))]
    for line in (columns, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

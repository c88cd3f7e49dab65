"""Progress lines, live on a terminal and plain in a pipe; plain text tables."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from time import monotonic
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from benchmarks.run.supervisor import Progress as Step

SILENCE_S = 4.0  # after which something is said, where lines cannot be rewritten


class SweepProgress:
    """Progress of one sweep on standard error: case, method, time left.

    Args:
        name: Name of the sweep.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._live: Progress | None = None
        self._said_at = 0.0
        self._doing = "still starting"
        self._ended = threading.Event()
        if sys.stderr.isatty():
            columns = [TextColumn("{task.fields[sweep]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
            self._live = Progress(*columns, TextColumn("{task.fields[case]}", markup=False), console=Console(stderr=True), transient=True)
            self._task = self._live.add_task("", total=None, sweep=name, case="starting")

    def __enter__(self) -> SweepProgress:
        """Start drawing."""
        if self._live:
            self._live.start()
        else:
            self._say("looking at this machine and starting the workers")
            self._beat = threading.Thread(target=self._break_silence, daemon=True)
            self._beat.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop drawing."""
        self._ended.set()
        if self._live:
            self._live.stop()

    def update(self, step: Step) -> None:
        """Show a step."""
        if self._live:
            self._live.update(self._task, total=step.total, completed=step.done, case=step.case.id)
        elif step.status is not None:
            self._say(f"{step.done}/{step.total} {step.case.id} {step.status}")
        else:
            self._doing = f"{step.done}/{step.total} measuring {step.case.id}"

    def _break_silence(self) -> None:
        while not self._ended.wait(1.0):
            if monotonic() - self._said_at > SILENCE_S:
                self._say(self._doing)

    def _say(self, what: str) -> None:
        self._said_at = monotonic()
        print(f"{self.name} {what}", file=sys.stderr, flush=True)


class StudyProgress:
    """Progress of one study on standard error: the share done and the time left.

    Args:
        name: Name of the study.
    """

    def __init__(self, name: str) -> None:
        self.name, self._start, self._said_at = name, monotonic(), 0.0
        self._live: Progress | None = None
        if sys.stderr.isatty():
            self._live = Progress(TextColumn(name), BarColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._task = self._live.add_task("", total=1.0)

    def __enter__(self) -> StudyProgress:
        """Start drawing."""
        if self._live:
            self._live.start()
        else:
            self._say("started")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop drawing."""
        if self._live:
            self._live.stop()

    def update(self, share: float) -> None:
        """Show how much is done."""
        if self._live:
            self._live.update(self._task, completed=share)
        elif monotonic() - self._said_at > SILENCE_S and share > 0.01:  # before, the time left is a guess
            left = (monotonic() - self._start) * (1 - share) / share
            self._say(f"{100 * share:.0f} % done, about {left:.0f} s left")

    def _say(self, what: str) -> None:
        self._said_at = monotonic()
        print(f"{self.name} {what}", file=sys.stderr, flush=True)


class CheckProgress:
    """Progress of a check on standard error: what is checked now, and how many steps are done.

    On a terminal a bar; in a pipe a line now and then.
    """

    def __init__(self) -> None:
        self._said_at = monotonic()
        self._live: Progress | None = None
        if sys.stderr.isatty():
            columns = [TextColumn("check"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[what]}", markup=False)]
            self._live = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._live.add_task("", total=None, what="starting")

    def __enter__(self) -> CheckProgress:
        """Start drawing."""
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop drawing."""
        if self._live:
            self._live.stop()

    def update(self, done: int, total: int, what: str) -> None:
        """Show what is checked now."""
        if self._live:
            self._live.update(self._task, total=total, completed=done, what=what)
        elif done == 0 or monotonic() - self._said_at > SILENCE_S:
            self._said_at = monotonic()
            print(f"check {done}/{total} {what}", file=sys.stderr, flush=True)


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

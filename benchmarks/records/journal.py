"""The journal of a run: an append-only file of JSON lines with checksums that survives a kill, and the lock of an output directory."""

from __future__ import annotations

import fcntl
import json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from benchmarks.errors import BadInput
from benchmarks.records.rows import SCHEMA, Row

Blocks = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal: a row and its raw samples, seconds per call, block by block."""

    row: Row
    samples: Blocks = ()


class Journal:
    """An append-only file of JSON lines. A line counts once it is complete and on disk; a torn last one, left by a kill, is cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _cut_torn_line(path)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def append(self, row: Row, samples: Sequence[Sequence[float]] = ()) -> None:
        """Write an entry and wait until it is on disk."""
        record = {"row": row.model_dump(by_alias=True), "samples": [[float(f"{s:.6g}") for s in block] for block in samples]}
        size = self.path.stat().st_size
        try:
            self._file.write(line_of(record))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            os.truncate(self.path, size)  # no half line stays behind
            raise

    def close(self) -> None:
        self._file.close()


def line_of(record: dict[str, Any]) -> str:
    """Write a line: a checksum, and the record as JSON."""
    text = json.dumps(record, ensure_ascii=False)
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def record_of(line: bytes) -> dict[str, Any] | None:
    """Read a line; `None` where it is not as it was written: cut off by a kill, damaged since, or never an entry."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        record = json.loads(text)
        blocks = record["samples"]
        return record if isinstance(record["row"], dict) and all(isinstance(s, float) for block in blocks for s in block) else None
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def read_journal(path: Path) -> tuple[dict[str, Entry], int]:
    """Read the finished entries of a journal, the last one of each case, and count the lines that are not whole or hold no row."""
    if not path.exists():
        return {}, 0
    entries: dict[str, Entry] = {}
    lines = path.read_bytes().split(b"\n")
    damaged = int(lines.pop() != b"")
    for number, line in enumerate(lines, start=1):
        record = record_of(line)
        try:
            row = Row.model_validate(record and record["row"])
        except ValidationError:
            if record and isinstance(version := record["row"].get("schema"), int) and version > SCHEMA:
                raise BadInput(f"{path}, line {number}: schema {version} is newer than {SCHEMA}, which this version reads") from None
            damaged += 1
            continue
        assert record
        entries[row.case] = Entry(row, tuple(tuple(block) for block in record["samples"]))
    return entries, damaged


class Lock:
    """An exclusive lock on an output directory's sweep, released by the system when its process dies; several looks wait for that."""

    def __init__(self, path: Path, looks: int = 0, wait: Callable[[float], object] = time.sleep) -> None:
        self._file = path.open("w")
        for left in range(looks, -1, -1):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if left:
                    wait(1.0)
        self._file.close()
        raise BadInput(f"{path.parent}: another run is writing {path.stem.lstrip('.')} here; wait for it, or give another --out")

    def release(self) -> None:
        """Let the next run in."""
        self._file.close()


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) != len(raw):
        with path.open("r+b") as file:
            file.truncate(len(whole))

"""Compile our C for the processor at hand, once, and keep the library in the user's cache directory."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent / "csrc"
# -fno-trapping-math and -fno-math-errno let the compiler use vector blends; NaN and infinity keep their meaning.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-fno-trapping-math")


class CompilerError(RuntimeError):
    """There is no C compiler, or it refused our source; the text says which."""


def cache_directory() -> Path:
    """Return where what was found out about this machine is kept.

    Returns:
        `$JACOBIANS_CACHE`, or `jacobians` in the user's cache directory.
    """
    given = os.environ.get("JACOBIANS_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jacobians"


def compiler() -> str | None:
    """Return the C compiler: `$CC`, else cc, gcc or clang, else `None`."""
    return next((found for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and (found := shutil.which(name))), None)


@functools.cache
def processor() -> str:
    """Describe the instruction set: what was compiled or measured on another processor must not be used."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


@functools.cache
def library() -> ctypes.CDLL:
    """Load the compiled library, compiling it where that has not happened for this source, compiler and processor.

    Returns:
        The library.

    Raises:
        CompilerError: No compiler is found, or it fails, or the library cannot be loaded.
    """
    command = compiler()
    if command is None:
        raise CompilerError("needs a C compiler and found none; install gcc or clang, or set CC")
    sources = sorted(SOURCES.glob("*.[ch]"))
    text = b"".join(path.read_bytes() for path in sources)
    key = hashlib.sha256(text + "\0".join([command, *FLAGS, platform.machine(), processor()]).encode()).hexdigest()[:16]
    try:
        directory = cache_directory()
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / f"native-{key}.so"
        if not target.exists():
            _compile(command, target)
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise CompilerError(
            f"the compiled library cannot be kept or loaded ({error}); set JACOBIANS_CACHE to a writable directory"
        ) from None


def _compile(command: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        built = Path(scratch) / "native.so"
        done = subprocess.run(
            [command, *FLAGS, "-o", str(built), str(SOURCES / "native.c"), "-lm"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines()
            raise CompilerError(f"{command} refused our C source: {lines[0] if lines else f'status {done.returncode}'}")
        built.replace(target)  # several processes may compile at once: each puts a whole file in place

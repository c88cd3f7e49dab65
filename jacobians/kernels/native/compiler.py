"""Compile our C for the processor at hand, once, and keep the library in the user's cache directory.

A library runs with all the rights of who loads it. So it is loaded only from a directory and a file that belong to this user and that
nobody else can write, and only where its content is what was written there; anything else is built again, in a private place if need be.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent / "csrc"
# -fno-trapping-math and -fno-math-errno let the compiler use vector blends; NaN and infinity keep their meaning.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-fno-trapping-math")
PATIENCE_S = 120.0  # a compiler that has not ended by then is given up; it takes twenty on an idle machine

_log = logging.getLogger("jacobians")


class CompilerError(RuntimeError):
    """There is no C compiler, or it refused our source; the text says which."""


def cache_directory() -> Path:
    """Return the cache directory: compiled kernels, and what was measured on this machine."""
    given = os.environ.get("JACOBIANS_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jacobians"


def compiler() -> str | None:
    """Return the C compiler: `$CC`, else cc, gcc or clang, else `None`."""
    return next((path for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and (path := shutil.which(name))), None)


@functools.cache
def processor() -> str:
    """Describe the instruction set: what was compiled or measured on another processor must not be used."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name", "model\t", "cpu family"))}))


@functools.cache
def library() -> ctypes.CDLL:
    """Load the compiled library, compiling it where that has not happened for this source, compiler and processor."""
    command = compiler()
    if command is None:
        raise CompilerError("needs a C compiler and found none; install gcc or clang, or set CC")
    text = b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.[ch]")))
    key = hashlib.sha256(text + "\0".join([command, *FLAGS, platform.machine(), processor()]).encode()).hexdigest()[:16]
    try:
        target = _private_directory() / f"native-{key}.so"
        if not _trusted(target):
            _compile(command, target)
        return _checked(ctypes.CDLL(str(target)))
    except OSError as error:
        raise CompilerError(f"the compiled library cannot be kept or loaded ({error})") from None


def _private_directory() -> Path:
    """Return the cache directory where it is this user's alone, else a temporary one that is."""
    try:
        directory = cache_directory()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=directory):
            pass
        if _is_ours(directory):
            return directory
        reason = "others can write to it"
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        reason = str(error)
    _log.warning("the cache directory cannot be used (%s): the kernels are compiled for this process alone; set JACOBIANS_CACHE", reason)
    directory = Path(tempfile.mkdtemp(prefix="jacobians-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _is_ours(path: Path) -> bool:
    """Say whether a file or directory belongs to this user and nobody else can write it."""
    facts = path.lstat()
    owner = not hasattr(os, "getuid") or facts.st_uid == os.getuid()
    return owner and not stat.S_ISLNK(facts.st_mode) and not facts.st_mode & 0o022


def _trusted(target: Path) -> bool:
    """Say whether a library is there, ours, and whole: loading half a file can end the process."""
    digest = target.with_suffix(".sha256")
    try:
        same = digest.read_text(encoding="ascii") == hashlib.sha256(target.read_bytes()).hexdigest()
        return same and _is_ours(target) and _is_ours(digest)
    except (OSError, UnicodeDecodeError):
        return False


def _compile(command: str, target: Path) -> None:
    _log.warning("compiling the kernels for this processor: once, about twenty seconds")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        built = Path(scratch) / "native.so"
        arguments = [command, *FLAGS, "-o", str(built), str(SOURCES / "native.c"), "-lm"]
        try:
            done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise CompilerError(f"{command} had not ended after {PATIENCE_S:g} s and was given up; set CC to another compiler") from None
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines()
            raise CompilerError(f"{command} refused our C source: {lines[0] if lines else f'status {done.returncode}'}")
        built.chmod(0o700)
        digest = Path(scratch) / "digest"
        digest.write_text(hashlib.sha256(built.read_bytes()).hexdigest(), encoding="ascii")
        digest.chmod(0o600)
        # Several processes may compile at once: each puts a whole file in place. Between the two renames the digest is of another
        # build, and whoever looks then compiles again.
        built.replace(target)
        digest.replace(target.with_suffix(".sha256"))


def _checked(loaded: ctypes.CDLL) -> ctypes.CDLL:
    """Compare the sizes of the structures that Python fills in with those that C reads."""
    from jacobians.kernels.native.gradient import Chain
    from jacobians.kernels.native.jet import Jet
    from jacobians.kernels.native.program import Program, Setting, Step
    from jacobians.kernels.native.tangent_kernel import Gram

    loaded.size_of.restype = loaded.activation_code.restype = loaded.loss_code.restype = ctypes.c_int64
    for name, kind in (("Step", Step), ("Program", Program), ("Activation", Setting), ("Chain", Chain), ("Gram", Gram), ("Jet", Jet)):
        in_c, in_python = loaded.size_of(name.encode()), ctypes.sizeof(kind)
        if in_c != in_python:
            raise CompilerError(f"struct {name} has {in_c} bytes in C and {in_python} in Python; they must be equal")
    return loaded

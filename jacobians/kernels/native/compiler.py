"""Compile our C for the processor at hand, once, and keep the library in the user's cache directory.

A library runs with all the rights of who loads it. So it is loaded only from a directory and a file that belong to this user and that
nobody else can write, and only where its content is what was written there; anything else is built again, in a private place if need be.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

SOURCES = Path(__file__).parent / "csrc"
# -fno-trapping-math and -fno-math-errno let the compiler use vector blends; NaN and infinity keep their meaning.
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-fno-trapping-math")
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}  # of what compilers say, in whatever language and encoding
PARTS = (32, 64)  # of native.c, compiled at the same time: what is for each type of numbers
PATIENCE_S = 120.0  # a compiler that has not ended by then is given up; it takes ten on an idle machine with two cores

TAKES = "about ten seconds"
PF_FORKNOEXEC = 0x40  # of the kernel's sched.h

_log = logging.getLogger("jacobians")
_lock = threading.RLock()
_loaded: ctypes.CDLL | None = None
_background: _Background | None = None
_temporary: set[Path] = set()  # cache directories of this process alone


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


def library() -> ctypes.CDLL:
    """Load the compiled library, compiling it where that has not happened for this source, compiler and processor."""
    return _loaded or _load()


def ready() -> bool:
    """Say whether `library` would answer at once; where it would compile, let another process do so meanwhile."""
    global _background
    if _loaded is not None:
        return True
    if not _lock.acquire(blocking=False):  # another thread is compiling or loading
        return False
    try:
        if _background is not None and _background.ours():
            return _background.ended()
        command = compiler()
        if command is None or not sys.executable or getattr(sys, "frozen", False):  # the executable is no interpreter
            return True
        target = _target(command)
        if _trusted(target):
            return True
        _log.warning("compiling the kernels for this processor in the background: once, %s; until then torch computes", TAKES)
        _background = _Background(command, target)
        return False
    except OSError:
        return True  # `library` says what is wrong
    finally:
        _lock.release()


def forget() -> None:
    """Forget the library and what failed, as a new process would."""
    global _loaded, _background
    _loaded = _background = None
    _private_directory.cache_clear()


def _load() -> ctypes.CDLL:
    global _loaded
    with _lock:
        if _loaded is not None:
            return _loaded
        command = compiler()
        if command is None:
            raise CompilerError("needs a C compiler and found none; install gcc or clang, or set CC")
        try:
            target = _target(command)
            if _background is not None and _background.ours() and _background.target == target:
                _background.wait()
            if not _trusted(target):
                _log.warning("compiling the kernels for this processor: once, %s", TAKES)
                with _alone(target):
                    if not _trusted(target):
                        _compile(command, target, FLAGS)
            _loaded = _on_threads_of_torch(_checked(ctypes.CDLL(str(target))))
        except OSError as error:
            raise CompilerError(f"the compiled library cannot be kept or loaded ({error})") from None
        return _loaded


def _on_threads_of_torch(kernels: ctypes.CDLL) -> ctypes.CDLL:
    """Let the kernels run on the OpenMP threads that torch has loaded, where these are GNU's."""
    torch = sys.modules.get("torch")
    libraries = Path(getattr(torch, "__file__", None) or "").parent.glob("lib/libgomp*.so*")
    for path in () if _forked() else libraries:  # whose threads may have stayed in the parent: the child would wait for ever
        with contextlib.suppress(OSError, AttributeError):  # not loaded, or another library of that name
            openmp = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD)
            names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
            kernels.use_team.argtypes, kernels.use_team.restype = [ctypes.c_void_p] * 3, None
            kernels.use_team(*(ctypes.cast(getattr(openmp, name), ctypes.c_void_p) for name in names))
    return kernels


def _forked() -> bool:
    """Say whether this process is the fork of another, and has started no program since; yes where that is not known."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return bool(int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[6]) & PF_FORKNOEXEC)
    return True


class _Background:
    """A process that compiles, and goes on where this one ends before it."""

    def __init__(self, command: str, target: Path) -> None:
        self.target, self._parent, self._refusal = target, os.getpid(), ""
        # This file as a script, which imports nothing heavy; in a session of its own, so that Ctrl-C does not reach it.
        arguments = [sys.executable, "-I", "-S", __file__, command, str(target), *FLAGS]
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, **TEXT
        )
        atexit.register(self._leave)

    def ours(self) -> bool:
        """Say whether this process started it, rather than one that was forked."""
        return os.getpid() == self._parent

    def ended(self) -> bool:
        """Say whether it has ended, and how where it failed."""
        if self._process.poll() is None:
            return False
        self._finish()
        return True

    def wait(self) -> None:
        """Wait until it has ended, and raise where the compiler refused."""
        if self._process.returncode is None:
            _log.warning("waiting for the kernels, which are being compiled")
        self._process.wait()
        self._finish()
        if self._refusal:
            raise CompilerError(self._refusal)

    def _finish(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.closed:
            return
        self._refusal = self._process.stdout.read().strip()
        self._process.stdout.close()
        if self._process.returncode and not self._refusal:
            self._refusal = f"the process that compiles ended with status {self._process.returncode}"
        if self._refusal:
            _log.warning("the kernels could not be compiled, so torch computes: %s", self._refusal)

    def _leave(self) -> None:
        """Leave it alone, or end it where its directory is about to go."""
        if not self.ours() or self._process.poll() is not None:
            return
        if self.target.parent in _temporary:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.returncode = 0  # nobody will ask, and Python need not warn that it still runs


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _target(command: str) -> Path:
    text = b"".join(path.read_bytes() for path in sorted(SOURCES.glob("*.[ch]")))
    key = hashlib.sha256(text + os.fsencode("\0".join([command, *FLAGS, platform.machine(), processor()]))).hexdigest()[:16]
    return _private_directory() / f"native-{key}.so"


@functools.cache
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
    _temporary.add(directory)
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


def _compile(command: str, target: Path, flags: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        built = Path(scratch) / "native.so"
        objects = [str(Path(scratch) / f"native{part}.o") for part in PARTS]
        source = str(SOURCES / "native.c")
        compilations = [[command, *flags, "-c", f"-DPART={part}", "-o", to, source] for part, to in zip(PARTS, objects, strict=True)]
        with ThreadPoolExecutor(len(PARTS)) as threads:
            list(threads.map(_run, compilations))
        _run([command, *flags, "-o", str(built), *objects, "-lm"])
        built.chmod(0o700)
        digest = Path(scratch) / "digest"
        digest.write_text(hashlib.sha256(built.read_bytes()).hexdigest(), encoding="ascii")
        digest.chmod(0o600)
        # Several processes may compile at once: each puts a whole file in place. Between the two renames the digest is of another
        # build, and the next process compiles again.
        built.replace(target)
        digest.replace(target.with_suffix(".sha256"))


def _run(arguments: list[str]) -> None:
    command = arguments[0].encode(errors="backslashreplace").decode()  # a path need not be text
    try:
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=PATIENCE_S, **TEXT)
    except subprocess.TimeoutExpired:
        raise CompilerError(f"{command} had not ended after {PATIENCE_S:g} s and was given up; set CC to another compiler") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise CompilerError(f"{command} refused our C source: {lines[0] if lines else f'status {done.returncode}'}")


def _checked(loaded: ctypes.CDLL) -> ctypes.CDLL:
    """Compare the sizes of the structures that Python fills in with those that C reads."""
    from jacobians.kernels.native.gradient import ParameterLayout
    from jacobians.kernels.native.input_derivatives import SecondOrder
    from jacobians.kernels.native.program import Program, Setting, Step
    from jacobians.kernels.native.tangent_kernel import KernelTiles

    loaded.size_of.restype = loaded.activation_code.restype = loaded.loss_code.restype = ctypes.c_int64
    for name, kind in (
        ("Step", Step),
        ("Program", Program),
        ("Activation", Setting),
        ("ParameterLayout", ParameterLayout),
        ("KernelTiles", KernelTiles),
        ("SecondOrder", SecondOrder),
    ):
        in_c, in_python = loaded.size_of(name.encode()), ctypes.sizeof(kind)
        if in_c != in_python:
            raise CompilerError(f"struct {name} has {in_c} bytes in C and {in_python} in Python; they must be equal")
    return loaded


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Let one process at a time compile a library: short processes in a row, or workers, would each start a compiler."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(target.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _main(command: str, target: Path, flags: tuple[str, ...]) -> int:
    """Compile in the background, and print why not."""
    sys.stdout.reconfigure(**TEXT)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with _alone(target):
            if not _trusted(target):
                _compile(command, target, flags)
    except (CompilerError, OSError) as error:
        with contextlib.suppress(OSError):  # who asked has ended
            print(error if isinstance(error, CompilerError) else f"the compiled library cannot be kept ({error})", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(_main(sys.argv[1], Path(sys.argv[2]), tuple(sys.argv[3:])))
    found = compiler()  # by hand, e.g. while everything else is being installed
    sys.exit(_main(found, _target(found), FLAGS) if found else 1)

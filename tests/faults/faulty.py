"""Methods that go wrong in every way a method can. Loaded as a pytest plugin by the workers of the tests."""

import contextlib
import itertools
import os
import pathlib
import random
import resource
import signal
import sys

import torch

import jacobians as jac
from jacobians.planning.registry import Computation, register, unregister

_broken_device = False
_events_fd = None  # of the worker that loads this module


def _raise(error):
    raise error


def _die(number):
    os.kill(os.getpid(), number)


def _poison(J):
    global _broken_device
    _broken_device = True
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _innocent(J):
    if _broken_device:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return J


def _hang(J):
    """Say so, and wait at a pipe that nobody writes to: until the process is killed."""
    pathlib.Path(os.environ["FAULTY_HANG"]).write_text(str(os.getpid()))
    os.read(os.pipe()[0], 1)
    return J


def _jax_memory(J):
    import jax.numpy as jnp

    return jnp.zeros(2**46, dtype="float32").sum()


def _alone(J):
    """Right only where the other library is not in this process."""
    other = "jax" if "runtime=torch" in os.environ.get("FAULTY", "runtime=torch") else "none"
    return _raise(RuntimeError(f"{other} shares this process")) if other in sys.modules else J


def _logged(J):
    with pathlib.Path(os.environ["FAULTY_LOG"]).open("a") as file:
        file.write(f"{os.getpid()} starts\n")
        file.flush()
        file.write(f"{os.getpid()} ends\n")
    return J


def _full(J):
    """From the second problem on, let no file of this process grow beyond the journal: the next row finds the disk full."""
    journal = pathlib.Path(os.environ["FAULTY_JOURNAL"])
    if journal.exists() and journal.stat().st_size:
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return J


def _write_bytes(J):
    """End with what is no text as the last words."""
    for link in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(link.readlink()).endswith("/log"):
                os.write(int(link.name), b"\xff\x1b[31mred\0\n")
    os._exit(7)


def _scribble(J):
    """Write what is no event to the pipe of events, as a library does that takes a descriptor for its own."""
    os.write(_events_fd, b"\xff no event\n")
    return J


class _AtRandom:
    """Right, or at some call any fault. Drawn anew each time a case is prepared."""

    def __init__(self):
        chance = random.SystemRandom()
        faults = [None] * 14 + ["exit", "segv", "memory", "cuda", "wrong", "raise"]
        self.fault, self.calls = FAULTS.get(f"{chance.choice(faults)}", (lambda J: J, ""))[0], chance.randrange(30)

    def __call__(self, J):
        self.calls -= 1
        return self.fault(J) if self.calls < 0 else J


FAULTS = {
    # name: (what goes wrong, runtime)
    "bytes": (_write_bytes, "torch"),
    "cuda": (_poison, "torch"),
    "cuda-innocent": (_innocent, "torch"),
    "escapes": (lambda J: _raise(RuntimeError("\x1b[31mred, NUL \0, half a pair \udcff")), "torch"),
    "exit": (lambda J: os._exit(7), "torch"),
    "hang": (_hang, "torch"),
    "inf": (lambda J: J + float("inf"), "torch"),
    "jax-memory": (_jax_memory, "jax"),
    "kill": (lambda J: _die(signal.SIGKILL), "torch"),
    "memory": (lambda J: _raise(MemoryError("no more")), "torch"),
    "nan": (lambda J: torch.full_like(J, float("nan")), "torch"),
    "raise": (lambda J: _raise(RuntimeError("something\nbroke")), "torch"),
    "scribble": (_scribble, "torch"),
    "segv": (lambda J: _die(signal.SIGSEGV), "torch"),
    "signal": (lambda J: _die(signal.SIGRTMIN + 6), "torch"),
    "torch-memory": (lambda J: torch.empty(2**50), "torch"),
    "wrong": (lambda J: 1.01 * J, "torch"),
}
TOYS = {
    "alone": (_alone, "torch"),
    "full": (_full, "torch"),
    "logged-jax": (_logged, "jax"),
    "logged-torch": (_logged, "torch"),
    "random": (_AtRandom, "torch"),
}


def register_all():
    """Register every faulty method, and the toys."""
    for kind, methods in (("faulty", FAULTS), ("toy", TOYS)):
        for name, (misbehave, runtime) in methods.items():

            @register(f"reverse:{kind}-{name}", runtime=runtime)
            def prepare(mlp, problem, request, misbehave=misbehave):
                spoil = misbehave() if isinstance(misbehave, type) else misbehave
                return Computation(lambda x: (None, spoil(jac.reverse(mlp, x)[1])))


def unregister_all():
    """Take them away again."""
    for kind, methods in (("faulty", FAULTS), ("toy", TOYS)):
        for name in methods:
            unregister(f"reverse:{kind}-{name}")


def pytest_configure(config):
    """Register them where this module is a pytest plugin, as it is in the workers; break the clock where a test asks for it."""
    global _events_fd
    _events_fd = config.option.events_fd
    register_all()
    ticks = itertools.count()
    broken = {"frozen": lambda: 1.0, "backward": lambda: -float(next(ticks))}.get(os.environ.get("FAULTY_CLOCK", ""))
    if broken is not None:
        from benchmarks.measure import clock

        clock.timer_for = lambda device: broken

"""Workers forked from one process that has imported PyTorch, instead of processes started anew: for tests of what workers do.

How a worker starts, ends with its parent and leaves nothing behind is tested on real ones. A forked worker runs the same session in
a process of its own, with the same pipes, log and environment, but for the limits of threads that libraries read as they are loaded.
"""

import contextlib
import multiprocessing
import os
import subprocess
import sys
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from types import SimpleNamespace

from benchmarks.run.environment import ROOT

DESCRIPTORS = ("--events-fd", "--grant-fd", "--lifeline-fd")
PRELOAD = ["torch.fx.experimental.symbolic_shapes", "pytest", "pytest_benchmark.plugin", "benchmarks.run.blocks"]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOAD)


class Descriptor:
    """A file descriptor on its way to another process."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return _arrived, (DupFd(self.number),)


def _arrived(duplicate):
    return duplicate.detach()


def _work(arguments, directory, environment, log, ready, descriptors):
    """Be the worker: `python -m pytest …`, in a session of its own."""
    os.setsid()
    os.close(ready)  # from now on it can be killed with whatever it starts
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for own in (1, 2):
        os.dup2(log, own)
    for option, number in descriptors.items():
        arguments[arguments.index(option) + 1] = str(number)
    import pytest

    sys.exit(int(pytest.main(arguments)))


class Popen:
    """The part of `subprocess.Popen` that `benchmarks.run.worker` uses."""

    def __init__(self, command, *, cwd, stdin, stdout, stderr, env, pass_fds, start_new_session):
        assert (command[1:3], stdin, stderr, start_new_session) == (["-m", "pytest"], subprocess.DEVNULL, subprocess.STDOUT, True)
        arguments = command[3:]
        descriptors = {option: Descriptor(int(arguments[arguments.index(option) + 1])) for option in DESCRIPTORS}
        assert {descriptor.number for descriptor in descriptors.values()} == set(pass_fds)
        read, ready = os.pipe()
        given = (arguments, cwd, env, Descriptor(stdout.fileno()), Descriptor(ready), descriptors)
        self._process = _context.Process(target=_work, args=given, daemon=False)
        self._process.start()
        self.pid = self._process.pid
        os.close(ready)
        os.read(read, 1)  # end of file: it has a session of its own, or is gone
        os.close(read)

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("worker", timeout)
        return self._process.exitcode


def stand_in():
    """Return what takes the place of the module `subprocess` in `benchmarks.run.worker`."""
    with contextlib.chdir(ROOT):  # from where the server imports
        forkserver.ensure_running()
    return SimpleNamespace(Popen=Popen, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired)

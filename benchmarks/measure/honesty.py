"""Guards against methods that remember results, compute outside the timed region, are right only where it is looked, or harm others."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import psutil
import torch
from torch import Tensor

from benchmarks.measure.clock import SETTLE_S, Timer, available_threads
from benchmarks.measure.oracle import Reference, judge, judge_along
from jacobians.planning.conversions import LIBRARIES, Converted, plain_types
from jacobians.planning.registry import Computation
from jacobians.quantities.sgd_step import put_back

INPUTS_BYTES = 2**20  # of the inputs that the calls of a round take in turn
LINE = 64  # bytes: each input begins a line of the cache, as a tensor of its own does
OFFSETS = 4096  # from one of which the numbers of a round are read
JUDGED, JUDGED_BYTES = 8, 2**23  # results of a block that are judged, one at least
ORACLE_S = 0.05  # an oracle that takes longer judges the first and the last block alone
LOOK_AGAIN = (3.0, 50e-6, 0.01)  # a first look at a result takes this many times a second one, and so much more, and of a call
SPINS_S = 0.3  # after a method's last call, its library's threads may go on for so long
BUSY = 0.5  # of a core: a thread that computes, or waits without sleeping


class Dishonest(Exception):
    """A method did what it must not; the message says what."""


class Inputs:
    """The inputs of a round's calls, in one piece of memory, whose numbers are others in each round and the same for all methods."""

    def __init__(self, reference: Reference, count: int, block: int) -> None:
        x = reference.x
        step = -(-x.nbytes // LINE) * LINE // x.itemsize
        count = max(1, min(count, INPUTS_BYTES // max(LINE, x.nbytes)))
        self._pool = torch.randn(count * step + OFFSETS, generator=torch.Generator().manual_seed(2_000_003 + block)).to(x)
        self._all = torch.zeros(count * step, dtype=x.dtype, device=x.device)
        self._others = reference.other_inputs(block)[1:]
        self._random, self._step, self._like = random.Random(block), step, x
        given = tuple(t.clone() for t in self._others)
        self.given = [(self._x(self._all, index), *given) for index in range(count)]
        self.renew()

    def renew(self) -> None:
        """Write the numbers of the next round; no two rounds have one in common."""
        self._round = self._random.randrange(OFFSETS), self._random.uniform(0.9, 1.1)
        self._write(self._all)

    def at(self, index: int) -> tuple[Tensor, ...]:
        """Return what was given as an input of this round, whatever a method has made of it since."""
        return self._x(self._write(torch.empty_like(self._all)), index), *self._others

    def changed(self) -> bool:
        """Say whether a method has written into its inputs."""
        now, then = (self._all, *self.given[0][1:]), (self._write(torch.empty_like(self._all)), *self._others)
        return not all(map(torch.equal, now, then))

    def _write(self, out: Tensor) -> Tensor:
        offset, scale = self._round
        return torch.mul(self._pool[offset : offset + len(out)], scale, out=out)

    def _x(self, whole: Tensor, index: int) -> Tensor:
        return whole[index * self._step :][: self._like.numel()].view(self._like.shape)


class Trial:
    """A prepared method on a network and inputs of its own, watched.

    Each block has other weights and each round other inputs, in the same tensors: what a method remembers is then wrong. Which results
    are judged is drawn after each call; conversions other than the suite's are timed with the call; what was given is compared.
    """

    _known: ClassVar[set[int]] = set()  # threads of this process that somebody answers for

    def __init__(self, computation: Computation, reference: Reference, timer: Timer) -> None:
        self._reset = computation.reset or (lambda: None)
        self._trains = computation.reset is not None
        if self._trains and reference.problem.quantity != "sgd_step":
            raise Dishonest("it has a reset, and only what trains has anything to put back")
        self._reference, self._timer = reference, timer
        self._original = [t.detach().clone() for t in reference.mlp.parameters()]
        self._scales = [1.0] * len(self._original)
        self._run, self._convert, self._restore, self._plain = _trusted(computation)
        size = sum(t.numel() for t in reference.exact) * reference.x.itemsize
        self._most = max(1, min(JUDGED, JUDGED_BYTES // max(1, size))) if reference.along else 1
        self._oracle_s = 0.0
        self._draw = random.Random()
        self._kept: Any = None
        self._looks: tuple[list[float], list[float]] = [], []  # seconds that a first and a second look at a result took
        self._threads: set[int] = set()  # that the method has started
        self._cores, self._last_call = _cores(), time.perf_counter()

    def check_first(self) -> Tensor | tuple[Tensor, ...]:
        """Run once at the reference's own input."""
        self._reset()
        return self._restore(self._checked(self._run(self._convert([_given(self._reference.inputs)])[0])[1]))

    def rest(self) -> bool:
        """Let the machine come to rest, and say whether a thread of this process works on, which another method has left behind."""
        if not _others_at_work(SETTLE_S / 2, before_s=SETTLE_S / 2):
            return False
        if self._threads:
            time.sleep(max(0.0, self._last_call + SPINS_S - time.perf_counter()))
            if self._threads & _threads_at_work():
                raise Dishonest(f"a thread that it started is still running {SPINS_S:g} s after its last call")
        return _others_at_work(SETTLE_S / 2)

    def new_inputs(self, block: int, calls: int = 1) -> None:
        """Write the weights of a block, and inputs for rounds of so many calls."""
        generator = torch.Generator().manual_seed(3_000_017 + block)
        self._scales = [1.0 if block == 1 else torch.empty(()).uniform_(0.95, 1.05, generator=generator).item() for _ in self._scales]
        for now, then in self._weights():
            now.copy_(then)
        self._inputs = Inputs(self._reference, calls, block)
        self._natives = self._convert([_given(inputs) for inputs in self._inputs.given])
        self._in_place = _in_place(self._natives[0], self._inputs.given[0][0])
        self._rounds, self._samples = 0, []
        self._reset()

    def call(self) -> Callable[[], None]:
        """Return the function that calls once, each time with the next input; which call is kept to be judged is drawn after it."""
        run, turn, draw, number = self._run, itertools.cycle(enumerate(self._natives)), self._draw.random, itertools.count(1).__next__

        def call() -> None:
            index, native = next(turn)
            result = run(native)
            if draw() * number() < 1:
                self._kept = (index, result)

        return call

    def round(self, calls: int) -> Callable[[], None]:
        """Return the function to time, of so many calls, of which one is kept; each runs while just one earlier result is alive."""
        run, count = self._run, len(self._natives)
        draw = float if self._trains else self._draw.random  # what trains is judged by where its last step has led
        natives = [(number + 1, number % count, self._natives[number % count]) for number in range(calls)]
        self._calls, self._timed = calls, False

        def a_round() -> None:
            for number, index, native in natives:
                result = run(native)
                if draw() * number < 1:
                    self._kept = (index, result)
                del result

        return a_round

    def again_if_it_trains(self) -> None:
        """Step once from the beginning: after thousands of steps, judged is that one."""
        if self._trains:
            self._reset()
            self.round(1)()

    def between(self) -> None:
        """Before a round: draw whether what was kept of the last one is judged, and write new inputs."""
        if self._timed:
            self.after()
        self._timed = True
        self._inputs.renew()
        if not self._in_place:
            self._natives[:] = self._convert([_given(inputs) for inputs in self._inputs.given])
        self._reset()

    def after(self) -> None:
        """Take the kept result of a round among those that are judged, if it is drawn."""
        self._rounds += 1
        place = self._rounds - 1 if self._rounds <= self._most else self._draw.randrange(self._rounds)
        if place >= self._most:
            return
        index, result = self._kept
        self._checked(result[1])
        pending = [one for one in _tuple(result[1]) if _may_be_pending(one)]
        for seconds in self._looks if pending else ():
            start = self._timer()
            for one in pending:
                _look_at(one)
            seconds.append(self._timer() - start)
        if self._inputs.changed():
            raise Dishonest("the method changed its inputs")
        inputs = (
            [self._inputs.at(number % len(self._natives)) for number in range(self._calls)] if self._trains else [self._inputs.at(index)]
        )
        sample = inputs, tuple(t.clone() for t in _tuple(self._restore(result[1])))
        self._samples[place : place + 1] = [sample]

    def end_block(self, call_s: float, first_or_last: bool = True) -> str | None:
        """Judge the results that were drawn: one against the whole oracle in the first and the last block, the others along a direction."""
        self._last_call = time.perf_counter()
        now = threads_of_process()
        self._threads |= now - Trial._known
        Trial._known |= now
        more = _cores()
        if any(now > then for now, then in zip(more, self._cores, strict=True)):
            torch.set_num_threads(self._cores[1])
            raise Dishonest(f"it took more cores: {more[0]} cores and {more[1]} threads of torch, where it was given {self._cores}")
        if any(not torch.equal(now, then) for now, then in self._weights()):
            raise Dishonest("the method changed the weights of the network")
        if not self._samples:
            return "no timed result was kept to be checked"
        whole = first_or_last or (not self._reference.along and self._oracle_s < ORACLE_S)
        self._draw.shuffle(self._samples)
        start = time.perf_counter()
        reasons = [judge(found, self._reference.at(*inputs)).reason for inputs, found in self._samples[:whole]]
        self._oracle_s = max(self._oracle_s, time.perf_counter() - start)
        if self._reference.along:
            reasons.append(
                judge_along([found[0] for _, found in self._samples], [inputs[0][0] for inputs, _ in self._samples], self._reference)
            )
        wrong = next((reason for reason in reasons if reason is not None), None)
        if wrong is not None:
            return f"a timed result is wrong: {wrong}"
        first, second = (median(seconds or [0.0]) for seconds in self._looks)
        if first > LOOK_AGAIN[0] * second + LOOK_AGAIN[1] + LOOK_AGAIN[2] * call_s:
            return f"results are computed when they are looked at: a first look takes {first * 1e6:.3g} µs, a second {second * 1e6:.3g} µs"
        return None

    def check_last(self, twin: Reference | None) -> str | None:
        """Check that a result stays when the next one is computed, and the method on the weights of a twin."""
        if not self._trains:
            result = self._run(self._natives[0])[1]
            before = [t.clone() for t in _tuple(self._restore(result))]
            self._inputs.renew()
            self._run(self._convert([_given(self._inputs.given[-1])])[0])
            if not all(torch.equal(now, then) for now, then in zip(_tuple(self._restore(result)), before, strict=True)):
                return "a result is overwritten by the next call"
        self.rest()
        if twin is None:
            return None
        put_back(self._reference.mlp, twin.mlp)
        reason = judge(self._restore(self._run(self._convert([_given(twin.inputs)])[0])[1]), twin).reason
        return f"after timing, on a xavier network of the same shape: {reason}" if reason else None

    def _weights(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each parameter as it is, and as it must be in this block."""
        for now, of, scale in zip(self._reference.mlp.parameters(), self._original, self._scales, strict=True):
            yield now.detach(), of * scale

    def _checked(self, found: Any) -> Any:
        """Refuse what is no plain array: it could be anything until somebody looks."""
        for one in _tuple(found):
            if type(one) not in self._plain:
                raise Dishonest(f"the result is a {type(one).__name__}, expected a plain {self._plain[0].__name__}")
            if isinstance(one, Tensor) and (one.layout != torch.strided or one.device != self._reference.x.device):
                raise Dishonest(f"the result is {one.layout} on {one.device}, expected strided on {self._reference.x.device}")
        return found


def _may_be_pending(found: Any) -> bool:
    """Say whether a result can be returned before it is computed: not what lies in the host's memory, whose first read is only colder."""
    return hasattr(found, "block_until_ready") or (isinstance(found, Tensor) and found.device.type != "cpu")


def _look_at(found: Any) -> None:
    """Wait until a result is computed."""
    if hasattr(found, "block_until_ready"):  # to read a number would make a copy on the host, which takes longer the first time
        found.block_until_ready()
    elif found.numel():
        found.as_strided((1,), (1,)).tolist()


def threads_of_process() -> set[int]:
    """List the threads of this process, as the system numbers them."""
    tasks = Path("/proc/self/task")
    return {int(task.name) for task in tasks.iterdir()} if tasks.exists() else {thread.id for thread in psutil.Process().threads()}


def _others_at_work(seconds: float, before_s: float = 0.0) -> bool:
    """Say whether the process's other threads keep half a core busy, while this one sleeps."""
    time.sleep(before_s)
    start, used = time.perf_counter(), time.process_time() - time.thread_time()
    time.sleep(seconds)
    return time.process_time() - time.thread_time() - used > BUSY * (time.perf_counter() - start)


def _threads_at_work(seconds: float = 0.1) -> set[int]:
    process = psutil.Process()
    before = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
    time.sleep(seconds)
    after = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
    return {thread for thread, used in after.items() if used - before.get(thread, 0.0) > BUSY / 2 * seconds}


def _cores() -> tuple[int, int]:
    return available_threads(), torch.get_num_threads()


def _trusted(
    computation: Computation,
) -> tuple[Callable[[Any], Any], Callable[[list[Any]], list[Any]], Callable[[Any], Any], tuple[type, ...]]:
    """Return what is timed, how inputs are converted before it and results after it, and the types of these.

    Only the conversions of the suite are left out of the time: those of other makers are part of the call.
    """
    run, restore = computation.run, computation.restore
    convert: Any = computation.convert
    given = Computation(run)
    if convert is given.convert and restore is given.restore:
        return run, list, restore, (Tensor,)
    if type(convert) is Converted and restore is LIBRARIES[convert.library][1]:
        return run, convert.each, restore, plain_types(convert.library)
    return lambda x: (None, restore(run(convert(x))[1])), list, given.restore, (Tensor,)


def _in_place(native: Any, x: Tensor) -> bool:
    """Say whether a converted input lies where the tensor does, so that what is written there is its new value."""
    x_there = next((one for one in native if not isinstance(one, list)), None) if isinstance(native, tuple) else native
    place = getattr(x_there, "unsafe_buffer_pointer", None) or getattr(x_there, "data_ptr", None)
    return place() == x.data_ptr() if place else x_there is not None and x_there.ctypes.data == x.data_ptr()


def _given(inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """Pass x by itself where there is nothing else."""
    return inputs[0] if len(inputs) == 1 else inputs


def _tuple(found: Any) -> tuple[Any, ...]:
    """Return the arrays of a result; a layer without a bias has none."""
    if isinstance(found, (tuple, list)):
        return tuple(leaf for one in found if one is not None for leaf in _tuple(one))
    return (found,)

"""Methods that would look fast or right without being so: each is `(mlp, problem) -> Computation`, with what the suite says of it."""

from __future__ import annotations

import hashlib
import itertools
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

import jacobians as jac
from jacobians.planning.registry import Computation

TIMED = "ok"  # nothing is gained: what it does outside `run` is timed with the call, or what it remembers never comes again
LIARS: dict[str, tuple[Any, str]] = {}
computed = [0]  # how often one of them has computed a Jacobian


def liar(verdict: str):
    """Put a method in the table, with the verdict that it must get: `TIMED`, or words of the reason why it is invalid."""

    def add(prepare):
        LIARS[prepare.__name__.removeprefix("_").replace("_", "-")] = (prepare, verdict)
        return prepare

    return add


def honest(mlp):
    """Compute J."""

    def compute(x):
        computed[0] += 1
        return jac.reverse(mlp, x)[1]

    return compute


def by_numpy(mlp):
    """Compute J where torch sees nothing."""

    def compute(x):
        computed[0] += 1
        h, slopes = x.numpy(), []
        for W in mlp.weights:
            h = np.tanh(W.numpy() @ h)
            slopes.append(1 - h * h)
        J = mlp.weights[-1].numpy()
        for W, slope in zip(mlp.weights[-2::-1], slopes[-2::-1], strict=True):
            J = (J * slope) @ W.numpy()
        return torch.from_numpy(J)

    return compute


# Work outside the timed region


@liar(TIMED)
def _numpy_in_convert(mlp, problem):
    return Computation(lambda J: (None, J), convert=by_numpy(mlp))


@liar(TIMED)
def _kernel_in_restore(mlp, problem):
    return Computation(lambda x: (None, x), restore=by_numpy(mlp))


@liar(TIMED)
def _thread_in_convert(mlp, problem):
    pool, compute = ThreadPoolExecutor(1), honest(mlp)
    return Computation(lambda J: (None, J), convert=lambda x: pool.submit(compute, x).result())


@liar(TIMED)
def _future_awaited_in_restore(mlp, problem):
    pool, compute = ThreadPoolExecutor(1), honest(mlp)
    return Computation(lambda x: (None, pool.submit(compute, x)), restore=lambda future: future.result())


class _Lazy(torch.Tensor):
    """Computes when somebody looks."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        args = [a.compute(a.given) if isinstance(a, _Lazy) and "compute" in a.__dict__ else a for a in args]
        return super().__torch_function__(func, types, args, kwargs or {})


@liar("the result is a _Lazy, expected a plain Tensor")
def _lazy_tensor(mlp, problem):
    def run(x):
        J = torch.empty(problem.P, problem.D).as_subclass(_Lazy)
        J.compute, J.given = honest(mlp), x
        return None, J

    return Computation(run)


@liar("exceeds")
def _filled_after_it_returned(mlp, problem):
    pool, compute = ThreadPoolExecutor(1), honest(mlp)

    def run(x):
        J = torch.zeros(problem.P, problem.D)
        pool.submit(lambda: J.copy_(compute(x)))
        return None, J

    return Computation(run)


# Memory of results


def _remembering(key):
    def prepare(mlp, problem):
        memory, compute = {}, honest(mlp)

        def run(x):
            place = key(x)
            if place not in memory:
                memory[place] = x, compute(x)
            return None, memory[place][1]

        return Computation(run)

    return prepare


LIARS["memory-by-object"] = _remembering(id), "wrong"
LIARS["memory-by-address-and-version"] = _remembering(lambda x: (x.data_ptr(), x._version)), TIMED
LIARS["memory-by-bytes"] = _remembering(lambda x: x.numpy().tobytes()), TIMED
LIARS["memory-by-rounded-x"] = _remembering(lambda x: tuple((x * 64).round().tolist())), TIMED
LIARS["memory-by-first-number"] = _remembering(lambda x: int(8 * x[0].item())), "wrong"


@liar("changed its inputs")
def _x_zeroed(mlp, problem):
    compute, number = honest(mlp), itertools.count().__next__
    J0 = compute(torch.zeros(problem.D))

    def run(x):
        if number() == 0:
            return None, compute(x)
        x.zero_()
        return None, J0

    return Computation(run)


# Right only where it is looked at


def _sometimes(spoil, when):
    def prepare(mlp, problem):
        compute, number = honest(mlp), itertools.count(1).__next__
        return Computation(lambda x: (None, spoil(compute(x)) if when(number()) else compute(x)))

    return prepare


LIARS["zeros-in-some-calls"] = _sometimes(torch.zeros_like, lambda n: n > 1 and random.random() < 0.2), "wrong"
LIARS["nan-in-some-calls"] = _sometimes(lambda J: J * float("nan"), lambda n: n > 1 and random.random() < 0.2), "not finite"
LIARS["doubled-one-in-ten"] = _sometimes(lambda J: 2 * J, lambda n: n % 10 == 5), "wrong"
LIARS["zeros-for-calls-2-to-400"] = _sometimes(torch.zeros_like, lambda n: 2 <= n <= 400), "wrong"
LIARS["zeros-after-the-first"] = _sometimes(torch.zeros_like, lambda n: n > 1), "wrong"
LIARS["half-precision"] = _sometimes(lambda J: J.half().float(), lambda n: True), "relative error"


@liar("wrong")
def _frozen_weights(mlp, problem):
    compute = honest(jac.MLP([W.clone() for W in mlp.weights]))
    return Computation(lambda x: (None, compute(x)))


@liar("wrong")
def _overwritten_buffer(mlp, problem):
    J, compute = torch.empty(problem.P, problem.D), honest(mlp)
    return Computation(lambda x: (None, J.copy_(compute(x))))


@liar("reset")
def _reset_that_does_nothing(mlp, problem):
    state, compute = {}, honest(mlp)

    def run(x):
        if state.pop("look", None) or "J" not in state:
            state["J"] = compute(x)
        return None, state["J"]

    return Computation(run, reset=lambda: state.update(look=True))


@liar("wrong")
def _looks_at_the_caller(mlp, problem):
    """Computes where the caller's locals say that this call is kept, or where there is no such word."""
    state, compute = {}, honest(mlp)

    def run(x):
        names = sys._getframe(1).f_locals
        last = names.get("last", names.get("keep"))
        if "J" not in state or (last is not None and last == names.get("n", names.get("number"))):
            state["J"] = compute(x)
        return None, state["J"]

    return Computation(run)


@liar("wrong")
def _seeds_the_draw(mlp, problem):
    """Fixes the generators that anybody could draw the judged call from, and computes at the first call of each hundred."""
    state, compute, number = {}, honest(mlp), itertools.count().__next__

    def run(x):
        random.seed(0)
        if number() % 100 == 0:
            state["J"] = compute(x)
        return None, state["J"]

    return Computation(run)


# What harms the neighbours


@liar("changed the weights")
def _weights_changed(mlp, problem):
    def run(x):
        J = jac.reverse(mlp, x)[1]
        mlp.weights[1].mul_(0.5)
        return None, J

    return Computation(run)


@liar("changed its inputs")
def _x_changed(mlp, problem):
    number = itertools.count().__next__

    def run(x):
        J = jac.reverse(mlp, x)[1]
        x.mul_(0.5 if number() else 1.0)
        return None, J

    return Computation(run)


STOP, MEGABYTE = threading.Event(), bytes(2**20)
SPINNING = []


def stop():
    """End the thread that spins: a set event that is cleared at once is hardly ever seen by it."""
    STOP.set()
    while SPINNING:
        SPINNING.pop().join()
    STOP.clear()


@liar("still running")
def _thread_spins_on(mlp, problem):
    compute = honest(mlp)

    def spin():
        while not STOP.is_set():
            hashlib.sha256(MEGABYTE)  # without the interpreter's lock: each call of the other thread would wait 5 ms for that

    def run(x):
        if not SPINNING:
            SPINNING.append(threading.Thread(target=spin, name="spins", daemon=True))
            SPINNING[0].start()
        return None, compute(x)

    return Computation(run)


@liar("more cores")
def _takes_more_cores(mlp, problem):
    compute = honest(mlp)

    def run(x):
        torch.set_num_threads(torch.get_num_threads() + 1 if torch.get_num_threads() < 9 else 9)
        return None, compute(x)

    return Computation(run)


@liar("J has shape")
def _one_row_for_all(mlp, problem):
    return Computation(lambda x: (None, honest(mlp)(x)[:1]))


@liar("expected strided")
def _sparse(mlp, problem):
    return Computation(lambda x: (None, honest(mlp)(x).to_sparse()))

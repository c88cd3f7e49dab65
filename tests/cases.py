"""The shared cases: networks that every method must get right."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch

import jacobians as jac
from jacobians.network.activations import RULES

# Those that can serve on the CPU here: a kernel for a GPU has tests of its own, and one in C needs a compiler.
OURS = [method.name for method in jac.methods() if method.hand_written and method.device in {None, "cpu"}]
# torch.compile takes up to half a minute for each network, so it has a test of its own: test_torch_compile.py.
PEERS = [method.name for method in jac.methods() if not method.hand_written and method.implementation != "torch.compile"]
ALL = OURS + PEERS

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}  # relative, Frobenius

WIDTHS = {
    "one layer": (3, 4),
    "all one": (1, 1, 1),
    "narrow middle": (6, 5, 1, 4, 7),
    "uniform": (3, 8, 8, 8, 5),
    "irregular": (5, 9, 2, 17, 3),
    "bottleneck": (12, 20, 2, 20, 12),
    "two bottlenecks": (9, 3, 11, 2, 13, 10),
    "wide output": (2, 7, 7, 31),
    "wide input": (33, 7, 7, 2),
}
BATCHES = (None, 0, 1, 5)
# Every row of the table, and every setting once.
SETTINGS = (
    "leaky_relu(negative_slope=0.2)",
    "softplus(beta=2.0, threshold=5.0)",
    "gelu(approximate='tanh')",
    "elu(alpha=0.5)",
    "sine(omega=3.0)",
    "celu(alpha=0.5)",
    "hardtanh(min_val=-0.5, max_val=2.0)",
    "relu(scale=5.0)",
    "identity(scale=0.5)",
)
ACTIVATIONS = (*RULES, *SETTINGS)


DEADLOCK_S = 600  # what waits longer waits for ever


def in_threads(work, count):
    """Call `work(index)` in several threads at once and wait for all."""
    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=DEADLOCK_S)
    assert not any(thread.is_alive() for thread in threads)


def pairs(*axes):
    """Rows of the product of some axes in which each two values of two axes meet: few, and no fault of two settings escapes them."""
    axes = [tuple(axis) for axis in axes]
    rows = list(itertools.product(*map(range, map(len, axes))))
    meetings = {row: set(itertools.combinations(enumerate(row), 2)) for row in rows}
    missing = set().union(*meetings.values())
    while missing:
        best = max(rows, key=lambda row: len(meetings[row] & missing))
        missing -= meetings[best]
        yield tuple(axis[index] for axis, index in zip(axes, best, strict=True))


def for_each(cases, check):
    """Call a check on every case; a failure names its case, and no case skips those behind it."""
    for case in cases:
        try:
            check(*case)
        except pytest.skip.Exception as skipped:
            raise AssertionError(f"{case} would skip the cases behind it: {skipped}") from None
        except Exception as error:
            error.add_note(f"in the case {case}")
            raise


def served(method, problem, refusal=None):
    """Say whether a method takes a problem: it must, or give the reason that is expected of it."""
    reason = jac.find_method(method).unsupported(problem)
    if reason is not None and any(lack in reason for lack in ("not installed", "needs a C compiler and found none")):
        raise ValueError(reason)  # what is not there is skipped: see conftest.py
    assert (reason is None) == (refusal is None), (method, problem, reason)
    assert refusal is None or refusal in reason
    return reason is None


def network(widths, *, batch=None, dtype=torch.float64, seed=0, **options):
    """Draw a network and an input with a seed."""
    mlp = jac.MLP.random(widths=widths, dtype=dtype, seed=seed, **options)
    shape = (widths[0],) if batch is None else (batch, widths[0])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64).to(dtype)
    return mlp, x

"""Every activation: its derivatives, what it costs in a Jacobian, and whether gradients survive depth with it.

With weights of variance `g² / K` and zero biases each layer multiplies the mean square of a tangent by `g² E[φ'(z)²]`. Xavier's g = 1 and
He's g = √2 differ by that factor alone, so what vanishes is a matter of both the activation and the weights: ReLU has `E[φ'²] = ½`, and
keeps gradients with He's weights only.

Sources: Glorot & Bengio, AISTATS 2010; He, Zhang, Ren & Sun, arXiv 1502.01852 (2015).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

import jacobians as jac
from jacobians.network.activations import RULES
from studies.study import Options, Row, Study, Tables, column, distinct, register, where

REACH, STEP = 4.0, 0.05  # of the curves, to both sides of 0
SHAPES = ((2, *(30,) * 10, 10), (16, *(256,) * 3, 16))  # whose Jacobians are timed
SAMPLES = 256
ROUNDS = 40
DEPTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 30, 50)
WIDTH, CLASSES, BATCH, NETWORKS = 64, 10, 32, 3
WEIGHTS = {"Xavier": 1.0, "He": 2.0}  # g²
VANISHED, EXPLODED = 1e-3, 1e3  # a gradient beside that of a network with one hidden layer
DERIVATIVES = ("value", "slope", "second", "third")


def derivatives(name: str, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Evaluate an activation and its first three derivatives.

    Example:
        >>> [float(d) for d in derivatives("sine", torch.zeros(()))]
        [0.0, 1.0, -0.0, -1.0]
    """
    rule = jac.Activation(name)
    h = rule.value(z)
    found = (rule.slope(z, h), rule.curvature(z, h), rule.third(z, h))
    slope, second, third = (torch.full_like(z, float(order == 0)) if d is None else d for order, d in enumerate(found))  # None: constant
    return h, slope, second, third


def by_autograd(name: str, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the same by differentiating torch's own function three times."""
    points = z.clone().requires_grad_()
    found = [RULES[name].module()(points)]
    for _ in range(3):
        last = found[-1]
        (grad,) = torch.autograd.grad(last.sum(), points, create_graph=True) if last.requires_grad else (torch.zeros_like(z),)
        found.append(grad)
    h, slope, second, third = (one.detach() for one in found)
    return h, slope, second, third


def _curves() -> Iterator[Row]:
    count = round(REACH / STEP)
    z = torch.linspace(-REACH, REACH, 2 * count + 1, dtype=torch.float64)
    away = z.abs() > STEP / 2  # at a kink autograd takes pieces of its own
    for name in RULES:
        ours, theirs = derivatives(name, z), by_autograd(name, z)
        worst = max(float((a - b)[away].abs().max()) for a, b in zip(ours, theirs, strict=True))
        for numbers in zip(z.tolist(), *(d.tolist() for d in ours), strict=True):
            row: Row = dict(zip(("z", *DERIVATIVES), numbers, strict=True))
            yield {"activation": name, **row, "worst_difference": worst}


def _timed(widths: tuple[int, ...], rounds: int, seed: int) -> Iterator[Row]:
    """Time Jacobians in turn, so that what disturbs one disturbs all, and on one thread, for others spin between calls."""
    x = torch.randn(SAMPLES, widths[0], generator=torch.Generator().manual_seed(seed))
    units = SAMPLES * sum(widths[1:-1])
    z, out = torch.randn(units, generator=torch.Generator().manual_seed(seed)), torch.empty(units)
    work: dict[str, Callable[[], object]] = {"torch.exp": lambda: torch.exp(z, out=out)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in RULES:
            mlp = jac.MLP.random(widths=list(widths), activation=name, seed=seed)
            for W in mlp.weights:
                W.mul_(0.1)  # so that exponentials of exponentials stay finite
            work[name] = partial(jac.plan(mlp, x), x)
        taken: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(rounds + 1):
            for name, call in work.items():
                start = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    for name, seconds in taken.items():  # without the first round
        row: Row = {"activation": name, "widths": "-".join(map(str, widths)), "samples": SAMPLES, "units": units, "rounds": rounds}
        yield {**row, "seconds": statistics.median(seconds[1:]), "least": min(seconds[1:])}


def of_network(mlp: jac.MLP, x: Tensor, target: Tensor) -> tuple[float, float]:
    """Return the largest singular value of J, a mean over the samples, and the norm of `∂L/∂W_1`; inf beyond the numbers."""
    J = jac.jacobian(mlp, x)
    g = jac.gradient(mlp, x, target, "cross_entropy").weights[0]
    if not bool(J.isfinite().all() and g.isfinite().all()):
        return math.inf, math.inf
    return float(torch.linalg.matrix_norm(J, 2).mean()), float(g.norm())


def _depth(name: str, options: Options, networks: int) -> Iterator[Row]:
    for weights, square in WEIGHTS.items():
        found: dict[int, list[tuple[float, float]]] = {depth: [] for depth in DEPTHS}
        for number in range(networks):
            generator = torch.Generator().manual_seed(1000 * options.seed + number)
            x = torch.randn(BATCH, WIDTH, generator=generator, dtype=torch.float64)
            target = torch.randint(CLASSES, (BATCH,), generator=generator)
            head = torch.randn(CLASSES, WIDTH, generator=generator, dtype=torch.float64) / WIDTH**0.5
            hidden = [torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64) for _ in range(max(DEPTHS))]
            hidden = [W * (square / WIDTH) ** 0.5 for W in hidden]
            for depth in DEPTHS:
                found[depth].append(of_network(jac.MLP([*hidden[:depth], head], activation=name), x, target))
        for depth, pairs in found.items():
            row: Row = {"activation": name, "weights": weights, "depth": depth, "networks": networks}
            singular, norm = (_geometric_mean(values) for values in zip(*pairs, strict=True))
            yield {**row, "largest_singular_value": singular, "gradient_norm": norm}


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if min(values) > 0 else 0.0


def _rows(options: Options) -> Iterator[tuple[str, Row]]:
    yield from (("activations", row) for row in _curves())
    for place, widths in enumerate(SHAPES):
        yield from (("activations-times", row) for row in _timed(widths, options.epochs or ROUNDS, options.seed))
        options.report(0.2 * (place + 1))
    for place, name in enumerate(RULES):
        yield from (("activations-depth", row) for row in _depth(name, options, min(NETWORKS, options.epochs or NETWORKS)))
        options.report(0.4 + 0.6 * (place + 1) / len(RULES))


def survival(rows: Sequence[Row], name: str, weights: str) -> tuple[str, float]:
    """Say what the gradient does with depth, and from which depth on: ("kept", the last one), ("vanishes", d) or ("explodes", d)."""
    own = where(rows, activation=name, weights=weights)
    first = float(own[0]["gradient_norm"])
    for row in own:
        ratio = float(row["gradient_norm"]) / first
        if not VANISHED < ratio < EXPLODED:
            return ("vanishes" if ratio <= VANISHED else "explodes"), float(row["depth"])
    return "kept", float(own[-1]["depth"])


def least_times(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return the least time of each activation, and of `torch.exp`, for each network."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        found.setdefault(str(row["widths"]), {})[str(row["activation"])] = float(row["least"])
    return found


def _conclude(tables: Tables) -> str:
    curves, depths = tables["activations"], tables["activations-depth"]
    worst = max(column(curves, "worst_difference"))
    names = distinct(curves, "activation")
    fates = []
    for weights in WEIGHTS:
        told: dict[str, list[str]] = {"vanishes": [], "explodes": [], "kept": []}
        for name in names:
            fate, depth = survival(depths, name, weights)
            told[fate].append(name if fate == "kept" else f"{name} {depth:g}")
        parts = [f"{fate} for {', '.join(found)}" for fate, found in told.items() if found]
        fates.append(f"with {weights}'s weights it {'; '.join(parts).replace('kept for', 'is kept for')}")
    costs = []
    for widths, times in least_times(tables["activations-times"]).items():
        named = dict.fromkeys(("relu", "tanh", "sigmoid", max(names, key=times.__getitem__)))
        shown = ", ".join(f"{times[name] / times['identity']:.2f} with {name}" for name in named)
        exponentials = times["torch.exp"] / times["identity"]
        costs.append(f"{widths}: {shown}; torch.exp of as many numbers as there are units {exponentials:.2f}")
    return (
        f"All derivatives of {len(names)} activations are autograd's within {worst:.0e}. The gradient of the first weights, beside that of "
        f"one hidden layer (from the given number of layers on below {VANISHED:g}: vanishes; above {EXPLODED:g}: explodes): "
        f"{'; '.join(fates)}. A Jacobian of {SAMPLES} samples, beside one without an activation, takes, {'; '.join(costs)}."
    )


register(
    Study(
        "activations",
        "Every activation: derivatives, cost, depth",
        "What are an activation's derivatives, what does it cost in a Jacobian, and with which do gradients survive depth?",
        {
            "activations": ("activation", "z", *DERIVATIVES, "worst_difference"),
            "activations-times": ("activation", "widths", "samples", "units", "rounds", "seconds", "least"),
            "activations-depth": ("activation", "weights", "depth", "networks", "largest_singular_value", "gradient_norm"),
        },
        _rows,
        _conclude,
    )
)

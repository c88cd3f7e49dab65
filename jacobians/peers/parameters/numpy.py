"""NumPy: the gradient of a tanh or sigmoid network by hand, as course notebooks write it."""

from __future__ import annotations

from typing import Any

import numpy as np

from jacobians.network.mlp import MLP
from jacobians.planning.conversions import Converted, numpy_tensors
from jacobians.planning.registry import Computation, Request, register
from jacobians.problem import Problem
from jacobians.quantities.parameters import loss_in

_ACTIVATIONS = {
    "tanh": (np.tanh, lambda h: 1 - h * h),
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda h: h * (1 - h)),
    "relu": (lambda z: np.maximum(z, 0), lambda h: (h > 0).astype(h.dtype)),
    "identity": (lambda z: z, lambda h: np.ones_like(h)),
}


def _cross_entropy(y: Any, t: Any) -> tuple[Any, Any]:
    shifted = y - y.max(1, keepdims=True)
    e = np.exp(shifted)
    total = e.sum(1, keepdims=True)
    rows = np.arange(len(y))
    value = (np.log(total[:, 0]) - shifted[rows, t]).mean()
    C = e / total
    C[rows, t] -= 1
    return value, C / len(y)


_LOSSES = {
    "mse": lambda y, t: (((y - t) ** 2).mean(), 2 * (y - t) / y.size),
    "l1": lambda y, t: (np.abs(y - t).mean(), np.sign(y - t) / y.size),
    "cross_entropy": _cross_entropy,
}


def _supports(problem: Problem) -> str | None:
    if problem.device != "cpu":
        return f"NumPy computes on the CPU, not on {problem.device}"
    if problem.dtype not in ("float32", "float64"):
        return f"NumPy has no fast {problem.dtype}"
    other = [str(rule) for rule in problem.activations if str(rule) not in _ACTIVATIONS]
    if other:
        return f"this notebook code knows {', '.join(_ACTIVATIONS)}, not {other[0]}"
    if problem.loss not in _LOSSES:
        return f"this notebook code knows {', '.join(_LOSSES)}, not {problem.loss}"
    return "NumPy's mean of an empty batch is not a number" if problem.N == 0 else None


@register("gradient/reverse:numpy", summary="backpropagation as course notebooks write it", supports=_supports)
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    rules = [_ACTIVATIONS[str(rule)] for rule in problem.activations]
    value_and_cotangent = _LOSSES[loss_in(problem).name]
    parameters = [(W.detach().numpy(), None if b is None else b.detach().numpy()) for W, b in zip(mlp.weights, mlp.biases, strict=True)]

    def run(native: tuple[Any, Any]) -> tuple[None, list[Any]]:
        x, target = native if problem.batch is not None else (native[0][None], native[1][None])
        h = [x]
        for (W, b), (value, _) in zip(parameters, rules, strict=True):
            z = h[-1] @ W.T
            h.append(value(z if b is None else z + b))
        loss, C = value_and_cotangent(h[-1], target)
        found: list[Any] = []
        for index in range(len(parameters) - 1, -1, -1):
            W, b = parameters[index]
            C = C * rules[index][1](h[index + 1])
            found = [C.T @ h[index], *([] if b is None else [C.sum(0)]), *found]
            C = C @ W if index else C
        return None, [np.asarray(loss, dtype=x.dtype), *found]

    return Computation(run, Converted("numpy"), numpy_tensors, records=False)

"""The input Jacobian `J[..., p, d] = ∂y_p/∂x_d`: its cost and its oracle. How it is computed stands in `modes/`."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor
from torch.autograd.functional import jacobian

from jacobians.modes.bracketing import known_bracketing, multiply_adds
from jacobians.network.mlp import MLP
from jacobians.planning.registry import JACOBIAN, Cost, Quantity, register_quantity
from jacobians.problem import Problem
from jacobians.quantities.parameters import sizes


def cost(problem: Problem, mode: str) -> Cost:
    """Count the work of a mode.

    The evaluation is shared by all modes: `2 N Σ_{l≤L} in_l out_l`. Forward mode then pushes D tangents through
    `W_2 … W_{L+1}`, reverse mode pulls P cotangents through `W_L … W_1`; slopes scale one vector per neuron each. Mixed mode
    takes the order of `optimal_bracketing`.
    """
    widths = problem.widths
    layers = list(pairwise(widths))  # (in, out) of W_1 … W_{L+1}
    hidden = sum(widths[1:-1])
    psi = 0 if problem.activations[-1].linear else problem.P
    evaluation = sum(2 * i * o for i, o in (layers if psi else layers[:-1])) + 2 * (hidden + psi)
    if mode == "forward":
        chain = problem.D * (sum(2 * i * o for i, o in layers[1:]) + hidden + psi)
    elif mode == "reverse":
        chain = problem.P * (sum(2 * i * o for i, o in layers[:-1]) + hidden) + psi * widths[-2]
    elif mode == "mixed":
        order = known_bracketing(widths, problem.batch is not None, problem.scaled)
        products = multiply_adds(order.tree, widths, scaled=False)
        chain = products + order.multiply_adds + psi * problem.D  # a multiply-add counts 2, a scaling 1
    else:
        raise ValueError(f"no operation count for mode {mode!r}; choose forward, reverse or mixed")
    numbers = sizes(problem).parameters + problem.N * (problem.D + problem.P * problem.D)
    return Cost(flops=problem.N * (evaluation + chain), bytes=problem.itemsize * numbers)


def memory_bytes(problem: Problem, mode: str) -> int:
    """Bound the memory: the Jacobian, the parameters, and the two largest consecutive tangents or cotangents are there at the same time."""
    seeds = {"forward": problem.D, "reverse": problem.P}.get(mode, 0)  # what mixed mode carries depends on its order
    widths = problem.widths[1:] if mode == "forward" else problem.widths[:-1]
    carried = problem.N * seeds * max((a + b for a, b in pairwise(widths)), default=0)
    jacobian = problem.N * problem.P * problem.D
    return problem.itemsize * (problem.weights + max(carried, jacobian))


def exact(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Differentiate with autograd.

    Samples do not meet in an MLP, so the gradient of `f(x).sum(0)` with respect to sample n is that sample's own.
    """
    (x,) = inputs
    if x.ndim == 1:
        return (jacobian(mlp, x, vectorize=True),)  # pyright: ignore[reportReturnType]
    summed = jacobian(lambda x: mlp(x).sum(0), x, vectorize=True)  # (P, N, D)
    return (summed.movedim(0, 1),)  # pyright: ignore[reportAttributeAccessIssue]


register_quantity(
    Quantity(
        JACOBIAN,
        "Input Jacobian",
        {
            "forward": "T_1 = S_1 W_1,  T_l = S_l (W_l T_{l-1}),  J = W_{L+1} T_L",
            "reverse": "C = W_{L+1},  C ← (C S_l) W_l for l = L … 1,  J = C",
            "mixed": "J = W_{L+1} S_L W_L … S_1 W_1 in the order with the fewest operations",
        },
        cost,
        exact,
        memory_bytes,
        per_sample=True,
        relabelled=True,
        axes=(0, 1),
        call='J = jac.jacobian(mlp, x, method="{method}")',
    )
)

"""What a mode costs on a problem: floating-point operations and bytes. Pure arithmetic, no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from jacobians.modes.bracketing import known_bracketing, multiply_adds
from jacobians.problem import Problem


@dataclass(frozen=True, slots=True)
class Cost:
    """Work of one Jacobian.

    Attributes:
        flops: Floating-point operations; a multiply-add counts 2, an activation with its slope 2 per neuron.
        bytes: Compulsory traffic: every weight and input read once, the Jacobian written once.
    """

    flops: int
    bytes: int


def cost(problem: Problem, mode: str) -> Cost:
    """Count the work of a mode on a problem.

    The evaluation is shared by all modes: `2 N Σ_{l≤L} in_l out_l`. Forward mode then pushes D tangents through
    `W_2 … W_{L+1}`, reverse mode pulls P cotangents through `W_L … W_1`; slopes scale one vector per neuron each. Mixed mode
    takes the order of `optimal_bracketing`.

    Args:
        problem: Sizes, batch and dtype.
        mode: `"forward"`, `"reverse"` or `"mixed"`.

    Returns:
        Operations and compulsory bytes.

    Raises:
        ValueError: The mode has no operation count.

    Example:
        >>> p = Problem(widths=(2, 30, 30, 10))
        >>> cost(p, "forward").flops < cost(p, "reverse").flops
        True
    """
    widths = problem.widths
    layers = list(pairwise(widths))  # (in, out) of W_1 … W_{L+1}
    hidden = sum(widths[1:-1])
    psi = 0 if problem.activations[-1].linear else problem.P
    evaluated = layers if psi else layers[:-1]
    evaluation = sum(2 * i * o for i, o in evaluated) + 2 * (hidden + psi)
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
    parameters = sum(i * o + (o if problem.bias else 0) for i, o in layers)
    numbers = parameters + problem.N * (problem.D + problem.P * problem.D)
    return Cost(flops=problem.N * (evaluation + chain), bytes=problem.itemsize * numbers)


def memory_bytes(problem: Problem, mode: str) -> int:
    """Bound from below the memory that any method of a mode needs at its peak.

    The Jacobian, the parameters, and the two largest consecutive tangents or cotangents are there at the same time.

    Args:
        problem: Sizes, batch and dtype.
        mode: `"forward"`, `"reverse"` or `"mixed"`.

    Returns:
        Bytes.

    Example:
        >>> memory_bytes(Problem(widths=(1000, 1000, 1)), "forward") >= 4 * 1000 * 1000
        True
    """
    seeds = {"forward": problem.D, "reverse": problem.P}.get(mode, 0)  # what mixed mode carries depends on its order
    widths = problem.widths[1:] if mode == "forward" else problem.widths[:-1]
    carried = problem.N * seeds * max((a + b for a, b in pairwise(widths)), default=0)
    jacobian = problem.N * problem.P * problem.D
    parameters = sum(i * o for i, o in pairwise(problem.widths))
    return problem.itemsize * (parameters + max(carried, jacobian))

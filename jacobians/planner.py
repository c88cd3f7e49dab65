"""The choice of a method for a problem."""

from __future__ import annotations

from dataclasses import dataclass

from jacobians.cost import cost
from jacobians.problem import Problem
from jacobians.registry import Method, Request, find_method


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen method and the reason, in one line."""

    method: Method
    reason: str


def choose(problem: Problem, request: Request = Request()) -> Choice:  # noqa: B008 - frozen
    """Choose the mode with the fewest operations.

    Mixed mode is chosen only where its order is a different one and needs a tenth less than both others.

    Args:
        problem: The problem.
        request: What is wanted besides J.

    Returns:
        The choice; reverse mode where the counts are equal.

    Example:
        >>> choose(Problem(widths=(1000, 1000, 1))).method.name
        'reverse:eager'
        >>> choose(Problem(widths=(1, 1000, 1000))).method.name
        'forward:eager'
        >>> choose(Problem(widths=(256, 512, 8, 512, 256))).method.name
        'mixed:eager'
    """
    forward, reverse, mixed = (cost(problem, mode).flops for mode in ("forward", "reverse", "mixed"))
    mode = "mixed" if mixed < 0.9 * min(forward, reverse) else "forward" if forward < reverse else "reverse"
    return Choice(find_method(mode), f"forward needs {forward:.3g} operations, reverse {reverse:.3g}, mixed {mixed:.3g}")

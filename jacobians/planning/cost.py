"""Cost of a quantity: operations and bytes. Pure arithmetic, no tensors; the formulas stand with the quantity."""

from __future__ import annotations

from jacobians import quantities as quantities  # registers them
from jacobians.planning.registry import Cost, find_quantity
from jacobians.problem import Problem

__all__ = ["Cost", "cost", "memory_bytes"]


def cost(problem: Problem, mode: str) -> Cost:
    """Count the work of a mode on a problem.

    Args:
        problem: Quantity, sizes, batch and dtype.
        mode: One of the modes of the quantity; `"forward"`, `"reverse"` or `"mixed"` for the Jacobian.

    Returns:
        Operations and compulsory bytes.

    Raises:
        ValueError: The mode has no operation count.

    Example:
        >>> p = Problem(widths=(2, 30, 30, 10))
        >>> cost(p, "forward").flops < cost(p, "reverse").flops
        True
    """
    return find_quantity(problem.quantity).cost(problem, mode)


def memory_bytes(problem: Problem, mode: str) -> int:
    """Bound from below the memory that any method of a mode needs at its peak.

    Example:
        >>> memory_bytes(Problem(widths=(1000, 1000, 1)), "forward") >= 4 * 1000 * 1000
        True
    """
    quantity = find_quantity(problem.quantity)
    return quantity.cost(problem, mode).bytes if quantity.memory_bytes is None else quantity.memory_bytes(problem, mode)

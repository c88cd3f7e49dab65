"""The cheapest order in which to multiply the Jacobian chain: a dynamic programme in pure Python.

Write `M(i, j) = W_j S_{j-1} W_{j-1} … S_i W_i` for a segment of the chain. Each segment splits at some layer k,

    M(i, j) = M(k+1, j) · S_k · M(i, k),

and `S_k` scales either the columns of the left part or the rows of the right one. Forward mode always splits off the
last weight, reverse mode the first; any other tree of splits is allowed, and the cheapest is found by trying them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

# A product of two per-sample matrices is many small products, one with a shared weight is a single large one. In torch on two
# cores the former took 0.9 to 2.0 times as long for 16 to 256 wide matrices, in the median 1.25 times (docs/measuring.md).
PER_SAMPLE = 1.25


@dataclass(frozen=True, slots=True)
class Split:
    """One product of the tree: layers `first … last` of the chain, counted from 1, split after layer `at`."""

    first: int
    last: int
    at: int  # the slope `S_at` stands between the two parts
    scales_left: bool  # whether `S_at` scales the columns of the left part, rather than the rows of the right one
    left: Split | None  # tree of layers `at+1 … last`; `None` where that is a single weight
    right: Split | None  # tree of layers `first … at`; `None` where that is a single weight


@dataclass(frozen=True, slots=True)
class Bracketing:
    """A tree of products and what it costs."""

    tree: Split | None  # `None` for a chain of a single weight
    multiply_adds: int  # operations of the products and scalings, per sample
    widths: tuple[int, ...]

    @property
    def mode(self) -> str:
        """`forward` or `reverse` where the tree is one of these, else `mixed`."""
        if self._is_one_sided(forward=False):
            return "reverse"
        return "forward" if self._is_one_sided(forward=True) else "mixed"

    def _is_one_sided(self, forward: bool) -> bool:
        """Say whether each product has a bare weight on the one side, and the slope scales the other."""
        tree = self.tree
        while tree is not None:
            bare, rest = (tree.left, tree.right) if forward else (tree.right, tree.left)
            either_side = tree.left is None and tree.right is None and self.widths[tree.last] == self.widths[tree.first - 1]
            if bare is not None or (tree.scales_left == forward and not either_side):
                return False
            tree = rest
        return True


def optimal_bracketing(widths: Sequence[int], *, batched: bool = False, scaled: bool = True) -> Bracketing:
    """Find the cheapest order of a chain.

    Segments with equal widths have equal costs and are solved once, so a uniform network of L layers takes O(L²) steps, any
    other O(L³).

    Args:
        widths: `(D, K_1, …, P)` of the chain or of a part of it.
        batched: Whether the products are per sample while the weights are shared.
        scaled: Whether slopes stand between the weights; not for a linear network.

    Returns:
        The bracketing. Reverse mode where it is as cheap as any.

    Example:
        >>> best = optimal_bracketing([256, 512, 8, 512, 256])
        >>> best.mode, best.tree.at
        ('mixed', 2)
        >>> optimal_bracketing([1000, 1000, 1000, 1]).mode, optimal_bracketing([1, 1000, 1000, 1000]).mode
        ('reverse', 'forward')

    Source:
        Matrix-chain ordering: Cormen et al., Introduction to Algorithms, section 15.2. For Jacobians: Naumann, Optimal
        Jacobian accumulation and Jacobian chaining, arXiv 2406.11862.
    """
    n = len(widths) - 1
    slow = PER_SAMPLE if batched else 1.0
    slope = 1 if scaled else 0
    names: dict[tuple[int, int], int] = {}  # (name of the segment without its last layer, width added) -> name
    solved: dict[int, tuple[float, int, bool]] = {}  # name -> cost, offset of the split, side of the scaling
    from_first = [[0.0] * (n + 2) for _ in range(n + 2)]  # [i][j]: cost of layers i … j
    to_last = [[0.0] * (n + 2) for _ in range(n + 2)]  # [j][i]: the same, so that either end can be sliced
    named = [[0] * (n + 1) for _ in range(n + 2)]
    for i in range(1, n + 1):
        named[i][i] = names.setdefault((-widths[i - 1], widths[i]), len(names))
    for length in range(2, n + 1):
        for i in range(1, n - length + 2):
            j = i + length - 1
            key = (named[i][j - 1], widths[j])
            name = named[i][j] = names.setdefault(key, len(names))
            if name not in solved:
                solved[name] = _solve(i, j, widths, from_first[i], to_last[j], slow, slope)
            from_first[i][j] = to_last[j][i] = solved[name][0]

    def tree(i: int, j: int) -> Split | None:
        if i == j:
            return None
        _, offset, scales_left = solved[named[i][j]]
        at = i + offset
        return Split(i, j, at, scales_left, tree(at + 1, j), tree(i, at))

    root = tree(1, n)
    return Bracketing(root, multiply_adds(root, widths, scaled=scaled), tuple(widths))


@lru_cache(maxsize=4096)
def known_bracketing(widths: tuple[int, ...], batched: bool, scaled: bool) -> Bracketing:
    """Return `optimal_bracketing`, looked for once."""
    return optimal_bracketing(widths, batched=batched, scaled=scaled)


def _solve(
    i: int, j: int, widths: Sequence[int], up_to: list[float], down_from: list[float], slow: float, slope: int
) -> tuple[float, int, bool]:
    """Try every split of a segment: its cost, the offset of the best split, and the side that the slope scales there."""
    rows, columns = widths[j], widths[i - 1]
    area = rows * columns
    # Reverse mode's split first, forward mode's last: min() prefers the former on a tie. There a part that is not
    # scaled is a bare weight, which all samples share.
    ends: list[tuple[float, int, bool]] = []
    for k in (i, j - 1):
        left = area * (1.0 if k == i else slow) + slope * rows
        right = area * (1.0 if k == j - 1 else slow) + slope * columns
        scales_left = left < right or (left == right and k == i)
        ends.append((up_to[k] + down_from[k + 1] + widths[k] * min(left, right), k - i, scales_left))
    best = ends[0] if ends[0][0] <= ends[1][0] else ends[1]
    each = slow * area + slope * min(rows, columns)
    inner = [a + b + w * each for a, b, w in zip(up_to[i + 1 : j - 1], down_from[i + 2 : j], widths[i + 1 : j - 1], strict=True)]
    if inner and min(inner) < best[0]:
        cheapest = min(inner)
        best = (cheapest, 1 + inner.index(cheapest), rows <= columns)
    return best


def multiply_adds(tree: Split | None, widths: Sequence[int], *, scaled: bool = True) -> int:
    """Count the operations of a tree, for one sample."""
    if tree is None:
        return 0
    rows, inner, columns = widths[tree.last], widths[tree.at], widths[tree.first - 1]
    scaling = inner * (rows if tree.scales_left else columns) if scaled else 0
    parts = multiply_adds(tree.left, widths, scaled=scaled) + multiply_adds(tree.right, widths, scaled=scaled)
    return rows * inner * columns + scaling + parts

"""A problem: the quantity, the sizes and the types that decide how expensive it is. No tensors live here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from operator import index

from jacobians.network.activations import Activation, activation, per_layer

MOST_LAYERS = 10_000
MOST_WIDE = 2**40  # no memory holds more numbers; nor samples
DTYPES = ("float16", "bfloat16", "float32", "float64")


def check_widths(widths: Sequence[int]) -> tuple[int, ...]:
    """Return `widths` as a tuple of at least two integers, each at least 1."""
    if len(widths) > MOST_LAYERS + 1:
        raise ValueError(f"widths has {len(widths)} entries; give at most {MOST_LAYERS + 1}")
    for width in widths:
        if not is_integer(width):
            raise TypeError(f"widths must be integers, got {width!r} in {list(widths)}; pass e.g. widths=[784, 50, 10]")
        if width < 1:
            raise ValueError(f"widths must be at least 1, got {width} in {list(widths)}; remove or enlarge that layer")
        if width > MOST_WIDE:
            raise ValueError(f"widths must be at most {MOST_WIDE}, got {width}; no memory holds such a layer")
    if len(widths) < 2:
        raise ValueError(f"widths needs an input and an output, got {list(widths)}; pass e.g. widths=[2, 30, 10]")
    return tuple(map(index, widths))


def is_integer(value: object) -> bool:
    """Say whether a value is an integer, Python's or NumPy's, and no truth value.

    Example:
        >>> import numpy
        >>> is_integer(numpy.int64(3)), is_integer(True), is_integer(3.0)
        (True, False, False)
    """
    return hasattr(value, "__index__") and not isinstance(value, bool) and type(value).__name__ not in {"bool", "bool_", "Tensor"}


def uniform_widths(L: int, D: int, K: int, P: int) -> tuple[int, ...]:
    """Return `(D, K, …, K, P)` with `L` hidden layers.

    Example:
        >>> uniform_widths(L=3, D=2, K=5, P=4)
        (2, 5, 5, 5, 4)
    """
    if not is_integer(L):
        raise TypeError(f"L must be an integer, got {L!r}; pass the number of hidden layers")
    if L < 0:
        raise ValueError(f"L must be at least 0, got {L}; L counts the hidden layers")
    if L >= MOST_LAYERS:
        raise ValueError(f"L must be below {MOST_LAYERS}, got {L}; L counts the hidden layers")
    return check_widths((D, *[K] * L, P))


@dataclass(frozen=True, slots=True)
class Problem:
    """The description that a method is chosen by: widths, batch, activations, dtype and device.

    Args:
        widths: `(D, K_1, …, K_L, P)`.
        batch: Number of samples, or `None` for a single `x` of shape `(D,)`.
        activation: Hidden activation φ by its text, e.g. `"leaky_relu(negative_slope=0.2)"`; one per hidden layer joined by `;`.
        output_activation: Output activation ψ.
        bias: Whether any layer has a bias.
        dtype: Name of the floating-point type, e.g. `"float32"`.
        device: Torch device, e.g. `"cpu"` or `"cuda"`.
        quantity: What is computed, e.g. `"gradient"`.
        structure: Why the network is no chain of layers, and is computed step by step; empty for a chain.
        loss: The text of the loss, e.g. `"mse"` or `"l1(reduction=sum)"`, of quantities that have one.
        asked: The derivatives that are asked for, of the quantity of that name, e.g. `"y y_x0 y_{x0,x0}"`.

    Raises:
        TypeError: A width or the batch is not an integer.
        ValueError: A size or the dtype is out of range.

    Example:
        >>> p = Problem(widths=(2, 30, 30, 10))
        >>> p.L, p.D, p.K, p.P, p.N
        (2, 2, 30, 10, 1)
    """

    widths: tuple[int, ...]
    batch: int | None = None
    activation: str = "tanh"
    output_activation: str = "identity"
    bias: bool = False
    dtype: str = "float32"
    device: str = "cpu"
    quantity: str = "jacobian"
    loss: str | None = None
    asked: str | None = None
    structure: str = ""

    def __post_init__(self) -> None:
        """Refuse sizes that no network has."""
        object.__setattr__(self, "widths", check_widths(self.widths))
        if self.batch is not None and not is_integer(self.batch):
            raise TypeError(f"batch must be an integer or None, got {self.batch!r}; use None for a single x of shape (D,)")
        if self.batch is not None and self.batch < 0:
            raise ValueError(f"batch must be at least 0, got {self.batch}; use None for a single x of shape (D,)")
        if self.batch is not None and self.batch > MOST_WIDE:
            raise ValueError(f"batch must be at most {MOST_WIDE}, got {self.batch}; no memory holds so many samples")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")

    @property
    def activations(self) -> tuple[Activation, ...]:
        """φ_1 … φ_L and ψ."""
        return _activations(self.activation, self.output_activation, self.L)

    @property
    def scaled(self) -> bool:
        """Whether slopes stand between the weights; not in a linear network."""
        return not all(rule.linear for rule in self.activations[:-1])

    @property
    def L(self) -> int:
        """Number of hidden layers."""
        return len(self.widths) - 2

    @property
    def D(self) -> int:
        """Input width."""
        return self.widths[0]

    @property
    def P(self) -> int:
        """Output width."""
        return self.widths[-1]

    @property
    def K(self) -> int | None:
        """The hidden width when all hidden layers share it, else `None`."""
        hidden = set(self.widths[1:-1])
        return hidden.pop() if len(hidden) == 1 else None

    @property
    def N(self) -> int:
        """Number of samples; 1 for a single unbatched `x`."""
        return 1 if self.batch is None else self.batch

    @property
    def weights(self) -> int:
        """Numbers of all weights together."""
        return sum(i * o for i, o in pairwise(self.widths))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of `x`: `(D,)` or `(N, D)`."""
        return (self.D,) if self.batch is None else (self.batch, self.D)

    @property
    def jacobian_shape(self) -> tuple[int, ...]:
        """Shape of `J`: `(P, D)` or `(N, P, D)`."""
        return (self.P, self.D) if self.batch is None else (self.batch, self.P, self.D)

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[self.dtype]

    def with_(self, **changes: object) -> Problem:
        """Return a copy with some fields replaced."""
        return replace(self, **changes)  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=1024)
def _activations(hidden: str, output: str, layers: int) -> tuple[Activation, ...]:
    return (*per_layer(hidden, layers), activation(output))

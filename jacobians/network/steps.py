"""Networks that are no plain chain, as a sequence of steps: skips, gates, norms, features, constants.

Each step states its value, its pushforward, its pullback and its second order once; the modes of `jacobians.modes.steps` are walks over the
steps. Values have shape (N, width), tangents and cotangents (N, m, width), where N may be 1 for what is the same for all samples. A step
reads its parameters and buffers at each call.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacobians.network.activations import Activation, Rule

Pair = Callable[[Tensor, Tensor], Tensor]  # contracts the products of two sets of tangents, as a Hessian or a Laplacian does
Slot = tuple[dict[str, Any], str, str]  # the attributes of a module, which of its tables, and a name there
Operand = float | Slot


class Step:
    """One step: from the values of earlier steps, by their numbers (0 is x), to another; where its tensors stand, and its settings."""

    bends = True  # whether the second order is known

    def __init__(self, inputs: Sequence[int], slots: Sequence[Slot | None] = (), *settings: object) -> None:
        self.inputs, self.slots, self.settings = tuple(inputs), tuple(slots), settings

    def tensors(self) -> list[Tensor | None]:
        """Return its tensors as they are now."""
        return [None if slot is None else slot[0][slot[1]].get(slot[2]) for slot in self.slots]

    def value(self, p: Sequence[Any], *h: Tensor) -> Tensor:
        """Return its value."""
        raise NotImplementedError

    def push(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor]) -> Tensor:
        """Push tangents of its inputs."""
        raise NotImplementedError

    def pull(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, C: Tensor) -> list[Tensor]:
        """Pull cotangents of its value to each input; as tangents are pushed, where the derivative is a diagonal matrix."""
        return [self.push(p, h, y, [C])]

    def bend(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor], pair: Pair) -> Tensor | None:
        """Return the second derivative along pairs of tangents; `None` where it is linear."""
        return None

    def description(self) -> tuple[object, ...]:
        """Return what makes it this step."""
        return type(self), self.inputs, [None if s is None else (id(s[0]), *s[1:]) for s in self.slots], *self.settings


class Affine(Step):
    """`W h + b`."""

    def value(self, p: Sequence[Any], *h: Tensor) -> Tensor:
        return F.linear(h[0], p[0], p[1])

    def push(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor]) -> Tensor:
        """Return `W T`."""
        return F.linear(T[0], p[0])

    def pull(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, C: Tensor) -> list[Tensor]:
        """Return `Wᵀ C`."""
        return [C @ p[0]]


class Features(Affine):
    """`h B`: an affine step whose matrix stands the other way round."""

    def tensors(self) -> list[Tensor | None]:
        """Return `Bᵀ`."""
        B, _ = super().tensors()
        assert B is not None
        return [B.mT, None]


class Elementwise(Step):
    """`φ(z)`, of the table or of three functions `(z, h)`: value, slope and curvature."""

    def __init__(self, inputs: Sequence[int], rule: Activation | Rule) -> None:
        super().__init__(inputs, (), rule)
        self.rule = rule

    def value(self, p: Sequence[Any], *h: Tensor) -> Tensor:
        return self.rule.value(h[0])

    def _by(self, which: str, h: Sequence[Tensor], y: Tensor) -> Tensor | None:
        found = getattr(self.rule, which)(h[0], y)
        return None if found is None else found[:, None]

    def push(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor]) -> Tensor:
        """Return `φ' T`."""
        slope = self._by("slope", h, y)
        return T[0] if slope is None else T[0] * slope

    def bend(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor], pair: Pair) -> Tensor | None:
        """Return `φ'' T T`."""
        curvature = self._by("curvature", h, y)
        return None if curvature is None else curvature * pair(T[0], T[0])


class Coupled(Elementwise):
    """Softmax and its logarithm."""

    bends = False

    def push(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor]) -> Tensor:
        """Return `S T`."""
        assert isinstance(self.rule, Activation)
        return self.rule.push(y, T[0].mT).mT

    def pull(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, C: Tensor) -> list[Tensor]:
        """Return `Sᵀ C`."""
        assert isinstance(self.rule, Activation)
        return [self.rule.pull(y[:, None], C)]


class Kink(Step):
    """PReLU, whose slope on the left is a parameter: of all neurons, or of each."""

    def value(self, p: Sequence[Any], *h: Tensor) -> Tensor:
        return torch.where(h[0] > 0, h[0], p[0] * h[0])

    def push(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor]) -> Tensor:
        """Return `φ' T`."""
        return T[0] * torch.where(h[0] > 0, 1.0, p[0])[:, None]


class Constant(Step):
    """`h ∘ c`, `h / c`, `h + c`, `h - c` or `c - h`, with a number or a tensor of one number, or of one each."""

    def __init__(self, inputs: Sequence[int], kind: str, operand: Operand) -> None:
        stands = isinstance(operand, tuple)
        super().__init__(inputs, [operand] if stands else [], kind, None if stands else operand)
        self.kind, self._number = kind, operand

    def tensors(self) -> list[Any]:
        return super().tensors() or [self._number]

    def value(self, p: Sequence[Any], *h: Tensor) -> Tensor:
        (z,), c = h, p[0]
        if isinstance(c, Tensor) and c.ndim and c.shape[-1] not in (1, z.shape[-1]):
            raise ValueError(f"a constant of {c.shape[-1]} numbers is combined with values of {z.shape[-1]}; make both as wide")
        return _COMBINE[self.kind](z, c)

    def push(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor]) -> Tensor:
        """Return `c T`, `T / c`, T or -T."""
        if self.kind in ("add", "sub"):
            return T[0]
        return -T[0] if self.kind == "from" else T[0] * p[0] if self.kind == "mul" else T[0] / p[0]


class Sum(Step):
    """`h ± g`: a skip."""

    def __init__(self, inputs: Sequence[int], sign: int = 1) -> None:
        super().__init__(inputs, (), sign)
        self.sign = sign

    def value(self, p: Sequence[Any], *h: Tensor) -> Tensor:
        _same_width(h)
        return h[0] + h[1] if self.sign > 0 else h[0] - h[1]

    def push(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor]) -> Tensor:
        return T[0] + T[1] if self.sign > 0 else T[0] - T[1]

    def pull(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, C: Tensor) -> list[Tensor]:
        return [C, C if self.sign > 0 else -C]


class Product(Step):
    """`h ∘ g`: a gate."""

    def value(self, p: Sequence[Any], *h: Tensor) -> Tensor:
        _same_width(h)
        return h[0] * h[1]

    def push(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor]) -> Tensor:
        """Return `T_h g + h T_g`."""
        return T[0] * h[1][:, None] + T[1] * h[0][:, None]

    def pull(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, C: Tensor) -> list[Tensor]:
        """Return `g C` and `h C`."""
        return [C * h[1][:, None], C * h[0][:, None]]

    def bend(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor], pair: Pair) -> Tensor | None:
        """Return `2 T_h T_g`."""
        return 2 * pair(T[0], T[1])


class Join(Step):
    """Values one behind the other: a dense skip."""

    def value(self, p: Sequence[Any], *h: Tensor) -> Tensor:
        return torch.cat(h, -1)

    def push(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor]) -> Tensor:
        N = next((t.shape[0] for t in T if t.shape[0] != 1), 1)
        return torch.cat([t.expand(N, -1, -1) for t in T], -1)

    def pull(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, C: Tensor) -> list[Tensor]:
        return list(C.split([t.shape[-1] for t in h], -1))


class Part(Step):
    """Some of the features, side by side."""

    def __init__(self, inputs: Sequence[int], index: slice) -> None:
        super().__init__(inputs, (), (index.start, index.stop))
        self.index = index

    def value(self, p: Sequence[Any], *h: Tensor) -> Tensor:
        return h[0][..., self.index]

    def push(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor]) -> Tensor:
        return T[0][..., self.index]

    def pull(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, C: Tensor) -> list[Tensor]:
        """Put zeros around the cotangents."""
        start, stop, _ = self.index.indices(h[0].shape[-1])
        return [F.pad(C, (start, h[0].shape[-1] - stop))]


class Norm(Step):
    """LayerNorm and RMSNorm: `γ n + β`, `n = c / σ`, with `c = h - mean(h)`, `σ² = mean(c²) + ε`; RMSNorm takes `c = h`.

    Source:
        Ba, Kiros & Hinton, Layer Normalization, arXiv 1607.06450 (2016); Zhang & Sennrich, Root Mean Square Layer Normalization (2019).
    """

    def __init__(self, inputs: Sequence[int], slots: Sequence[Slot | None], eps: float | None, centred: bool) -> None:
        super().__init__(inputs, slots, eps, centred)
        self.eps, self.centred = eps, centred

    def _parts(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return n and 1 / σ."""
        c = self._centre(h)
        eps = torch.finfo(h.dtype).eps if self.eps is None else self.eps
        inverse = torch.rsqrt(c.square().mean(-1, keepdim=True) + eps)
        return c * inverse, inverse

    def _centre(self, t: Tensor) -> Tensor:
        return t - t.mean(-1, keepdim=True) if self.centred else t

    def value(self, p: Sequence[Any], *h: Tensor) -> Tensor:
        n, _ = self._parts(h[0])
        n = n if p[0] is None else p[0] * n
        return n if p[1] is None else n + p[1]

    def push(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor]) -> Tensor:
        """Return `γ (c - n mean(n c)) / σ` with c the tangents, centred."""
        n, inverse = (t[:, None] for t in self._parts(h[0]))
        c = self._centre(T[0])
        out = (c - n * (n * c).mean(-1, keepdim=True)) * inverse
        return out if p[0] is None else p[0] * out

    def pull(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, C: Tensor) -> list[Tensor]:
        """Do the same with `γ C`: but for γ the step is symmetric."""
        return [self.push((None, None), h, y, [C if p[0] is None else p[0] * C])]

    def bend(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor], pair: Pair) -> Tensor | None:
        """Return `-γ (2 c s + n (mean(c c) - 3 s s)) / σ²` along pairs, with s = mean(n c)."""
        n, inverse = (t[:, None] for t in self._parts(h[0]))
        c = self._centre(T[0])
        s = (n * c).mean(-1, keepdim=True)
        out = 2 * pair(c, s) + n * (pair(c, c).mean(-1, keepdim=True) - 3 * pair(s, s))
        out = -out * inverse.square()
        return out if p[0] is None else p[0] * out


class BatchNorm(Step):
    """BatchNorm1d in eval mode: `g h + c` with the running statistics as they are."""

    def __init__(self, inputs: Sequence[int], slots: Sequence[Slot | None], eps: float) -> None:
        super().__init__(inputs, slots, eps)
        self.eps = eps

    def _factor(self, p: Sequence[Any]) -> Tensor:
        g = torch.rsqrt(p[1] + self.eps)
        return g if p[2] is None else g * p[2]

    def value(self, p: Sequence[Any], *h: Tensor) -> Tensor:
        out = (h[0] - p[0]) * self._factor(p)
        return out if p[3] is None else out + p[3]

    def push(self, p: Sequence[Any], h: Sequence[Tensor], y: Tensor, T: Sequence[Tensor]) -> Tensor:
        """Return `g T`."""
        return T[0] * self._factor(p)


_COMBINE = {"mul": operator.mul, "div": operator.truediv, "add": operator.add, "sub": operator.sub, "from": lambda z, c: c - z}
COSINE = Rule(torch.cos, lambda z, h: -torch.sin(z), lambda z, h: -h, lambda z, h: torch.sin(z), nn.Identity, "numpy.cos")


def _same_width(h: Sequence[Tensor]) -> None:
    if h[0].shape[-1] != h[1].shape[-1]:
        raise ValueError(f"values of {h[0].shape[-1]} and {h[1].shape[-1]} numbers are combined; make both as wide")

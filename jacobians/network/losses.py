"""Losses: one aligned table, name -> value, cotangent, what a mean is over. Names, reductions and defaults are torch's.

`cotangent` is the derivative of the value with respect to y, `curvature` the second one times a vector, both written by hand; saturated
logits do not overflow in any.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from jacobians.names import unknown
from jacobians.planning import transforms

REDUCTIONS = ("mean", "sum", "none")
_LEAST_LOG = -100.0  # torch bounds the logarithm of `bce` there, so that a wrong certainty costs 100 and not infinity
_LEAST_PRODUCT = 1e-12  # and y (1 - y) in its derivative


class Rule(NamedTuple):
    """A row of the table."""

    value: Callable[[Tensor, Tensor], Tensor]  # `(y, t) -> loss` per element, or per sample where classes are counted together
    cotangent: Callable[[Tensor, Tensor], Tensor]  # `(y, t) -> ∂value/∂y`, of the shape of y
    curvature: Callable[[Tensor, Tensor, Tensor], Tensor]  # `(y, t, u) -> (∂²value/∂y²) u`, of the shape of y
    per_sample: bool = False  # whether the value is one number per sample, over which a mean is taken; else one per element
    classes: bool = False  # whether the target may be class indices


def _bce(y: Tensor, t: Tensor) -> Tensor:
    return -(t * torch.log(y).clamp_min(_LEAST_LOG) + (1 - t) * torch.log1p(-y).clamp_min(_LEAST_LOG))


def _bce_cotangent(y: Tensor, t: Tensor) -> Tensor:
    return (y - t) / (y * (1 - y)).clamp_min(_LEAST_PRODUCT)


def _bce_curvature(y: Tensor, t: Tensor, u: Tensor) -> Tensor:
    limits = torch.finfo(y.dtype)  # a bound like torch's would be seen behind a saturated sigmoid
    return u * (t / y.square().clamp_min(limits.tiny) + (1 - t) / (1 - y).clamp_min(limits.eps / 2).square())


def _logits(z: Tensor, t: Tensor) -> Tensor:
    return z.clamp_min(0) - z * t + torch.log1p(torch.exp(-z.abs()))  # log(1 + exp(z)) - z t without overflow


def _entropy(z: Tensor, t: Tensor) -> Tensor:
    return -(_probabilities(z, t) * torch.log_softmax(z, dim=-1)).sum(-1)


def _entropy_cotangent(z: Tensor, t: Tensor) -> Tensor:
    p = _probabilities(z, t)
    return torch.softmax(z, dim=-1) * p.sum(-1, keepdim=True) - p


def _entropy_curvature(z: Tensor, t: Tensor, u: Tensor) -> Tensor:
    p = torch.softmax(z, dim=-1)
    return (p * u - p * (p * u).sum(-1, keepdim=True)) * _probabilities(z, t).sum(-1, keepdim=True)


def _sigmoid_curvature(z: Tensor, t: Tensor, u: Tensor) -> Tensor:
    p = torch.sigmoid(z)
    return p * (1 - p) * u


def _probabilities(z: Tensor, t: Tensor) -> Tensor:
    if t.is_floating_point():
        return t
    p = (t[..., None] == torch.arange(z.shape[-1], device=t.device)).to(z.dtype)  # `one_hot` looks at the numbers, which not all can be
    if transforms.active():  # nobody has looked at them
        p = torch.where(((t >= 0) & (t < z.shape[-1]))[..., None], p, torch.nan)
    return p


# fmt: off
RULES: dict[str, Rule] = {
    #                       value                          cotangent                          curvature                 per sample   classes
    "mse":             Rule(lambda y, t: (y - t) ** 2,     lambda y, t: 2 * (y - t),          lambda y, t, u: 2 * u),
    "l1":              Rule(lambda y, t: (y - t).abs(),    lambda y, t: torch.sign(y - t),    lambda y, t, u: 0 * u),   # 0 at the kink
    "bce":             Rule(_bce,                          _bce_cotangent,                    _bce_curvature),
    "bce_with_logits": Rule(_logits,                       lambda z, t: torch.sigmoid(z) - t, _sigmoid_curvature),
    "cross_entropy":   Rule(_entropy,                      _entropy_cotangent,                _entropy_curvature,       True,        True),
}
# fmt: on


class Loss:
    """A loss with its reduction and a factor: `scale · reduce(value)`. Immutable.

    Args:
        name: One of the names of the table: `mse`, `l1`, `bce`, `bce_with_logits`, `cross_entropy`.
        reduction: `"mean"` over elements (over samples for `cross_entropy`), `"sum"`, or `"none"`.
        scale: Factor of the loss.

    Raises:
        TypeError: The name is not a string, or the scale is not a number.
        ValueError: The name or the reduction is unknown, or the scale is not finite.

    Example:
        >>> loss = Loss("mse", scale=0.5)
        >>> y, t = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 1.0]])
        >>> loss.value(y, t), loss.cotangent(y, t)
        (tensor(1.2500), tensor([[0.5000, 1.0000]]))
    """

    __slots__ = ("_rule", "name", "reduction", "scale")

    def __init__(self, name: str, reduction: str = "mean", scale: float = 1.0) -> None:
        if not isinstance(name, str):
            raise TypeError(f"loss must be a name or a Loss, got {type(name).__name__}; choose from {', '.join(RULES)}")
        if name not in RULES:
            raise ValueError(unknown("loss", name, RULES))
        if reduction not in REDUCTIONS:
            raise ValueError(unknown("reduction", reduction, REDUCTIONS))
        if isinstance(scale, bool) or not isinstance(scale, int | float):
            raise TypeError(f"scale must be a number, got {scale!r}")
        if not math.isfinite(scale):
            raise ValueError(f"scale must be finite, got {scale}")
        self.name, self.reduction, self.scale = name, reduction, float(scale)
        self._rule = RULES[name]

    @property
    def per_sample(self) -> bool:
        """Whether a mean is over samples, not over elements."""
        return self._rule.per_sample

    @property
    def classes(self) -> bool:
        """Whether the target may be class indices."""
        return self._rule.classes

    def __str__(self) -> str:
        """Write it as a row of results does: the name, and what differs from the defaults."""
        given = [f"reduction={self.reduction}"] if self.reduction != "mean" else []
        given += [f"scale={self.scale!r}"] if self.scale != 1 else []
        return f"{self.name}({', '.join(given)})" if given else self.name

    def value(self, y: Tensor, target: Tensor) -> Tensor:
        """Return the loss.

        Args:
            y: Outputs, (P,) or (N, P).
            target: Of the shape of y; class indices, () or (N,), where the loss takes them.

        Returns:
            A scalar; with `"none"` one number per element, or per sample for `cross_entropy`.

        Raises:
            TypeError: The target has the wrong dtype.
            ValueError: The target does not fit y.
        """
        return self._value(y, self.checked(y, target))

    def _value(self, y: Tensor, target: Tensor) -> Tensor:
        value = self.scale * self._rule.value(y, target)
        return {"mean": torch.mean, "sum": torch.sum, "none": lambda v: v}[self.reduction](value)

    def value_and_cotangent(self, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `value` and `cotangent` do, looking at the target once: on a GPU each look waits for the device."""
        target = self.checked(y, target)
        return self._value(y, target), self._reduced(self._rule.cotangent(y, target), y)

    def cotangent(self, y: Tensor, target: Tensor) -> Tensor:
        """Return `∂L/∂y`, of the shape of y and of what `value` takes; of the sum of all values where nothing is reduced."""
        return self._reduced(self._rule.cotangent(y, self.checked(y, target)), y)

    def curvature(self, y: Tensor, target: Tensor, u: Tensor) -> Tensor:
        """Return `(∂²L/∂y²) u` for a tangent u of the outputs, of their shape, as `cotangent` does."""
        return self._reduced(self._rule.curvature(y, self.checked(y, target), u), y)

    def _reduced(self, C: Tensor, y: Tensor) -> Tensor:
        """Scale a derivative of the sum of all values to one of the reduced loss."""
        if self.reduction == "mean":
            count = (y.shape[0] if y.ndim == 2 else 1) if self._rule.per_sample else y.numel()
            return C * (self.scale / count) if count else C
        return C if self.scale == 1 else self.scale * C

    def cotangent_of_each(self, y: Tensor, target: Tensor) -> Tensor:
        """Return `∂L_n/∂y_n` (N, P) of every sample's own loss, as if it were a batch of one."""
        C = self.scale * self._rule.cotangent(y, self.checked(y, target))
        return C / y.shape[-1] if self.reduction == "mean" and not self._rule.per_sample else C

    def checked(self, y: Tensor, target: Tensor) -> Tensor:
        """Return the target, refusing one that does not fit, and class indices out of range."""
        self.check_shape(y, target)
        if self._rule.classes and not target.is_floating_point():
            if target.is_meta or transforms.active() or (target.is_cuda and torch.cuda.is_current_stream_capturing()):
                return target  # there is nothing to look at; or a CUDA graph is recorded, and it was looked at in the calls before that
            low, high = torch.stack(torch.aminmax(target)).tolist() if target.numel() else (0, 0)
            if not 0 <= low <= high < y.shape[-1]:
                raise ValueError(f"class indices must lie in 0 … {y.shape[-1] - 1}, got {low} … {high}")
        return target

    def check_shape(self, y: Tensor, target: Tensor) -> None:
        """Refuse a target whose shape or dtype does not fit."""
        if not isinstance(target, Tensor):
            raise TypeError(f"target must be a torch.Tensor, got {type(target).__name__}; convert it with torch.as_tensor")
        if self._rule.classes and not target.is_floating_point():
            if target.shape != y.shape[:-1]:
                raise ValueError(f"class indices must have shape {tuple(y.shape[:-1])}, got {tuple(target.shape)}")
            if target.dtype != torch.int64:
                raise TypeError(f"class indices must be torch.int64, got {target.dtype}; convert them with target.long()")
            return
        if target.shape != y.shape:
            raise ValueError(f"target must have the shape of y, {tuple(y.shape)}, got {tuple(target.shape)}")
        if target.dtype != y.dtype:
            raise TypeError(f"target must be {y.dtype}, as y is, got {target.dtype}; convert it with target.to({y.dtype})")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loss) and str(self) == str(other)

    def __reduce__(self) -> tuple[object, ...]:
        return Loss, (self.name, self.reduction, self.scale)

    def __hash__(self) -> int:
        """Hash it: plans are kept by the loss they were made for."""
        return hash((self.name, self.reduction, self.scale))

    def __repr__(self) -> str:
        return f"Loss({self.name!r}, reduction={self.reduction!r}, scale={self.scale:g})"


def loss_of(given: str | Loss) -> Loss:
    """Return a loss from its name, or from the text of one.

    Example:
        >>> loss_of("l1"), loss_of("mse(reduction=sum, scale=0.5)")
        (Loss('l1', reduction='mean', scale=1), Loss('mse', reduction='sum', scale=0.5))
    """
    if isinstance(given, Loss):
        return given
    if not isinstance(given, str) or "(" not in given:
        return Loss(given)
    name, _, rest = given.rstrip(")").partition("(")
    reduction, scale = "mean", 1.0
    for part in filter(None, rest.split(",")):
        key, _, value = part.strip().partition("=")
        if key == "reduction":
            reduction = value.strip("'\"")
        elif key == "scale":
            try:
                scale = float(value)
            except ValueError:
                raise ValueError(f"scale must be a number, got {value!r} in {given!r}") from None
        else:
            raise ValueError(f"a loss has no setting {key!r}; its settings: reduction, scale")
    return Loss(name, reduction, scale)

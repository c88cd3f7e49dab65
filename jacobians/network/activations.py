"""Elementary functions: one aligned table, name -> value, slope, curvature, third derivative, torch module, JAX function, settings.

The fourth derivatives, for Taylor mode alone, stand in a table below it.

A row holds everything about its activation: `MLP`, `from_torch`, `to_torch`, the JAX peer and the C kernels (by name) derive from it.
Slopes are finite for every finite `z`, and agree with the derivative that `torch.autograd` uses (0 for ReLU at 0). At a kink the higher
derivatives are those of the piece that the slope is taken from.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacobians.names import unknown as unknown_name
from jacobians.network.coupled import OUTPUTS, Coupled

_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al., arXiv 1706.02515
_GELU_CUBE = 0.044715  # of the tanh form: Hendrycks & Gimpel, arXiv 1606.08415


class Sine(nn.Module):
    """`sin(ω z)`, the activation of SIREN (Sitzmann et al. 2020), as a torch module."""

    def __init__(self, omega: float = 1.0) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, z: Tensor) -> Tensor:
        return torch.sin(self.omega * z)


class Exp(nn.Module):
    """`exp(z)` as a torch module."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.exp(z)


class LogCosh(nn.Module):
    """`log cosh z` as a torch module."""

    def forward(self, z: Tensor) -> Tensor:
        return _log_cosh(z)


class Rule(NamedTuple):
    """A row of the table. Settings are passed by name."""

    value: Callable[..., Tensor]  # `(z, **settings) -> h`
    slope: Callable[..., Tensor] | None  # `(z, h, **settings) -> φ'(z)`, by the cheaper of `z` and `h`; `None` where it is one everywhere
    curvature: Callable[..., Tensor] | None  # `(z, h, **settings) -> φ''(z)`; `None` where it is zero everywhere
    third: Callable[..., Tensor] | None  # `(z, h, **settings) -> φ'''(z)`; `None` where it is zero everywhere
    module: Callable[..., nn.Module]  # torch's; its constructor and its attributes have the names of the settings
    jax: str | Callable[..., Any]  # JAX's own: its place below `jax`, called with z and the settings, or `(jax, z, *settings) -> h`
    settings: Mapping[str, float | str] = {}  # the name of each to its default, which is torch's


def _gate(w: Tensor, w1: Tensor | float, w2: Tensor | float, w3: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Return `p', p'', p'''` of `p = σ(w(z))` from w and its derivatives."""
    p = torch.sigmoid(w)
    d = p * torch.sigmoid(-w)  # 1 - p cancels in the right tail
    odd = 1 - 2 * p
    return d * w1, d * (odd * w1 * w1 + w2), d * ((odd * odd - 2 * d) * w1 * w1 * w1 + 3 * odd * w1 * w2 + w3)


def _gelu_gate(z: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Return w and its derivatives, of the tanh form `z σ(w)`: (1 + tanh u) / 2 without its cancellation in the left tail."""
    near = z.clamp(-1e3, 1e3)  # beyond, σ(w) is 0 or 1, its derivatives are 0 and the products must be
    a = 2 * _SQRT_2_OVER_PI
    w = a * (near + _GELU_CUBE * near * near * near)
    return w, a * (1 + 3 * _GELU_CUBE * near * near), a * 6 * _GELU_CUBE * near, a * 6 * _GELU_CUBE


def _gelu_slope(z: Tensor, h: Tensor, approximate: str) -> Tensor:
    if approximate == "tanh":
        w, *derivatives = _gelu_gate(z)
        return torch.sigmoid(w) + z * _gate(w, *derivatives)[0]
    # Φ(z) + z φ(z); erfc keeps its relative accuracy in the left tail, where 1 + erf cancels.
    return 0.5 * torch.erfc(-_SQRT_HALF * z) + z * (_INV_SQRT_2PI * torch.exp(-0.5 * z * z))


def _gelu_curvature(z: Tensor, h: Tensor, approximate: str) -> Tensor:
    if approximate == "tanh":
        p1, p2, _ = _gate(*_gelu_gate(z))
        return 2 * p1 + z * p2
    near = z.clamp(-1e3, 1e3)  # the density is 0 beyond
    return _INV_SQRT_2PI * torch.exp(-0.5 * near * near) * (2 - near * near)


def _gelu_third(z: Tensor, h: Tensor, approximate: str) -> Tensor:
    if approximate == "tanh":
        _, p2, p3 = _gate(*_gelu_gate(z))
        return 3 * p2 + z * p3
    near = z.clamp(-1e3, 1e3)
    return _INV_SQRT_2PI * torch.exp(-0.5 * near * near) * near * (near * near - 4)


def _softplus_slope(z: Tensor, h: Tensor, beta: float, threshold: float) -> Tensor:
    return torch.where(beta * z > threshold, 1.0, torch.sigmoid(beta * z))  # the identity above the threshold


def _softplus_curvature(z: Tensor, h: Tensor, beta: float, threshold: float) -> Tensor:
    v = beta * z
    return torch.where(v > threshold, 0.0, beta * torch.sigmoid(v) * torch.sigmoid(-v))


def _softplus_third(z: Tensor, h: Tensor, beta: float, threshold: float) -> Tensor:
    return _softplus_curvature(z, h, beta, threshold) * beta * (1 - 2 * torch.sigmoid(beta * z))


def _jax_softplus(jax: Any, z: Any, beta: float, threshold: float) -> Any:
    return jax.numpy.where(beta * z > threshold, z, jax.nn.softplus(beta * z) / beta)


def _silu_slope(z: Tensor, h: Tensor) -> Tensor:
    p = torch.sigmoid(z)
    return p + h * (1 - p)


def _silu_curvature(z: Tensor, h: Tensor) -> Tensor:
    p1, p2, _ = _gate(z, 1.0, 0.0, 0.0)
    return 2 * p1 + z * p2


def _silu_third(z: Tensor, h: Tensor) -> Tensor:
    _, p2, p3 = _gate(z, 1.0, 0.0, 0.0)
    return 3 * p2 + z * p3


def _mish_parts(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return t = tanh(log(1 + e^z)), 1 - t² and σ(z), none of which cancels, by e = exp(-|z|)."""
    e = torch.exp(-z.abs())
    square, right = e * e, z >= 0
    d = torch.where(right, 1 + 2 * e + 2 * square, 2 + 2 * e + square)
    t = torch.where(right, 1 + 2 * e, 2 * e + square) / d
    return t, (2 * (1 + e) * torch.where(right, e, 1.0) / d) ** 2, torch.sigmoid(z)


def _mish_slope(z: Tensor, h: Tensor) -> Tensor:
    t, w, p = _mish_parts(z)
    return t + z * (w * p)


def _mish_curvature(z: Tensor, h: Tensor) -> Tensor:
    t, w, p = _mish_parts(z)
    return w * p * (2 + z.clamp(-1e3, 1e3) * (torch.sigmoid(-z) - 2 * t * p))  # beyond, w p is 0 and the product must be


def _mish_third(z: Tensor, h: Tensor) -> Tensor:
    t, w, p = _mish_parts(z)
    q = torch.sigmoid(-z)
    t2 = q - 2 * t * p  # of t'' = w p t2
    t3 = q * (q - p) - 6 * t * p * q + (4 * t * t - 2 * w) * p * p
    return w * p * (3 * t2 + z.clamp(-1e3, 1e3) * t3)


def _log_cosh(z: Tensor) -> Tensor:
    near, size = z.clamp(-1, 1), z.abs()  # where log 2 would cancel
    return torch.where(size < 1, torch.log1p(2 * torch.sinh(near / 2) ** 2), size + torch.log1p(torch.exp(-2 * size)) - math.log(2))


def _hardswish(z: Tensor) -> Tensor:
    near = z.clamp(-3, 3)  # torch's own overflows far out, and has its constants in single precision
    return torch.where(z <= -3, 0.0, torch.where(z < 3, near * (near / 6 + 0.5), z))


def _inside(z: Tensor, least: float, most: float) -> Tensor:
    return ((z > least) & (z < most)).to(z.dtype)


def _exp_left(z: Tensor, factor: float, rate: float = 1.0) -> Tensor:
    """Return `factor · exp(rate z)` on the left, 0 on the right."""
    return torch.where(z > 0, 0.0, factor * torch.exp(rate * z.clamp_max(0.0)))


def _elu_left(z: Tensor, h: Tensor, alpha: float) -> Tensor:
    return torch.where(z > 0, 0.0, alpha * torch.exp(z.clamp_max(0.0)))


def _step(z: Tensor, h: Tensor) -> Tensor:
    return (z > 0).to(z.dtype)


def _tanh_third(z: Tensor, h: Tensor) -> Tensor:
    s = 1 - h * h
    return s * (4 - 6 * s)


# fmt: off
RULES: dict[str, Rule] = {
    #                  value              slope                          curvature                         third                                 module     JAX
    "tanh":       Rule(torch.tanh,        lambda z, h: 1 - h * h,        lambda z, h: -2 * h * (1 - h * h), _tanh_third,                         nn.Tanh,   "numpy.tanh"),
    "sigmoid":    Rule(torch.sigmoid,     lambda z, h: h * (1 - h),      lambda z, h: h * (1 - h) * (1 - 2 * h), lambda z, h: h * (1 - h) * (1 - 6 * h * (1 - h)),
                                                                                                                                                 nn.Sigmoid, "nn.sigmoid"),
    "relu":       Rule(torch.relu,        _step,                         None,                             None,                                 nn.ReLU,   "nn.relu"),
    "leaky_relu": Rule(F.leaky_relu,      lambda z, h, negative_slope: torch.where(z > 0, z.new_ones(()), negative_slope),
                                                                         None,                             None,                                 nn.LeakyReLU, "nn.leaky_relu", {"negative_slope": 0.01}),
    "softplus":   Rule(F.softplus,        _softplus_slope,               _softplus_curvature,              _softplus_third,                      nn.Softplus, _jax_softplus, {"beta": 1.0, "threshold": 20.0}),
    "gelu":       Rule(F.gelu,            _gelu_slope,                   _gelu_curvature,                  _gelu_third,                          nn.GELU,
                       lambda jax, z, form: jax.nn.gelu(z, approximate=form == "tanh"), {"approximate": "none"}),
    "silu":       Rule(F.silu,            _silu_slope,                   _silu_curvature,                  _silu_third,                          nn.SiLU,   "nn.silu"),
    "elu":        Rule(F.elu,             lambda z, h, alpha: torch.where(z > 0, 1.0, alpha * torch.exp(z.clamp_max(0.0))),
                                                                         _elu_left,                        _elu_left,                            nn.ELU,    "nn.elu", {"alpha": 1.0}),
    "sine":       Rule(lambda z, omega: torch.sin(omega * z), lambda z, h, omega: omega * torch.cos(omega * z),
                                                                         lambda z, h, omega: -omega * omega * h, lambda z, h, omega: -(omega**3) * torch.cos(omega * z),
                       Sine, lambda jax, z, omega: jax.numpy.sin(omega * z), {"omega": 1.0}),
    "softsign":   Rule(F.softsign,        lambda z, h: 1 / (1 + z.abs()) ** 2, lambda z, h: -2 * z.sign() / (1 + z.abs()) ** 3, lambda z, h: 6 / (1 + z.abs()) ** 4,
                                                                                                                                                 nn.Softsign, "nn.soft_sign"),
    "exp":        Rule(torch.exp,         lambda z, h: h,                lambda z, h: h,                   lambda z, h: h,                       Exp,       "numpy.exp"),
    "mish":       Rule(F.mish,            _mish_slope,                   _mish_curvature,                  _mish_third,                          nn.Mish,   "nn.mish"),
    "selu":       Rule(F.selu,            lambda z, h: torch.where(z > 0, _SELU_SCALE, _exp_left(z, _SELU_SCALE * _SELU_ALPHA)),
                       lambda z, h: _exp_left(z, _SELU_SCALE * _SELU_ALPHA), lambda z, h: _exp_left(z, _SELU_SCALE * _SELU_ALPHA), nn.SELU, "nn.selu"),
    "celu":       Rule(F.celu,            lambda z, h, alpha: torch.where(z > 0, 1.0, _exp_left(z, 1.0, 1 / alpha)),
                       lambda z, h, alpha: _exp_left(z, 1 / alpha, 1 / alpha), lambda z, h, alpha: _exp_left(z, alpha**-2, 1 / alpha), nn.CELU, "nn.celu", {"alpha": 1.0}),
    "relu6":      Rule(F.relu6,           lambda z, h: _inside(z, 0, 6), None,                             None,                                 nn.ReLU6,  "nn.relu6"),
    "hardtanh":   Rule(F.hardtanh,        lambda z, h, min_val, max_val: _inside(z, min_val, max_val), None, None,                               nn.Hardtanh,
                       lambda jax, z, min_val, max_val: jax.numpy.clip(z, min_val, max_val), {"min_val": -1.0, "max_val": 1.0}),
    "hardswish":  Rule(_hardswish,        lambda z, h: torch.where(z < 3, _inside(z, -3, 3) * (z / 3 + 0.5), 1.0),
                                                                         lambda z, h: _inside(z, -3, 3) / 3, None,                               nn.Hardswish, "nn.hard_swish"),
    "log_sigmoid": Rule(F.logsigmoid,     lambda z, h: torch.sigmoid(-z), lambda z, h: -torch.sigmoid(z) * torch.sigmoid(-z),
                       lambda z, h: torch.sigmoid(z) * torch.sigmoid(-z) * torch.tanh(z / 2), nn.LogSigmoid, "nn.log_sigmoid"),
    "log_cosh":   Rule(_log_cosh,         lambda z, h: torch.tanh(z),    lambda z, h: 4 * torch.sigmoid(2 * z) * torch.sigmoid(-2 * z),
                       lambda z, h: -8 * torch.tanh(z) * torch.sigmoid(2 * z) * torch.sigmoid(-2 * z), LogCosh, lambda jax, z: jax.numpy.logaddexp(z, -z) - math.log(2)),
    "identity":   Rule(lambda z: z,       None,                          None,                             None,                                 nn.Identity, "numpy.asarray"),
}
# fmt: on


def _fourth_of_gate(z: Tensor, w: Tensor, w1: Tensor | float, w2: Tensor | float, w3: Tensor | float) -> Tensor:
    """Return the fourth derivative of `z σ(w(z))`, of a w whose own is zero."""
    p = torch.sigmoid(w)
    d = p * torch.sigmoid(-w)
    odd = 1 - 2 * p
    s2, s3, s4 = d * odd, d * (odd * odd - 2 * d), d * odd * (odd * odd - 8 * d)  # derivatives of σ
    p3 = s3 * w1 * w1 * w1 + 3 * s2 * w1 * w2 + d * w3
    p4 = s4 * w1 * w1 * w1 * w1 + 6 * s3 * w1 * w1 * w2 + s2 * (3 * w2 * w2 + 4 * w1 * w3)
    return 4 * p3 + z * p4


def _gelu_fourth(z: Tensor, h: Tensor, approximate: str) -> Tensor:
    near = z.clamp(-1e3, 1e3)
    square = near * near
    if approximate == "tanh":
        return _fourth_of_gate(near, *_gelu_gate(z))
    return _INV_SQRT_2PI * torch.exp(-0.5 * square) * (square * (7 - square) - 4)


def _sigmoid_fourth(z: Tensor, h: Tensor) -> Tensor:
    d = h * (1 - h)
    return d * (1 - 2 * h) * (1 - 12 * d)


def _softplus_fourth(z: Tensor, h: Tensor, beta: float, threshold: float) -> Tensor:
    v = beta * z
    d = torch.sigmoid(v) * torch.sigmoid(-v)
    return torch.where(v > threshold, 0.0, beta**3 * d * (1 - 6 * d))


def _tanh_fourth(z: Tensor, h: Tensor) -> Tensor:
    s = 1 - h * h
    return 8 * h * s * (3 * s - 1)


def _mish_fourth(z: Tensor, h: Tensor) -> Tensor:
    t, w, p = _mish_parts(z)
    d = p * torch.sigmoid(-z)
    s = (p, d, d * (1 - 2 * p), d * (1 - 6 * d))  # derivatives of u = log(1 + e^z)
    f = (w, -2 * t * w, w * (6 * t * t - 2), 8 * t * w * (2 - 3 * t * t))  # of tanh, at u
    t3 = f[2] * s[0] ** 3 + 3 * f[1] * s[0] * s[1] + f[0] * s[2]
    t4 = f[3] * s[0] ** 4 + 6 * f[2] * s[0] ** 2 * s[1] + f[1] * (3 * s[1] ** 2 + 4 * s[0] * s[2]) + f[0] * s[3]
    return 4 * t3 + z.clamp(-1e3, 1e3) * t4


# The fourth derivatives of all that have a third one: `(z, h, **settings) -> φ⁗(z)`.
FOURTH: dict[str, Callable[..., Tensor]] = {
    "tanh": _tanh_fourth,
    "sigmoid": _sigmoid_fourth,
    "softplus": _softplus_fourth,
    "gelu": _gelu_fourth,
    "silu": lambda z, h: _fourth_of_gate(z, z, 1.0, 0.0, 0.0),
    "elu": _elu_left,
    "sine": lambda z, h, omega: omega**4 * h,
    "softsign": lambda z, h: -24 * z.sign() / (1 + z.abs()) ** 5,
    "exp": lambda z, h: h,
    "mish": _mish_fourth,
    "selu": lambda z, h: _exp_left(z, _SELU_SCALE * _SELU_ALPHA),
    "celu": lambda z, h, alpha: _exp_left(z, alpha**-3, 1 / alpha),
    "log_sigmoid": lambda z, h: -_softplus_fourth(z, h, 1.0, math.inf),
    "log_cosh": lambda z, h: _tanh_third(z, torch.tanh(z)),
}


class Activation:
    """An activation with its settings: `h = scale · φ(z)`. Immutable; equal ones compare equal.

    Args:
        name: One of the names of the table.
        scale: Factor of the value, e.g. 5.0 for 5·ReLU.
        **settings: Its settings, by torch's names; torch's defaults otherwise.

    Raises:
        TypeError: The name is not a string, or a setting has the wrong type.
        ValueError: The name or a setting is unknown, or a number is out of range.

    Example:
        >>> str(Activation("leaky_relu", negative_slope=0.2)), str(Activation("tanh"))
        ('leaky_relu(negative_slope=0.2)', 'tanh')
        >>> Activation("relu", scale=5.0).value(torch.tensor([-1.0, 2.0]))
        tensor([ 0., 10.])
    """

    __slots__ = ("_rule", "_text", "name", "scale", "settings")

    def __init__(self, name: str, *, scale: float = 1.0, **settings: float | str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"activation must be a name or an Activation, got {type(name).__name__}; choose from {', '.join(RULES)}")
        if name not in RULES and name not in OUTPUTS:
            raise ValueError(unknown_name("activation", name, (*RULES, *OUTPUTS)))
        self.name = name
        self._rule: Rule | Coupled = RULES[name] if name in RULES else OUTPUTS[name]
        rule = self._rule
        unknown = [key for key in settings if key not in rule.settings]
        if unknown:
            known = ", ".join(rule.settings) or "none"
            raise ValueError(f"{name} has no setting {unknown[0]!r}; its settings: {known}, and scale for every activation")
        self.scale = _number(name, "scale", scale)
        if self.scale == 0:
            raise ValueError(f"{name}: scale must not be 0, for the network would be constant; got {scale}")
        self.settings = {key: _setting(name, key, settings.get(key, default), default) for key, default in rule.settings.items()}
        if name == "hardtanh" and not self.settings["min_val"] < self.settings["max_val"]:  # pyright: ignore[reportOperatorIssue]
            raise ValueError(f"hardtanh: min_val must be below max_val, got {self.settings['min_val']} and {self.settings['max_val']}")
        shown = {key: value for key, value in self.settings.items() if value != rule.settings[key]}
        shown |= {"scale": self.scale} if self.scale != 1 else {}
        self._text = f"{name}({', '.join(f'{key}={value!r}' for key, value in shown.items())})" if shown else name

    @property
    def linear(self) -> bool:
        """Whether this is the identity, whose slope is one: nothing is multiplied by it."""
        return self._rule.slope is None and self.scale == 1 and not self.coupled

    @property
    def coupled(self) -> bool:
        """Whether each value depends on all of its layer, as of softmax: an activation for outputs alone."""
        return isinstance(self._rule, Coupled)

    def push(self, y: Tensor, T: Tensor) -> Tensor:
        """Return `S T` with `S = ∂y/∂z`, of a coupled activation of value y (..., P), for T (..., P, m): `diag(p) - p pᵀ` for softmax."""
        assert isinstance(self._rule, Coupled)
        return self._rule.push(y, T) if self.scale == 1 else self.scale * self._rule.push(y / self.scale, T)

    def pull(self, y: Tensor, C: Tensor) -> Tensor:
        """Return `Sᵀ C` with `S = ∂y/∂z`, of a coupled activation of value y (..., P), for C (..., P)."""
        assert isinstance(self._rule, Coupled)
        return self._rule.pull(y, C) if self.scale == 1 else self.scale * self._rule.pull(y / self.scale, C)

    def value(self, z: Tensor) -> Tensor:
        """Return `h = scale · φ(z)`."""
        h = self._rule.value(z, **self.settings)
        return h if self.scale == 1 else self.scale * h

    def slope(self, z: Tensor, h: Tensor) -> Tensor | None:
        """Return `scale · φ'(z)`, of the shape of z, or `None` where it is one everywhere; h is `value(z)`."""
        if self._rule.slope is None:
            return None if self.scale == 1 or self.coupled else torch.full_like(z, self.scale)
        s = self._rule.slope(z, h if self.scale == 1 else h / self.scale, **self.settings)
        return s if self.scale == 1 else self.scale * s

    def curvature(self, z: Tensor, h: Tensor) -> Tensor | None:
        """Return `scale · φ''(z)`, of the shape of z, or `None` where it is zero everywhere; refused of a coupled activation."""
        return self._higher("curvature", z, h)

    def third(self, z: Tensor, h: Tensor) -> Tensor | None:
        """Return `scale · φ'''(z)`, as `curvature` does."""
        return self._higher("third", z, h)

    def fourth(self, z: Tensor, h: Tensor) -> Tensor | None:
        """Return `scale · φ⁗(z)`, as `curvature` does."""
        return self._higher("fourth", z, h)

    @property
    def piecewise_linear(self) -> bool:
        """Whether its second derivative is zero wherever it has one."""
        return isinstance(self._rule, Rule) and self._rule.curvature is None

    def _higher(self, which: str, z: Tensor, h: Tensor) -> Tensor | None:
        if isinstance(self._rule, Coupled):
            raise ValueError(f"{self.name} couples all outputs: its higher derivatives are no one number a neuron")
        rule = FOURTH.get(self.name) if which == "fourth" else getattr(self._rule, which)
        if rule is None:
            return None
        d = rule(z, h if self.scale == 1 else h / self.scale, **self.settings)
        return d if self.scale == 1 else self.scale * d

    def jax(self, library: Any, z: Any) -> Any:
        """Return the value at a JAX array by the own function of JAX, which is imported."""
        rule = self._rule.jax
        given = self.settings.values()
        h = attrgetter(rule)(library)(z, *given) if isinstance(rule, str) else rule(library, z, *given)
        return h if self.scale == 1 else self.scale * h

    def to_torch(self) -> nn.Module:
        """Return the torch module, without the scale."""
        return self._rule.module(**self.settings)

    @classmethod
    def from_torch(cls, module: nn.Module) -> Activation | None:
        """Recognise a torch module, with its settings, by its exact type; `None` where it is none of the table."""
        for name, rule in (RULES | OUTPUTS).items():
            if type(module) is rule.module:
                return cls(name, **{key: getattr(module, key) for key in rule.settings})
        return None

    def __str__(self) -> str:
        """Write it so that `activation` reads it back."""
        return self._text

    def __repr__(self) -> str:
        name, paren, rest = self._text.partition("(")
        return f"Activation({name!r}, {rest}" if paren else f"Activation({name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Activation) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[object, ...]:
        return activation, (self._text,)


def activation(given: str | Activation) -> Activation:
    """Return an activation from its name or its text.

    Example:
        >>> tanh = activation("tanh")
        >>> z = torch.tensor([0.0, 100.0])
        >>> tanh.slope(z, tanh.value(z))
        tensor([1., 0.])
        >>> activation("elu(alpha=0.5)").settings
        {'alpha': 0.5}
    """
    if isinstance(given, Activation):
        return given
    if not isinstance(given, str):
        raise TypeError(f"activation must be a name or an Activation, got {type(given).__name__}; choose from {', '.join(RULES)}")
    return _parse(given)


@lru_cache(maxsize=256)
def _parse(text: str) -> Activation:
    name, paren, _ = text.partition("(")
    if not paren:
        return Activation(text)
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError(text)
        settings = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(f"cannot read activation {text!r}; write e.g. leaky_relu(negative_slope=0.2)") from None
    return Activation(name, **settings)


def _setting(name: str, key: str, value: Any, default: float | str) -> float | str:
    if key == "dim":
        if value not in (-1, 1):
            raise ValueError(f"{name}: dim must be that of the outputs, -1 or 1, got {value!r}")
        return -1
    if not isinstance(default, str):
        return _number(name, key, value)
    if value not in {"none", "tanh"}:  # of GELU, the one setting that is a word
        raise ValueError(f"{name}: {key} must be 'none' or 'tanh', got {value!r}")
    return value


def _number(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: {key} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name}: {key} must be finite, got {value}")
    if (key == "beta" or (name, key) == ("celu", "alpha")) and value <= 0:
        raise ValueError(f"{name}: {key} must be positive, got {value}")
    return float(value)


SEPARATOR = ";"


def per_layer(given: str | Activation | Sequence[str | Activation], layers: int) -> tuple[Activation, ...]:
    """Return one activation per hidden layer.

    Example:
        >>> per_layer(["relu", Activation("elu", alpha=0.5)], 2)
        (Activation('relu'), Activation('elu', alpha=0.5))
    """
    if isinstance(given, str) and SEPARATOR in given:
        given = given.split(SEPARATOR)
    if isinstance(given, str | Activation) or not isinstance(given, Sequence):  # which is refused by its type
        return (_hidden(given),) * layers
    each = tuple(_hidden(one) for one in given)
    if len(each) != layers:
        raise ValueError(f"got {len(each)} activations for {layers} hidden layers; pass one for all, or one per hidden layer")
    return each


def _hidden(given: str | Activation) -> Activation:
    rule = activation(given)
    if rule.coupled:
        raise ValueError(f"{rule.name} couples all neurons of a layer, and can only be the output activation")
    return rule


def text_of(activations: Sequence[Activation], otherwise: str = "tanh") -> str:
    """Write activations as one text: the name of the one that all share, or all of them."""
    if not activations:
        return otherwise
    return str(activations[0]) if len(set(activations)) == 1 else SEPARATOR.join(map(str, activations))

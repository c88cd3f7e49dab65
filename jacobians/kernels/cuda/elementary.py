"""The activations in Triton: value, slope and curvature from z, one branch a name; which one is known when a kernel is compiled."""

from __future__ import annotations

import triton
import triton.language as tl

# Products of float32 on the matrix units: each number as a sum of two tf32, three products, an error near that of float32.
DOT = tl.constexpr("tf32x3")
# A name stands for its place here in the kernels.
CODES = ("tanh", "sigmoid", "relu", "leaky_relu", "softplus", "gelu", "silu", "elu", "sine", "softsign", "exp", "identity")


@triton.jit
def _sigmoid(z):
    """Return σ(z) and σ(z) (1 - σ(z)), neither of which cancels."""
    e = tl.exp(-tl.abs(z))
    inverse = 1.0 / (1.0 + e)
    return tl.where(z >= 0, inverse, e * inverse), e * inverse * inverse


@triton.jit
def _gated(z, w, w1, w2):
    """Return z σ(w) with its first two derivatives, from w and its own."""
    p, d = _sigmoid(w)
    odd = 1.0 - 2.0 * p
    p1 = d * w1
    return z * p, p + z * p1, 2.0 * p1 + z * d * (odd * w1 * w1 + w2)


@triton.jit
def phi(z, a, b, scale, CODE: tl.constexpr):
    """Return scale φ(z), scale φ'(z) and scale φ''(z); a and b are the settings in the order of the table of activations."""
    if CODE == 0:  # tanh
        e = tl.exp(-2.0 * tl.abs(z))
        inverse = 1.0 / (1.0 + e)
        h = (1.0 - e) * inverse
        h = tl.where(z < 0, -h, h)
        s = 4.0 * e * inverse * inverse
        c = -2.0 * h * s
    elif CODE == 1:  # sigmoid
        h, s = _sigmoid(z)
        c = s * (1.0 - 2.0 * h)
    elif CODE == 2:  # relu
        h = tl.where(z > 0, z, tl.where(z <= 0, 0.0, z))  # NaN stays NaN
        s = tl.where(z > 0, 1.0, 0.0)
        c = z * 0.0
    elif CODE == 3:  # leaky_relu
        s = tl.where(z > 0, 1.0, a + z * 0.0)
        h = z * s
        c = z * 0.0
    elif CODE == 4:  # softplus
        v = a * z
        p, d = _sigmoid(v)
        straight = v > b
        h = tl.where(straight, z, (tl.where(v > 0, v, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(v)))) / a)
        s = tl.where(straight, 1.0, p)
        c = tl.where(straight, 0.0, a * d)
    elif CODE == 5:  # gelu: a is 0 for the normal distribution, 1 for the form with tanh
        near = tl.minimum(tl.maximum(z, -1e3), 1e3)
        square = near * near
        w = 1.5957691216057308 * near * (1.0 + 0.044715 * square)
        w1 = 1.5957691216057308 * (1.0 + 0.134145 * square)
        h1, s1, c1 = _gated(z, w, w1, 0.42812786 * near)
        cumulative = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))
        density = 0.3989422804014327 * tl.exp(-0.5 * square)
        with_tanh = a != 0
        h = tl.where(with_tanh, h1, z * cumulative)
        s = tl.where(with_tanh, s1, cumulative + z * density)
        c = tl.where(with_tanh, c1, density * (2.0 - square))
    elif CODE == 6:  # silu
        h, s, c = _gated(z, z, 1.0, 0.0)
    elif CODE == 7:  # elu
        e = a * tl.exp(tl.minimum(z, 0.0))
        h = tl.where(z > 0, z, e - a)
        s = tl.where(z > 0, 1.0, e)
        c = tl.where(z > 0, 0.0, e)
    elif CODE == 8:  # sine
        v = a * z
        h = tl.sin(v)
        s = a * tl.cos(v)
        c = -a * a * h
    elif CODE == 9:  # softsign
        inverse = 1.0 / (1.0 + tl.abs(z))
        h = z * inverse
        s = inverse * inverse
        c = tl.where(z > 0, -2.0, tl.where(z < 0, 2.0, 0.0)) * s * inverse
    elif CODE == 10:  # exp
        h = tl.exp(z)
        s = h
        c = h
    else:
        h = z
        s = z * 0.0 + 1.0
        c = z * 0.0
    return h * scale, s * scale, c * scale

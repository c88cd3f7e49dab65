"""Independent references. None of them shares code with `jacobians.modes`."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.autograd.functional import jacobian
from torch.func import functional_call, jacrev


def autograd(mlp, x):
    """torch.autograd.functional.jacobian in float64, one sample at a time, one row at a time."""
    exact = mlp.to(dtype=torch.float64)
    samples = x.double().reshape(-1, mlp.D)
    rows = [jacobian(exact, sample) for sample in samples]
    J = torch.stack(rows) if rows else torch.zeros(0, mlp.P, mlp.D, dtype=torch.float64)
    return J[0] if x.ndim == 1 else J


def central_differences(mlp, x, step=1e-5):
    """(f(x + h e_d) - f(x - h e_d)) / 2h in float64; error of order h²."""
    exact = mlp.to(dtype=torch.float64)
    columns = []
    for d in range(mlp.D):
        e = torch.zeros(mlp.D, dtype=torch.float64)
        e[d] = step
        columns.append((exact(x.double() + e) - exact(x.double() - e)) / (2 * step))
    return torch.stack(columns, dim=-1)


_erf = np.vectorize(math.erf)


def _normal(z):
    return np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _gelu_tanh(z):
    return 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def _gelu_tanh_slope(z):
    u = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    return 0.5 * (1 + np.tanh(u)) + 0.5 * z / np.cosh(u) ** 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)


def _mish_slope(z):
    e = np.exp(z)
    return e * (4 * (z + 1) + 4 * e**2 + e**3 + e * (4 * z + 6)) / (2 * e + e**2 + 2) ** 2


_SELU = 1.0507009873554805
NUMPY = {
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "sigmoid": (_sigmoid, lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1.0, 0.01)),
    "leaky_relu(negative_slope=0.2)": (lambda z: np.where(z > 0, z, 0.2 * z), lambda z: np.where(z > 0, 1.0, 0.2)),
    "softplus": (lambda z: np.log1p(np.exp(z)), _sigmoid),
    "softplus(beta=2.0, threshold=5.0)": (
        lambda z: np.where(2 * z > 5, z, np.log1p(np.exp(2 * z)) / 2),
        lambda z: np.where(2 * z > 5, 1.0, _sigmoid(2 * z)),
    ),
    "gelu": (lambda z: z * 0.5 * (1 + _erf(z / math.sqrt(2))), lambda z: 0.5 * (1 + _erf(z / math.sqrt(2))) + z * _normal(z)),
    "gelu(approximate='tanh')": (_gelu_tanh, _gelu_tanh_slope),
    "silu": (lambda z: z * _sigmoid(z), lambda z: _sigmoid(z) * (1 + z * (1 - _sigmoid(z)))),
    "elu": (lambda z: np.where(z > 0, z, np.expm1(z)), lambda z: np.where(z > 0, 1.0, np.exp(z))),
    "elu(alpha=0.5)": (lambda z: np.where(z > 0, z, 0.5 * np.expm1(z)), lambda z: np.where(z > 0, 1.0, 0.5 * np.exp(z))),
    "sine": (np.sin, np.cos),
    "sine(omega=3.0)": (lambda z: np.sin(3 * z), lambda z: 3 * np.cos(3 * z)),
    "softsign": (lambda z: z / (1 + np.abs(z)), lambda z: 1 / (1 + np.abs(z)) ** 2),
    "exp": (np.exp, np.exp),
    "mish": (lambda z: z * np.tanh(np.log1p(np.exp(z))), lambda z: _mish_slope(z)),
    "selu": (
        lambda z: _SELU * np.where(z > 0, z, 1.6732632423543772 * np.expm1(z)),
        lambda z: _SELU * np.where(z > 0, 1, 1.6732632423543772 * np.exp(z)),
    ),
    "celu": (lambda z: np.where(z > 0, z, np.expm1(z)), lambda z: np.where(z > 0, 1.0, np.exp(z))),
    "celu(alpha=0.5)": (lambda z: np.where(z > 0, z, 0.5 * np.expm1(2 * z)), lambda z: np.where(z > 0, 1.0, np.exp(2 * z))),
    "relu6": (lambda z: np.clip(z, 0, 6), lambda z: 1.0 * ((z > 0) & (z < 6))),
    "hardtanh": (lambda z: np.clip(z, -1, 1), lambda z: 1.0 * (np.abs(z) < 1)),
    "hardtanh(min_val=-0.5, max_val=2.0)": (lambda z: np.clip(z, -0.5, 2), lambda z: 1.0 * ((z > -0.5) & (z < 2))),
    "hardswish": (lambda z: z * np.clip(z + 3, 0, 6) / 6, lambda z: np.where(z <= -3, 0, np.where(z < 3, z / 3 + 0.5, 1))),
    "log_sigmoid": (lambda z: -np.log1p(np.exp(-z)), lambda z: 1 / (1 + np.exp(z))),
    "log_cosh": (lambda z: np.log(np.cosh(z)), np.tanh),
    "relu(scale=5.0)": (lambda z: 5 * np.maximum(z, 0), lambda z: (z > 0) * 5.0),
    "identity(scale=0.5)": (lambda z: 0.5 * z, lambda z: np.full_like(z, 0.5)),
    "identity": (lambda z: z, np.ones_like),
}


def numpy_product(mlp, x):
    """W_{L+1} S_L … S_1 W_1 in float64, every S a matrix, one sample at a time."""
    results = []
    for sample in x.detach().double().reshape(-1, mlp.D).numpy():
        h, J = sample, np.eye(mlp.D)
        for W, b, rule in zip(mlp.weights, mlp.biases, mlp.activations, strict=True):
            W = W.detach().double().numpy()
            z = W @ h + (0 if b is None else b.detach().double().numpy())
            value, slope = NUMPY[str(rule)]
            h, J = value(z), np.diag(slope(z)) @ W @ J
        results.append(J)
    J = torch.tensor(np.array(results)).reshape(-1, mlp.P, mlp.D)
    return J[0] if x.ndim == 1 else J


def parameter_jacobian(mlp, x):
    """(N, P, n) by `torch.func.jacrev` over the parameters of a copy."""
    net = mlp.to_torch()
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    parts = jacrev(lambda p: functional_call(net, p, (x,)))(parameters)
    return torch.cat([part.flatten(2) for part in parts.values()], dim=-1)


def relative_error(J, exact):
    """‖J - exact‖ / ‖exact‖, in float64; the absolute error where exact is zero or empty."""
    scale = torch.linalg.vector_norm(exact).item()
    return torch.linalg.vector_norm(J.double() - exact).item() / (scale or 1.0)

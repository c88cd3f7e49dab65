"""One-call functions for derivatives by the input beyond J: products with it, Laplacians and Hessians.

Plans are kept with the network, as for the Jacobian, so a second call of the same shapes prepares nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from jacobians.kernels.native import second_order as native
from jacobians.kernels.native.runner import ready
from jacobians.network.from_torch import network_of
from jacobians.network.mlp import MLP
from jacobians.network.stack import Stack
from jacobians.planning import transforms
from jacobians.planning.arrange import frame_of, ordinary
from jacobians.planning.inputs import check_like, dense, problem_of, warn_of_straight
from jacobians.planning.plan import compute_cached, jacobian
from jacobians.planning.registry import NotPlain, Request
from jacobians.quantities.hessian import forward_over_reverse
from jacobians.quantities.laplacian import bends
from jacobians.quantities.pullback import pullback, pushforward


def laplacian(
    mlp: MLP | nn.Module | Stack,
    x: Tensor | Sequence[Tensor],
    weights: Tensor | Sequence[float] | Sequence[Sequence[float]] | None = None,
    method: str = "auto",
    *,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute y, J and the Laplacian `Σ_d w_d ∂²y/∂x_d²` in one forward sweep.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (D,) or (N, D), or in another form that `jacobian` takes.
        weights: w of shape (D,), all ones by default; e.g. `[1, 0]` for `∂²y/∂x_0²` alone. Of shape (M, D) for M such sums at once.
        method: `"auto"`, `"forward"`, or a full method name.
        create_graph: Whether the three can be back-propagated through to the parameters and to x.

    Returns:
        y (N, P), J (N, P, D), and the Laplacian (N, P), or (N, P, M) for M sums; without N for a single x.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input or the weights do not fit, or the method is unknown or does not support the problem.

    Example:
        >>> mlp = MLP([torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])], activation="exp")
        >>> y, J, lap = laplacian(mlp, torch.zeros(2))  # exp(2 a + b)
        >>> y, J, lap
        (tensor([1.]), tensor([[2., 1.]]), tensor([5.]))
        >>> laplacian(mlp, torch.zeros(2), weights=[0.0, 1.0])[2]
        tensor([1.])

    Source:
        Li et al., Forward Laplacian, Nature Machine Intelligence 6 (2024), arXiv 2307.08214.
    """
    if isinstance(mlp, Stack):
        return mlp.each(lambda net: laplacian(net, x, weights, method, create_graph=create_graph))
    _kept, mlp = mlp, network_of(mlp)  # which does not keep a module alive that is made in the call
    if not ordinary(x):
        frame = frame_of(mlp, x)
        y, J, lap = laplacian(mlp, frame.x, weights, method, create_graph=create_graph)
        return frame.rows(y), frame.rows(J, 1), frame.rows(lap)
    D = _features(mlp, x)
    directions = x.new_ones(1, D) if weights is None else torch.as_tensor(weights, dtype=x.dtype, device=x.device)
    one = directions.ndim == 1 or weights is None
    y, J, lap = compute_cached(
        mlp, "laplacian", (x, directions[None] if directions.ndim == 1 else directions), method, Request(create_graph=create_graph)
    )
    return y, J, lap[..., 0] if one else lap


@transforms.in_own_precision
def jacobian_loss(mlp: MLP | nn.Module, x: Tensor | Sequence[Tensor], target: Tensor | None = None) -> Tensor:
    """Compute `mean((J - target)²)`, to be back-propagated through: a Jacobian regulariser, or with a target Sobolev training.

    On the CPU it is computed with all its derivatives in one pass, a few samples at a time, and J is never formed; elsewhere through
    `jacobian(..., create_graph=True)`.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (D,) or (N, D), or in another form that `jacobian` takes.
        target: Of the shape of J, (P, D) or (N, P, D); zeros by default. It is a constant.

    Returns:
        A scalar attached to the autograd graph.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input or the target does not fit.

    Example:
        >>> mlp = MLP([torch.tensor([[2.0, 4.0]], requires_grad=True)])
        >>> loss = jacobian_loss(mlp, torch.zeros(2))
        >>> loss.item(), torch.autograd.grad(loss, mlp.weights)[0]
        (10.0, tensor([[2., 4.]]))

    Source:
        Rifai et al., Contractive auto-encoders (2011); Czarnecki et al., Sobolev training for neural networks (2017).
    """
    mlp = network_of(mlp)
    if not ordinary(x):
        frame = frame_of(mlp, x)
        return jacobian_loss(mlp, frame.x, None if target is None else frame.join("target", target, mlp.P))
    problem = problem_of(mlp, x)
    if target is not None:
        if not isinstance(target, Tensor):
            raise TypeError(f"target must be a torch.Tensor, got {type(target).__name__}; convert it with torch.as_tensor")
        if target.shape != problem.jacobian_shape:
            raise ValueError(f"target must have the shape of J, {problem.jacobian_shape}, got {tuple(target.shape)}")
        if target.dtype != x.dtype or target.device != x.device or target.requires_grad:
            raise TypeError(f"target must be a constant {x.dtype} on {x.device}, as x is; convert it with .detach().to(x)")
    parameters = tuple(mlp.parameters())
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *parameters))
    if wanted and not transforms.active() and ready(problem) and native.loss_reason(problem) is None:
        key = ("jacobian_loss", problem)
        compute: Any = mlp._plans.get(key)  # pyright: ignore[reportPrivateUsage]
        if compute is None:
            compute = mlp._plans[key] = native.JacobianLoss(mlp, problem)  # pyright: ignore[reportPrivateUsage]
        with suppress(NotPlain):  # then in torch
            return compute(x, parameters, target)
    J = jacobian(mlp, x, create_graph=wanted)
    return (J if target is None else J - target).square().mean()


def hessian_diagonal(
    mlp: MLP | nn.Module | Stack, x: Tensor | Sequence[Tensor], method: str = "auto", *, create_graph: bool = False
) -> Tensor:
    """Compute `∂²y_p/∂x_d²` for every d: D Laplacians of one direction each.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (D,) or (N, D), or in another form that `jacobian` takes.
        method: `"auto"`, `"forward"`, or a full method name of the Laplacian.
        create_graph: Whether the result can be back-propagated through.

    Returns:
        (P, D) or (N, P, D).

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input does not fit, or the method is unknown or does not support the problem.

    Example:
        >>> mlp = MLP([torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])], activation="exp")
        >>> hessian_diagonal(mlp, torch.zeros(2))
        tensor([[4., 1.]])
    """
    if isinstance(mlp, Stack):
        return mlp.each(lambda net: hessian_diagonal(net, x, method, create_graph=create_graph))
    _kept, mlp = mlp, network_of(mlp)  # which does not keep a module alive that is made in the call
    if not ordinary(x):
        frame = frame_of(mlp, x)
        return frame.rows(hessian_diagonal(mlp, frame.x, method, create_graph=create_graph), 1)
    every = torch.eye(_features(mlp, x), dtype=x.dtype, device=x.device)
    return compute_cached(mlp, "laplacian", (x, every), method, Request(create_graph=create_graph))[2]


def hessian(mlp: MLP | nn.Module | Stack, x: Tensor | Sequence[Tensor], method: str = "auto", *, create_graph: bool = False) -> Tensor:
    """Compute `H[..., p, d, e] = ∂²y_p/∂x_d∂x_e`.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (D,) or (N, D), or in another form that `jacobian` takes.
        method: `"auto"`, `"symmetric"`, `"forward-over-reverse"`, or a full method name.
        create_graph: Whether H can be back-propagated through.

    Returns:
        (P, D, D) or (N, P, D, D).

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input does not fit, or the method is unknown or does not support the problem.

    Example:
        >>> mlp = MLP([torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])], activation="exp")
        >>> hessian(mlp, torch.zeros(2))
        tensor([[[4., 2.],
                 [2., 1.]]])
    """
    (H,) = compute_cached(mlp, "hessian", (x,), method, Request(create_graph=create_graph))
    return H


@transforms.in_own_precision
def jvp(mlp: MLP | nn.Module, x: Tensor | Sequence[Tensor], v: Tensor, *, create_graph: bool = False) -> Tensor:
    """Push a tangent of x forward: `u = J v`, at the cost of a second evaluation.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (D,) or (N, D), or in another form that `jacobian` takes.
        v: Tangent of the shape of x.
        create_graph: Whether u can be back-propagated through.

    Returns:
        (P,) or (N, P).

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: x or v does not fit.

    Example:
        >>> mlp = MLP([torch.tensor([[2.0, 1.0]])])
        >>> jvp(mlp, torch.zeros(2), torch.tensor([1.0, 10.0]))
        tensor([12.])
    """
    mlp = network_of(mlp)
    if not ordinary(x):
        frame = frame_of(mlp, x)
        return frame.rows(jvp(mlp, frame.x, frame.join("v", v), create_graph=create_graph))
    _like(mlp, x, "v", v, mlp.D)
    with torch.set_grad_enabled(create_graph or transforms.active()):
        return pushforward(mlp, x, v)


@transforms.in_own_precision
def vjp(mlp: MLP | nn.Module, x: Tensor | Sequence[Tensor], u: Tensor, *, create_graph: bool = False) -> Tensor:
    """Pull a cotangent of y back: `w = Jᵀ u`, at about the cost of two evaluations.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (D,) or (N, D), or in another form that `jacobian` takes.
        u: Cotangent of shape (P,) or (N, P).
        create_graph: Whether w can be back-propagated through.

    Returns:
        Of the shape of x.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: x or u does not fit.

    Example:
        >>> mlp = MLP([torch.tensor([[2.0, 1.0]])])
        >>> vjp(mlp, torch.zeros(2), torch.tensor([10.0]))
        tensor([20., 10.])
    """
    mlp = network_of(mlp)
    if not ordinary(x):
        frame = frame_of(mlp, x)
        return frame.rows(vjp(mlp, frame.x, frame.flat(u), create_graph=create_graph), 1)
    _like(mlp, x, "u", u, mlp.P)
    with torch.set_grad_enabled(create_graph or transforms.active()):
        return pullback(mlp, x, u)


@transforms.in_own_precision
def hvp(mlp: MLP | nn.Module, x: Tensor | Sequence[Tensor], v: Tensor, u: Tensor | None = None, *, create_graph: bool = False) -> Tensor:
    """Multiply the Hessian with a vector, `H v`, without H: the derivative of the pullback along v.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (D,) or (N, D), or in another form that `jacobian` takes.
        v: Of the shape of x.
        u: Cotangent of y, (P,) or (N, P), for the Hessian of `u · y` alone.
        create_graph: Whether the result can be back-propagated through.

    Returns:
        (P, D) or (N, P, D); of the shape of x where u is given.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: x, v or u does not fit, or the output couples its neurons.

    Example:
        >>> mlp = MLP([torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])], activation="exp")
        >>> hvp(mlp, torch.zeros(2), torch.tensor([1.0, 0.0]))
        tensor([[4., 2.]])

    Source:
        Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6 (1994).
    """
    mlp = network_of(mlp)
    if not ordinary(x):
        frame = frame_of(mlp, x)
        return frame.rows(hvp(mlp, frame.x, frame.join("v", v), None if u is None else frame.flat(u), create_graph=create_graph), 1)
    _like(mlp, x, "v", v, mlp.D)
    if u is not None:
        _like(mlp, x, "u", u, mlp.P)
    problem = problem_of(mlp, x)
    reason = bends(problem)
    if reason is not None:
        raise ValueError(f"hvp {reason}")
    warn_of_straight(mlp, problem, 2)
    with torch.set_grad_enabled(create_graph or transforms.active()):
        seeds = None if u is None else u.reshape(-1, 1, mlp.P)
        H = forward_over_reverse(mlp, x.reshape(-1, mlp.D), v.reshape(-1, 1, mlp.D), seeds)[:, :, 0]
        H = H if u is None else H[:, 0]
        return H[0] if x.ndim == 1 else H


def _features(mlp: MLP, x: Tensor) -> int:
    """Return the last size of x, refusing what has none."""
    dense("x", x)
    if not x.ndim:
        problem_of(mlp, x)
    return x.shape[-1]


def _like(mlp: MLP, x: Tensor, name: str, given: Any, last: int) -> None:
    """Refuse an x that does not fit, and what has not its shape, but for the last size, its dtype and its device."""
    problem_of(mlp, x)
    dense(name, given)
    check_like(name, given, (*x.shape[:-1], last), x)

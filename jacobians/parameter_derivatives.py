"""One-call functions for the derivatives that share the chain of the Jacobian: gradients, tangent kernels, Gauss-Newton products.

Plans are kept with the network, as for the Jacobian, so a second call of the same shapes prepares nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from jacobians.kernels.native import gradient as native
from jacobians.names import outdated
from jacobians.network.from_torch import network_of
from jacobians.network.losses import Loss, loss_of
from jacobians.network.mlp import MLP
from jacobians.planning import transforms
from jacobians.planning.arrange import frame_of, ordinary
from jacobians.planning.inputs import check_bytes, check_inputs, not_folded, problem_of
from jacobians.planning.plan import compute_cached
from jacobians.planning.registry import NotPlain, Request, find_method
from jacobians.problem import Problem
from jacobians.quantities.gradient import Gradient, Parts, gradient_in_pieces
from jacobians.quantities.parameter_jacobian import ParameterJacobian, factors_of
from jacobians.quantities.per_sample import PerSampleGradients, gradients_of_each


def gradient(
    mlp: MLP | nn.Module,
    x: Tensor | Sequence[Tensor],
    target: Tensor,
    loss: str | Loss = "mse",
    method: str = "auto",
    *,
    inputs: bool = False,
    create_graph: bool = False,
    max_bytes: int | None = None,
    **renamed: object,
) -> Gradient:
    """Compute the gradient of a loss by hand: `∂L/∂W_l = Σ_n C_l[n] ⊗ h_{l-1}[n]`, `∂L/∂b_l = Σ_n C_l[n]`.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (D,) or (N, D), or in another form that `jacobian` takes.
        target: Of the shape of y; class indices, () or (N,), for `cross_entropy`.
        loss: A name with torch's defaults, or a `Loss` with its reduction and scale.
        method: `"auto"`, `"reverse"`, or a full method name.
        inputs: Whether to return `∂L/∂x` too.
        create_graph: Whether the gradient can be back-propagated through.
        max_bytes: Bound of the memory used beyond the result: samples are taken a few at a time.
        **renamed: Words of earlier versions, refused with the present one.

    Returns:
        The loss and its derivatives.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input or the target does not fit, the loss or the method is unknown, or the bound is too low or cannot be kept.

    Example:
        >>> mlp = MLP([torch.tensor([[2.0]])])
        >>> g = gradient(mlp, torch.tensor([[3.0]]), torch.tensor([[5.0]]))  # L = (2·3 - 5)², ∂L/∂W = 2 (6 - 5) 3
        >>> g.loss, g.weights[0]
        (tensor(1.), tensor([[6.]]))

    Source:
        Rumelhart, Hinton & Williams, Learning representations by back-propagating errors, Nature 323 (1986).
    """
    if renamed:
        raise TypeError(outdated(renamed))
    request = Request(inputs=inputs, create_graph=create_graph)
    if max_bytes is not None:
        _kept, mlp = mlp, network_of(mlp)
        frame = frame_of(mlp, x)
        found = _bounded(mlp, frame.x, frame.flat(target), loss_of(loss), method, request, max_bytes)
        return Gradient(frame.last(found) if inputs else found, inputs)
    return Gradient(compute_cached(mlp, "gradient", (x, target), method, request, loss, raw=True), inputs)


@transforms.in_own_precision
def _bounded(mlp: MLP, x: Tensor, target: Tensor, loss: Loss, method: str, request: Request, max_bytes: int) -> tuple[Tensor, ...] | Parts:
    """Compute within a memory limit: by the kernel with its smallest blocks, else by pieces of the readable method."""
    check_bytes(max_bytes)
    if request.create_graph:
        raise ValueError("max_bytes cannot bound a gradient that is differentiated again: its graph holds every piece; leave out max_bytes")
    if loss.reduction == "none":
        raise ValueError("max_bytes bounds the gradient of one loss, not of one for each element; use reduction 'sum' or 'mean'")
    problem = _described(mlp, x, "gradient", target, loss=loss)
    if method == "auto" or find_method(method, "gradient").implementation == "native":
        if native.why_not(problem) is None and not transforms.active():
            classes = loss.classes and not target.is_floating_point()
            for lean in (False, True):
                kernel = native.Derivative(mlp, problem, native.GRADIENT, loss, classes, request.inputs, lean)
                if kernel.working_bytes <= max_bytes:
                    with suppress(NotPlain):  # then by the readable method
                        found = kernel(x, target)
                        assert isinstance(found, Parts)
                        return found
    if method != "auto" and find_method(method, "gradient").implementation != "eager":
        raise ValueError(f"{method!r} cannot keep to max_bytes={max_bytes} bytes on this network; use method='auto' or 'reverse'")
    with torch.no_grad():
        return gradient_in_pieces(mlp, x, target, loss, problem, request.inputs, max_bytes)


@transforms.in_own_precision
def per_sample_gradients(
    mlp: MLP | nn.Module, x: Tensor | Sequence[Tensor], target: Tensor, loss: str | Loss = "mse"
) -> PerSampleGradients:
    """Compute the gradient of every sample's own loss, as if it were a batch of one: `C_l[n] ⊗ h_{l-1}[n]`.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (N, D), or in another form that `jacobian` takes.
        target: Of the shape of y, or class indices (N,).
        loss: A name, or a `Loss`.

    Returns:
        The gradients; N times the size of the parameters, writing them dominates the time.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input or the target does not fit, x is a single sample, or the loss is unknown.

    Example:
        >>> mlp = MLP.random(L=1, D=2, K=3, P=1)
        >>> s = per_sample_gradients(mlp, torch.zeros(5, 2), torch.ones(5, 1))
        >>> [tuple(W.shape) for W in s.weights]
        [(5, 3, 2), (5, 1, 3)]
    """
    mlp, rule = network_of(mlp), loss_of(loss)
    if not ordinary(x):
        frame = frame_of(mlp, x)
        found = per_sample_gradients(mlp, frame.x, frame.flat(target), rule)
        return PerSampleGradients(tuple(map(frame.rows, found.weights)), tuple(None if b is None else frame.rows(b) for b in found.biases))
    _described(mlp, x, "gradient_norms", target, loss=rule)
    with torch.set_grad_enabled(transforms.active()):
        return gradients_of_each(mlp, x, target, rule)


def per_sample_gradient_norms(
    mlp: MLP | nn.Module, x: Tensor | Sequence[Tensor], target: Tensor, loss: str | Loss = "mse", method: str = "auto"
) -> Tensor:
    """Compute the norm of the gradient of every sample's own loss, without forming it: `‖g[n]‖² = Σ_l ‖C_l[n]‖² (‖h_{l-1}[n]‖² + 1)`.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (N, D), or in another form that `jacobian` takes.
        target: Of the shape of y, or class indices (N,).
        loss: A name, or a `Loss`.
        method: `"auto"`, `"reverse"`, or a full method name.

    Returns:
        (N,): over all parameters together.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input or the target does not fit, x is a single sample, or the loss or the method is unknown.

    Example:
        >>> mlp = MLP([torch.tensor([[2.0]])])
        >>> per_sample_gradient_norms(mlp, torch.tensor([[3.0], [1.0]]), torch.tensor([[5.0], [2.0]]))  # |2 (2 x - t) x|
        tensor([6., 0.])

    Source:
        Goodfellow, Efficient per-example gradient computations, arXiv 1510.01799 (2015).
    """
    (norms,) = compute_cached(mlp, "gradient_norms", (x, target), method, Request(), loss)
    return norms


@transforms.in_own_precision
def parameter_jacobian(mlp: MLP | nn.Module, x: Tensor | Sequence[Tensor]) -> ParameterJacobian:
    """Compute the Jacobian with respect to the parameters, as its factors.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (D,) or (N, D), or in another form that `jacobian` takes; samples are rows here, a single x one row.

    Returns:
        The factors: `N Σ (P out_l + in_l)` numbers instead of `N P Σ out_l in_l`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input does not fit.

    Example:
        >>> mlp = MLP.random(L=2, D=3, K=8, P=2, bias=True)
        >>> F = parameter_jacobian(mlp, torch.ones(5, 3))
        >>> F.shape, tuple((F @ torch.zeros(F.shape[-1])).shape)
        ((5, 2, 122), (5, 2))
    """
    mlp = network_of(mlp)
    x = x if ordinary(x) else frame_of(mlp, x).x
    problem_of(mlp, x)
    not_folded(mlp)
    with torch.set_grad_enabled(transforms.active()):
        return factors_of(mlp, x.reshape(-1, mlp.D))


def ntk(mlp: MLP | nn.Module, x1: Tensor, x2: Tensor | None = None, *, trace: bool = False, method: str = "auto") -> Tensor:
    """Compute the neural tangent kernel `Θ(x, x') = Σ_l (C_l C_l'ᵀ) (h_{l-1} · h'_{l-1} + 1)`, the 1 where a layer has a bias.

    It is computed in tiles, and takes little memory beyond itself and the factors.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x1: Inputs (N1, D).
        x2: Inputs (N2, D); x1 by default, and the kernel is then symmetric.
        trace: Whether to sum over equal outputs; the mean over outputs is left to you.
        method: `"auto"`, `"structured"`, or a full method name.

    Returns:
        (N1, N2, P, P): the inner products of the rows of the parameter Jacobians; (N1, N2) with `trace`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An input does not fit, or the method is unknown.

    Example:
        >>> mlp = MLP([torch.tensor([[1.0, 2.0]])])
        >>> ntk(mlp, torch.tensor([[3.0, 4.0]]))  # y = W x, so the kernel is x · x
        tensor([[[[25.]]]])

    Source:
        Jacot, Gabriel & Hongler (2018); by structure: Novak, Sohl-Dickstein & Schoenholz, Fast Finite Width NTK (2022).
    """
    given = tuple(x[None] if isinstance(x, Tensor) and x.ndim == 1 else x for x in (x1, x2) if x is not None)
    (kernel,) = compute_cached(mlp, "ntk", given, method, Request(trace=trace))
    return kernel


def ggn_product(
    mlp: MLP | nn.Module, x: Tensor | Sequence[Tensor], target: Tensor, loss: str | Loss, v: Tensor | Any, method: str = "auto"
) -> tuple[Tensor, ...]:
    """Multiply a vector with the Gauss-Newton matrix of a loss, `G v = Fᵀ (∇²_y L) F v`, without the matrix.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (D,) or (N, D), or in another form that `jacobian` takes.
        target: Of the shape of y; class indices, () or (N,), for `cross_entropy`.
        loss: A name with torch's defaults, or a `Loss`.
        v: One tensor per parameter, in the order of `mlp.parameters()`, or all of them in one vector.
        method: `"auto"`, `"products"`, or a full method name.

    Returns:
        One tensor per parameter, in the order of `mlp.parameters()`.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input, the target or v does not fit, or the loss or the method is unknown.

    Example:
        >>> mlp = MLP([torch.tensor([[2.0]])])
        >>> x, target = torch.tensor([[3.0]]), torch.tensor([[5.0]])
        >>> ggn_product(mlp, x, target, "mse", torch.tensor([1.0]))  # (W x - t)² is quadratic: G = 2 x²
        (tensor([[18.]]),)

    Source:
        Schraudolph, Fast curvature matrix-vector products, Neural Computation 14 (2002).
    """
    _kept, mlp = mlp, network_of(mlp)
    vector = v if isinstance(v, Tensor) else _flat(mlp, v)
    return compute_cached(mlp, "ggn", (x, target, vector), method, Request(), loss)


def _flat(mlp: MLP, parts: Iterable[Tensor]) -> Tensor:
    """Put one tensor per parameter into one vector."""
    given, wanted = list(parts), [tuple(p.shape) for p in mlp.parameters()]
    shapes = [tuple(getattr(part, "shape", ())) for part in given]
    if shapes != wanted or not all(isinstance(part, Tensor) for part in given):
        raise ValueError(f"v must have the shapes of the parameters, {wanted}, got {shapes}")
    return torch.cat([part.reshape(-1) for part in given])


def _described(mlp: MLP, x: Tensor, quantity: str, *others: Tensor, loss: Loss | None = None) -> Problem:
    """Describe what is computed without a plan, refusing what a plan would refuse."""
    problem = problem_of(mlp, x).with_(quantity=quantity, loss=None if loss is None else str(loss))
    check_inputs(mlp, problem, (x, *others))
    return problem

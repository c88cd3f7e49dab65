"""One-call functions for the derivatives that share the chain of the Jacobian: gradients, tangent kernels, Gauss-Newton products.

Plans are kept with the network, as for the Jacobian, so a second call of the same shapes prepares nothing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from jacobians.kernels.native import gradient as native
from jacobians.network.losses import Loss, loss_of
from jacobians.network.mlp import MLP
from jacobians.planning import transforms
from jacobians.planning.inputs import problem_of
from jacobians.planning.plan import compute_cached
from jacobians.planning.registry import NotPlain, Request, find_method
from jacobians.problem import is_integer
from jacobians.quantities.gradient import Gradient, Parts, gradient_in_pieces
from jacobians.quantities.parameter_jacobian import ParameterJacobian, factors_of
from jacobians.quantities.per_sample import PerSampleGradients, gradients_of_each


def gradient(
    mlp: MLP,
    x: Tensor,
    target: Tensor,
    loss: str | Loss = "mse",
    method: str = "auto",
    *,
    inputs: bool = False,
    create_graph: bool = False,
    chunk: int | None = None,
) -> Gradient:
    """Compute the gradient of a loss by hand: `∂L/∂W_l = Σ_n C_l[n] ⊗ h_{l-1}[n]`, `∂L/∂b_l = Σ_n C_l[n]`.

    Args:
        mlp: The network.
        x: Input of shape (D,) or (N, D).
        target: Of the shape of y; class indices, () or (N,), for `cross_entropy`.
        loss: A name with torch's defaults, or a `Loss` with its reduction and scale.
        method: `"auto"`, `"reverse"`, or a full method name.
        inputs: Whether to return `∂L/∂x` too.
        create_graph: Whether the gradient can be back-propagated through.
        chunk: Bound in bytes of the memory used beyond the result: samples are taken a few at a time.

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
    request = Request(inputs=inputs, create_graph=create_graph)
    if chunk is not None:
        return Gradient(mlp, _bounded(mlp, x, target, loss_of(loss), method, request, chunk), inputs)
    return Gradient(mlp, _compute(mlp, "gradient", (x, target), loss, method, request, raw=True), inputs)


def _bounded(mlp: MLP, x: Tensor, target: Tensor, loss: Loss, method: str, request: Request, chunk: int) -> tuple[Tensor, ...] | Parts:
    """Keep to a bound of memory: by the kernel with its smallest blocks, else by pieces of the readable method."""
    if not is_integer(chunk) or chunk < 1:
        raise ValueError(f"chunk must be a positive number of bytes, got {chunk!r}; pass e.g. chunk=2**28 for 256 MB")
    if request.create_graph:
        raise ValueError("chunk cannot bound a gradient that is differentiated again: its graph holds every piece; leave out chunk")
    if loss.reduction == "none":
        raise ValueError("chunk bounds the gradient of one loss, not of one for each element; use reduction 'sum' or 'mean'")
    _described(mlp, x)
    _check_target(mlp, x, target, loss)
    problem = problem_of(mlp, x).with_(quantity="gradient", loss=str(loss))
    if method == "auto" or find_method(method, "gradient").implementation == "native":
        if native.why_not(problem) is None and not transforms.active():
            classes = loss.classes and not target.is_floating_point()
            for lean in (False, True):
                kernel = native.Derivative(mlp, problem, native.GRADIENT, loss, classes, request.inputs, lean)
                if kernel.working_bytes <= chunk:
                    with suppress(NotPlain):  # then by the readable method
                        found = kernel(x, target)
                        assert isinstance(found, Parts)
                        return found
    if method != "auto" and find_method(method, "gradient").implementation != "eager":
        raise ValueError(f"{method!r} cannot keep to chunk={chunk} bytes on this network; use method='auto' or 'reverse'")
    with torch.no_grad():
        return gradient_in_pieces(mlp, x, target, loss, problem, request.inputs, chunk)


def per_sample_gradients(mlp: MLP, x: Tensor, target: Tensor, loss: str | Loss = "mse") -> PerSampleGradients:
    """Compute the gradient of every sample's own loss, as if it were a batch of one: `C_l[n] ⊗ h_{l-1}[n]`.

    Args:
        mlp: The network.
        x: Input of shape (N, D).
        target: Of the shape of y, or class indices (N,).
        loss: A name, or a `Loss`.

    Returns:
        The gradients; N times the size of the parameters, which is what computing them takes its time for.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input or the target does not fit, x is a single sample, or the loss is unknown.

    Example:
        >>> mlp = MLP.random(L=1, D=2, K=3, P=1)
        >>> s = per_sample_gradients(mlp, torch.zeros(5, 2), torch.ones(5, 1))
        >>> [tuple(W.shape) for W in s.weights]
        [(5, 3, 2), (5, 1, 3)]
    """
    rule = loss_of(loss)
    _described(mlp, x, batched="per-sample gradients")
    with torch.set_grad_enabled(transforms.active()):
        return gradients_of_each(mlp, x, target, rule)


def per_sample_gradient_norms(mlp: MLP, x: Tensor, target: Tensor, loss: str | Loss = "mse", method: str = "auto") -> Tensor:
    """Compute the norm of the gradient of every sample's own loss, without forming it: `‖g[n]‖² = Σ_l ‖C_l[n]‖² (‖h_{l-1}[n]‖² + 1)`.

    Args:
        mlp: The network.
        x: Input of shape (N, D).
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
    _described(mlp, x, batched="per-sample gradients")
    (norms,) = _compute(mlp, "gradient_norms", (x, target), loss, method, Request())
    return norms


def parameter_jacobian(mlp: MLP, x: Tensor) -> ParameterJacobian:
    """Compute the Jacobian with respect to the parameters, as its factors.

    Args:
        mlp: The network.
        x: Input of shape (D,) or (N, D); a single x counts as a batch of one.

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
    _described(mlp, x)
    with torch.set_grad_enabled(transforms.active()):
        return factors_of(mlp, x.reshape(-1, mlp.D))


def ntk(mlp: MLP, x1: Tensor, x2: Tensor | None = None, *, trace: bool = False, method: str = "auto") -> Tensor:
    """Compute the neural tangent kernel `Θ(x, x') = Σ_l (C_l C_l'ᵀ) (h_{l-1} · h'_{l-1} + 1)`, the 1 where a layer has a bias.

    It is computed in tiles, and takes little memory beyond itself and the factors.

    Args:
        mlp: The network.
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
    for x in (x1, x2):
        if x is not None:
            _described(mlp, x)
    given = tuple(x.reshape(-1, mlp.D) for x in (x1, x2) if x is not None)
    (kernel,) = _compute(mlp, "ntk", given, None, method, Request(trace=trace))
    return kernel


def ggn_product(mlp: MLP, x: Tensor, target: Tensor, loss: str | Loss, v: Tensor | Any, method: str = "auto") -> tuple[Tensor, ...]:
    """Multiply a vector with the Gauss-Newton matrix of a loss, `G v = Fᵀ (∇²_y L) F v`, without the matrix.

    Args:
        mlp: The network.
        x: Input of shape (D,) or (N, D).
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
    vector = v if isinstance(v, Tensor) else torch.cat([part.reshape(-1) for part in v])
    count = sum(p.numel() for p in mlp.parameters()) if isinstance(mlp, MLP) else 0
    if vector.shape != (count,):
        raise ValueError(f"v must have a number for each of the {count} parameters, got shape {tuple(vector.shape)}")
    if vector.dtype != mlp.dtype or vector.device != mlp.device:
        raise TypeError(f"v must be {mlp.dtype} on {mlp.device}, as the network is, got {vector.dtype} on {vector.device}")
    return _compute(mlp, "ggn", (x, target, vector), loss, method, Request())


def _described(mlp: MLP, x: Tensor, batched: str = "") -> None:
    """Refuse an input that does not fit, and a network whose parameters are not what it is multiplied by."""
    problem = problem_of(mlp, x)
    if batched and problem.batch is None:
        raise ValueError(f"{batched} need a batch, got x of shape {tuple(x.shape)}; pass x[None] and target[None]")
    if mlp.folded:
        raise ValueError(
            "the network has batch norms multiplied into its weights, whose derivatives are not those of the module's parameters; "
            "take jacobians.module_gradient for the gradient of a loss, or leave out the BatchNorm1d layers"
        )


def _compute(
    mlp: MLP, quantity: str, inputs: tuple[Tensor, ...], loss: str | Loss | None, method: str, request: Request, raw: bool = False
) -> Any:
    if loss is not None and not isinstance(loss, str):
        loss = loss_of(loss)  # refuses what is no loss, and could not be looked up

    def check(text: str | None) -> None:
        _described(mlp, inputs[0])
        if text is not None:
            _check_target(mlp, inputs[0], inputs[1], loss_of(text))

    return compute_cached(mlp, quantity, inputs, method, request, loss, check, raw)


def _check_target(mlp: MLP, x: Tensor, target: Tensor, loss: Loss) -> None:
    """Refuse a target whose shape or type does not fit; what its numbers are is looked at in each call."""
    y = x.new_empty((*x.shape[:-1], mlp.P))
    if isinstance(target, Tensor) and loss.classes and not target.is_floating_point() and target.shape == y.shape[:-1]:
        loss.checked(y, torch.zeros_like(target, device="cpu") if target.dtype == torch.int64 else target)
    else:
        loss.checked(y, target)

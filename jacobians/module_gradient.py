"""Gradients of a loss in the parameters of a torch module with batch norms, in training mode too, by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jacobians.network.activations import Activation
from jacobians.network.from_torch import Chain
from jacobians.network.losses import Loss, loss_of
from jacobians.planning import transforms


@dataclass(frozen=True, eq=False)
class ModuleGradient:
    """A loss and its derivatives in the parameters of a module.

    Attributes:
        loss: The loss; with reduction `none` all its values, whose sum is differentiated.
        parameters: Name of each parameter, as in `module.named_parameters()`, to `∂L/∂θ` of its shape.
        x: `∂L/∂x`, of the shape of x, where it was asked for.
    """

    loss: Tensor
    parameters: dict[str, Tensor]
    x: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Normalised:
    """The tape of a batch norm."""

    n: Tensor  # `(z - μ) / √(σ² + ε)`
    factor: Tensor  # `γ / √(σ² + ε)`
    of_batch: bool  # whether μ and σ² are the batch's, and so depend on every sample
    mean: Tensor  # μ
    variance: Tensor  # σ²


def normalise(norm: nn.BatchNorm1d, z: Tensor) -> tuple[Tensor, Normalised]:
    """Evaluate a batch norm, `γ n + β`; in training mode with the batch's statistics.

    Source:
        Ioffe & Szegedy, Batch Normalization, arXiv 1502.03167 (2015).
    """
    of_batch = norm.training or norm.running_mean is None
    if of_batch:
        if len(z) < 2:
            raise ValueError(f"batch norm in training mode needs more than one sample, got {len(z)}; pass a batch, or call module.eval()")
        mean, variance = z.mean(0), z.var(0, unbiased=False)
    else:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean, variance = norm.running_mean, norm.running_var
    inverse = torch.rsqrt(variance + norm.eps)
    n = (z - mean) * inverse
    scaled = n if norm.weight is None else norm.weight * n
    out = scaled if norm.bias is None else scaled + norm.bias
    return out, Normalised(n, inverse if norm.weight is None else norm.weight * inverse, of_batch, mean, variance)


def _move_statistics(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, count: int) -> None:
    """`running ← (1 - m) running + m batch`, with the unbiased variance; without a momentum the average over all batches."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    momentum = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance * (count / (count - 1)), momentum)


def pull(tape: Normalised, C: Tensor) -> Tensor:
    """Pull cotangents back through a batch norm.

    The batch's mean and variance depend on every sample: `∂L/∂z = γ/σ (C - mean(C) - n mean(C n))`. With running statistics the layer is
    affine, and `∂L/∂z = γ/σ C`.
    """
    if tape.of_batch:
        C = C - C.mean(0) - tape.n * (C * tape.n).mean(0)
    return tape.factor * C


@transforms.in_own_precision
def module_gradient(module: nn.Module, x: Tensor, target: Tensor, loss: str | Loss = "mse", *, inputs: bool = False) -> ModuleGradient:
    """Compute the gradient of a loss in all parameters of a module, batch norms in training or eval mode included.

    In training mode a batch norm couples the samples: no sample has a Jacobian of its own, but the loss has a gradient. As in torch,
    evaluating then moves the running statistics; nothing else is changed.

    Args:
        module: A chain of the layers that `MLP.from_torch` takes.
        x: Input of shape (N, D).
        target: Of the shape of the output; class indices (N,) for `cross_entropy`.
        loss: A name with torch's defaults, or a `Loss`.
        inputs: Whether to return `∂L/∂x` too.

    Returns:
        The loss and its derivatives.

    Raises:
        TypeError: A layer is of another kind, or an argument has the wrong type.
        ValueError: The input or the target does not fit, a layer is random or does more than its type says, or a batch of one is to be
            normalised.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
        >>> g = module_gradient(net, torch.randn(16, 3), torch.zeros(16, 2))
        >>> [(name, tuple(t.shape)) for name, t in g.parameters.items()][:3]
        [('0.weight', (8, 3)), ('0.bias', (8,)), ('1.weight', (8,))]
    """
    rule = loss_of(loss)
    layers = Chain(module, normalising=True).sequence
    first = next(layer for layer in layers if isinstance(layer, nn.Linear))
    if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != first.in_features:
        raise ValueError(f"x must be a tensor of shape (N, {first.in_features}), got {tuple(getattr(x, 'shape', ())) or type(x).__name__}")
    if x.dtype != first.weight.dtype or x.device != first.weight.device:
        raise TypeError(f"x is {x.dtype} on {x.device}, the module {first.weight.dtype} on {first.weight.device}; convert one of them")
    with torch.no_grad():
        tape: list[tuple[Any, Tensor, Any]] = []  # layer, what entered or left it, slope or statistics
        h = x
        for layer in layers:
            if isinstance(layer, nn.Linear):
                tape.append((layer, h, None))
                h = nn.functional.linear(h, layer.weight, layer.bias)
            elif isinstance(layer, Activation):
                y = layer.value(h)
                tape.append((layer, y, layer.slope(h, y)))
                h = y
            else:
                out, normalised = normalise(layer, h)
                tape.append((layer, h, normalised))
                h = out
        value, C = rule.value_and_cotangent(h, target)
        found: dict[int, Tensor] = {}  # by the identity of the parameter: layers may share one

        def add(parameter: Tensor | None, derivative: Tensor) -> None:
            if parameter is not None:
                found[id(parameter)] = found[id(parameter)] + derivative if id(parameter) in found else derivative

        for layer, kept, slope in reversed(tape):
            if isinstance(layer, nn.Linear):
                add(layer.weight, C.mT @ kept)
                add(layer.bias, C.sum(0))
                C = C @ layer.weight
            elif isinstance(layer, Activation):
                C = layer.pull(kept, C) if layer.coupled else C if slope is None else C * slope
            else:
                assert isinstance(slope, Normalised)
                add(layer.weight, (C * slope.n).sum(0))
                add(layer.bias, C.sum(0))
                C = pull(slope, C)
        for layer, kept, slope in tape:  # when nothing can be refused any more
            if isinstance(layer, nn.BatchNorm1d) and layer.training and layer.running_mean is not None:
                _move_statistics(layer, slope.mean, slope.variance, len(kept))
    return ModuleGradient(value, {name: found[id(p)] for name, p in module.named_parameters() if id(p) in found}, C if inputs else None)

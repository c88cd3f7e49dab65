"""The problem of a network and an input, and the refusal of an input that does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from jacobians.network.mlp import MLP, check_parameters, widths_of
from jacobians.planning import transforms
from jacobians.planning.registry import find_quantity
from jacobians.problem import Problem, is_integer


def problem_of(mlp: MLP, x: Tensor) -> Problem:
    """Describe a network and an input, refusing an input that does not fit."""
    if not isinstance(mlp, MLP):
        raise TypeError(f"expected a jacobians.MLP or a torch nn.Module, got {type(mlp).__name__}; pass e.g. an nn.Sequential")
    weights, biases = mlp.parameter_tuples()
    if mlp.graph is None:
        check_parameters(weights, biases)
    first, D = weights[0], mlp.D
    dense("x", x)
    if not x.dtype.is_floating_point:
        raise TypeError(f"x must be floating-point, got {x.dtype}; convert it with x.to({first.dtype})")
    if x.ndim not in (1, 2):
        raise ValueError(f"x must have shape (D,) or (N, D), got shape {tuple(x.shape)}; reshape it to (-1, {D})")
    if x.shape[-1] != D:
        raise ValueError(f"x has {x.shape[-1]} features, but the network takes D={D}; expected ({D},) or (N, {D})")
    if x.dtype != first.dtype:
        raise TypeError(f"x is {x.dtype} but the network is {first.dtype}; convert one of them, e.g. x.to({first.dtype})")
    if x.device != first.device:
        raise ValueError(f"x is on {x.device} but the network is on {first.device}; move one of them, e.g. x.to('{first.device}')")
    return Problem(
        widths=mlp._widths if transforms.tracing() or mlp.graph else widths_of(weights),
        batch=None if x.ndim == 1 else x.shape[0] if type(x.shape[0]) is int else 1,  # what is traced goes by no sizes
        activation=mlp.activation,
        output_activation=mlp.output_activation,
        bias=any(b is not None for b in biases),
        dtype=str(x.dtype).removeprefix("torch."),
        device=str(x.device),
        structure=mlp.graph.reason if mlp.graph else "",
    )


def dense(name: str, t: Tensor) -> None:
    """Refuse what is no tensor whose numbers all stand in memory: sparse, nested and mkldnn ones too."""
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(t).__name__}; convert it with torch.as_tensor")
    if t.layout is not torch.strided or t.is_nested:
        layout = "nested" if t.is_nested else str(t.layout)
        raise TypeError(f"{name} must be a dense tensor, got a {layout} one; convert it with {name}.to_dense()")


def check_inputs(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> None:
    """Refuse what does not fit a quantity: the one check of every call, made where it is planned."""
    what, others = find_quantity(problem.quantity), inputs[1:]
    if what.batched and problem.batch is None:
        raise ValueError(f"the {what.name} is one of a batch, got a single x of shape {problem.input_shape}; pass x[None]")
    if what.of_parameters:
        not_folded(mlp)
    if not len(what.takes) - what.optional <= len(others) <= len(what.takes):
        names = ", ".join(what.takes) or "nothing"
        raise ValueError(f"the {what.name} takes {names} besides x, got {len(others)} tensors; pass others=({names},) in this order")
    for name, t in zip(what.takes, others, strict=False):
        dense(name, t)
    what.fits(mlp, problem, inputs)
    warn_of_straight(mlp, problem, what.order(problem))


def check_bytes(max_bytes: object) -> None:
    """Refuse what is no bound of memory."""
    if not is_integer(max_bytes) or max_bytes < 1:  # pyright: ignore[reportOperatorIssue]
        raise ValueError(f"max_bytes must be a positive number of bytes, got {max_bytes!r}; pass e.g. max_bytes=2**28 for 256 MB")


def warn_of_straight(mlp: MLP, problem: Problem, order: int) -> None:
    """Say that second derivatives of a piecewise linear network are zero: people wait for 2, and get 0."""
    if order < 2:
        return
    rules = problem.activations
    kinds = dict.fromkeys(rule.name for rule in rules if rule.name != "identity") if all(rule.piecewise_linear for rule in rules) else {}
    if kinds := mlp.graph.kinks() if mlp.graph else kinds:
        warnings.warn(
            f"the network is piecewise linear ({', '.join(kinds)}): its second and higher derivatives are zero wherever they exist; "
            f"take a smooth activation, e.g. tanh, softplus or gelu",
            stacklevel=2,
        )


def not_folded(mlp: MLP) -> None:
    """Refuse a network with folded batch norms."""
    if mlp.graph is not None:
        raise ValueError(
            f"derivatives by the parameters are computed of chains of layers, and this is none: {mlp.graph.reason}; take "
            "loss.backward() of the module, or jacobian(..., create_graph=True)"
        )
    if mlp.folded:
        raise ValueError(
            "the network has weights that are computed from the module's parameters (batch norms multiplied in, parametrizations, or "
            "outputs left out), whose derivatives are not those of the parameters; "
            "take jacobians.module_gradient for the gradient of a loss, or leave out the BatchNorm1d layers"
        )


def check_like(name: str, t: Tensor, shape: Sequence[int], x: Tensor) -> None:
    """Refuse a tensor that has not the shape, or another dtype or device than x."""
    if tuple(t.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(t.shape)}; reshape it")
    if t.dtype != x.dtype or t.device != x.device:
        raise TypeError(f"{name} must be {x.dtype} on {x.device}, as x is, got {t.dtype} on {t.device}; convert it with {name}.to(x)")

"""What `torch.compile` records of the kernels in C: custom operators, of which it sees the shapes and the way back, and nothing inside.

They serve while it traces, and nothing else: in a plain call one costs more than the plan that it stands for.
"""

import functools
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jacobians.kernels.native import derivatives, gradient, second_order
from jacobians.kernels.native.pullback import Pullback
from jacobians.kernels.native.runner import Runner, plain
from jacobians.modes.taylor import weighted
from jacobians.network.losses import loss_of
from jacobians.network.mlp import MLP, widths_of
from jacobians.planning.planner import candidates
from jacobians.planning.registry import JACOBIAN, Request, find_method
from jacobians.planning.transforms import constant
from jacobians.problem import Problem
from jacobians.quantities.gradient import Parts
from jacobians.quantities.pullback import in_pairs

MODES = {
    JACOBIAN: ("forward", "reverse", "mixed"),
    "laplacian": ("forward",),
    "derivatives": ("forward", "reverse"),
    "gradient": ("reverse",),
}


def take(mlp: MLP, quantity: str, inputs: tuple[Tensor, ...], method: str, request: Request, loss: str | None, asked: str | None) -> Any:
    """Compute by an operator; `None` where there is none for this, and a readable mode is to be traced."""
    if mlp.graph is not None or request.wrt:
        return None
    x, looks = inputs[0], (mlp.activation, mlp.output_activation)
    mode = _mode(quantity, method, x.ndim, mlp.sizes, looks, str(x.dtype), str(x.device), loss, asked)
    if mode is None or (quantity == "gradient" and request.create_graph):
        return None
    weights, biases = mlp.parameter_tuples()
    parameters = [t for pair in zip(weights, biases, strict=True) for t in pair if t is not None]
    network = "|".join((*looks, "".join(["0" if b is None else "1" for b in biases])))
    with torch.set_grad_enabled(request.create_graph):
        if quantity == "gradient":
            assert loss is not None
            found = torch.ops.jacobians.gradient(x, inputs[1], parameters, network, loss, request.inputs)
            views = _apart(found[0][:-1], parameters)
            return (found[0][-1], *views, *found[1:])
        if quantity == "derivatives":
            assert asked is not None
            return _named(x, parameters, network, mode, mlp.sizes, asked)
        y, J, laplacians = torch.ops.jacobians.push(x, inputs[1] if quantity == "laplacian" else None, parameters, network, mode)
        if quantity == "laplacian":
            return y, J, laplacians
        return (y, J) if request.value else J


def _named(x: Tensor, parameters: list[Tensor], network: str, mode: str, sizes: str, asked: str) -> tuple[Tensor, ...]:
    """Compute derivatives by name from y, J and Laplacians, with another input of the network for each pair that is mixed."""
    directions, pairs, places = _arithmetic(sizes, asked)
    at, parameters = x, list(parameters)
    if pairs:
        W = parameters[0]
        parameters[0] = torch.cat([W, torch.stack([W[:, d] + W[:, e] for d, e in pairs], 1)], 1)
        at = torch.cat([x, x.new_zeros((*x.shape[:-1], len(pairs)))], -1)
    along = x.new_tensor(directions) if directions else None
    three = torch.ops.jacobians.push(at, along, parameters, network, "forward" if directions else mode)
    parts = [t.flatten(x.ndim - 1) for t in (three if directions else three[:2])]
    return tuple(weighted([(weight, parts[level][..., place]) for weight, place in where]) for level, where in places)


@constant
def _arithmetic(sizes: str, asked: str) -> Any:
    problem = Problem(widths=_widths(sizes), quantity="derivatives", asked=asked)
    return derivatives.arithmetic(problem)


@constant
def _mode(
    quantity: str,
    method: str,
    ndim: int,
    sizes: str,
    activations: tuple[str, str],
    dtype: str,
    device: str,
    loss: str | None,
    asked: str | None,
) -> str | None:
    """Return the mode that is asked for, `auto` perhaps; `None` where no kernel serves."""
    mode, _, implementation = method.rpartition("/")[2].partition(":")
    if quantity not in MODES or implementation not in {"", "native"} or mode not in {"auto", *MODES[quantity]}:
        return None
    if any(torch._C._functorch.get_interpreter_stack() or ()):  # pyright: ignore[reportAttributeAccessIssue]  # they record what is inside
        return None
    problem = Problem(
        _widths(sizes),
        None if ndim == 1 else 1,
        *activations,
        dtype=dtype.removeprefix("torch."),
        device=device,
        quantity=quantity,
        loss=loss,
        asked=asked,
    )
    tried = [name for name in MODES[quantity] if mode in {"auto", name}]
    prefix = "" if quantity == JACOBIAN else f"{quantity}/"
    able = [name for name in tried if find_method(f"{prefix}{name}:native").unsupported(problem) is None]
    return None if not able or problem.activations[-1].coupled else mode if mode != "auto" else "auto" if len(able) > 1 else able[0]


def _widths(sizes: str) -> tuple[int, ...]:
    return tuple(map(int, sizes.split("-")))


def _sizes(network: str, parameters: list[Tensor]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return the widths, and whether each layer has a bias."""
    biased = tuple(bit == "1" for bit in network.rpartition("|")[2])
    weights = [W for W, _ in in_pairs(parameters, biased)]
    return widths_of(tuple(weights)), biased


class _Structure(NamedTuple):
    """What kernels are prepared for."""

    network: str
    widths: tuple[int, ...]
    biased: tuple[bool, ...]
    batch: int | None
    dtype: str

    def template(self) -> tuple[MLP, Problem]:
        """Make a network of these sizes, whose memory is never touched."""
        activation, output, _ = self.network.split("|")
        weights = [torch.empty(o, i, dtype=getattr(torch, self.dtype)) for i, o in pairwise(self.widths)]
        biases = [W.new_empty(len(W)) if b else None for W, b in zip(weights, self.biased, strict=True)]
        problem = Problem(self.widths, self.batch, activation, output, any(self.biased), self.dtype)
        return MLP(weights, biases, activation, output), problem


@functools.lru_cache(maxsize=256)
def _kernels(of: _Structure, mode: str, laplacians: int) -> tuple[Any, Pullback]:
    """Prepare the kernels of a structure, which hold no parameters of anybody."""
    template, problem = of.template()
    if laplacians:
        compute: Any = second_order.Laplacians(template, problem.with_(quantity="laplacian"), laplacians)
    else:
        if mode == "auto":
            mode = next(method.mode for method in map(find_method, candidates(problem)) if method.implementation == "native")
        compute = Runner(template, mode, problem, value=True)
    return compute, Pullback(problem, of.biased, laplacians)


@functools.lru_cache(maxsize=256)
def _gradient(of: _Structure, loss: str, classes: bool, inputs: bool) -> tuple[gradient.Derivative, Pullback]:
    template, problem = of.template()
    rule = loss_of(loss)
    kernel = gradient.Derivative(template, problem.with_(quantity="gradient", loss=loss), gradient.GRADIENT, rule, classes, inputs)
    return kernel, Pullback(problem, of.biased)


def _of(network: str, x: Tensor, parameters: list[Tensor]) -> _Structure:
    return _Structure(network, *_sizes(network, parameters), None if x.ndim == 1 else len(x), str(x.dtype).removeprefix("torch."))


@torch.library.custom_op("jacobians::push", mutates_args=(), device_types="cpu")
def push(x: Tensor, directions: Tensor | None, parameters: list[Tensor], network: str, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    """Compute y, J, and the Laplacians of the directions; an empty tensor in their place where there are none."""
    compute, pull = _kernels(_of(network, x, parameters), mode, 0 if directions is None else len(directions))
    addresses = pull.addresses(parameters)
    if directions is None:
        y, J = compute(x, addresses)
        return y, J, x.new_empty(0)
    return compute(x, directions, addresses)[0]


@push.register_fake
def _(x: Tensor, directions: Tensor | None, parameters: list[Tensor], network: str, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    lead, (D, *_, P) = x.shape[:-1], _sizes(network, parameters)[0]
    laplacians = (0,) if directions is None else (*lead, P, len(directions))
    return x.new_empty((*lead, P)), x.new_empty((*lead, P, D)), x.new_empty(laplacians)


@torch.library.custom_op("jacobians::pull", mutates_args=(), device_types="cpu")
def pull(
    x: Tensor,
    directions: Tensor | None,
    parameters: list[Tensor],
    y: Tensor | None,
    J: Tensor | None,
    laplacians: Tensor | None,
    network: str,
    wants_x: bool,
    wants_parameters: bool,
) -> tuple[Tensor, Tensor]:
    """Pull cotangents of y, J and Laplacians back to x and a vector of all parameters; an empty tensor for what is not wanted."""
    _, way = _kernels(_of(network, x, parameters), "forward", 0 if directions is None else len(directions))
    cotangents = (y, J) if directions is None else (y, J, laplacians)
    gx, out = way(plain("x", x), parameters, directions, None, cotangents, wants_x, wants_parameters)
    return x.new_empty(0) if gx is None else gx, x.new_empty(0) if out is None else out


@pull.register_fake
def _(x: Tensor, directions: Tensor | None, parameters: list[Tensor], *others: Any) -> tuple[Tensor, Tensor]:
    *_, wants_x, wants_parameters = others
    size = sum(prod(p.shape) for p in parameters) if wants_parameters else 0
    return x.new_empty(x.shape if wants_x else (0,)), x.new_empty((size,))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, directions, parameters, ctx.network, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.directed = directions is not None
    ctx.save_for_backward(x, *((directions,) if ctx.directed else ()), *parameters)


def _back(ctx: Any, y: Tensor | None, J: Tensor | None, laplacians: Tensor | None) -> Any:
    x, *parameters = ctx.saved_tensors
    directions = parameters.pop(0) if ctx.directed else None
    wanted = ctx.needs_input_grad[2]
    wants_x, wants_parameters = ctx.needs_input_grad[0], any(wanted) if isinstance(wanted, list | tuple) else bool(wanted)
    if not ctx.directed:
        laplacians = None
    gx, vector = torch.ops.jacobians.pull(x, directions, parameters, y, J, laplacians, ctx.network, wants_x, wants_parameters)
    return gx if wants_x else None, None, _apart(vector, parameters) if wants_parameters else [None] * len(parameters), None, None


def _apart(vector: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Take a vector of all parameters apart."""
    return [part.view(p.shape) for part, p in zip(vector.split([prod(p.shape) for p in like]), like, strict=True)]


push.register_autograd(_back, setup_context=_keep)


@push.register_vmap
def _(info: Any, in_dims: Any, x: Tensor, directions: Tensor | None, parameters: list[Tensor], network: str, mode: str) -> Any:
    """Samples of x go side by side; batches of parameters or directions one after the other."""
    by_x, by_directions, by_parameters, *_ = in_dims
    if by_directions is None and all(by is None for by in by_parameters):
        samples = x.movedim(by_x, 0)
        found = push(samples.reshape(-1, samples.shape[-1]), directions, parameters, network, mode)
        lead = samples.shape[:-1]
        return tuple(t.reshape(*lead, *t.shape[1:]) if t.numel() or t.ndim > 1 else t.expand(info.batch_size, 0) for t in found), (0, 0, 0)
    at = lambda t, by, i: t if by is None else t.select(by, i)  # noqa: E731
    each = [
        push(
            at(x, by_x, i),
            None if directions is None else at(directions, by_directions, i).contiguous(),
            [at(p, by, i).contiguous() for p, by in zip(parameters, by_parameters, strict=True)],
            network,
            mode,
        )
        for i in range(info.batch_size)
    ]
    return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), (0, 0, 0)


@torch.library.custom_op("jacobians::gradient", mutates_args=(), device_types="cpu")
def gradient_of(x: Tensor, target: Tensor, parameters: list[Tensor], network: str, loss: str, inputs: bool) -> list[Tensor]:
    """Compute the vector of all derivatives of a loss by the parameters with the loss behind them, and `∂L/∂x` where it is wanted."""
    classes = loss_of(loss).classes and not target.is_floating_point()
    kernel, pull = _gradient(_of(network, x, parameters), loss, classes, inputs)
    parts = kernel(x, target, addresses=pull.addresses(parameters))
    assert isinstance(parts, Parts)
    return [parts.all] if parts.x is None else [parts.all, parts.x]


@gradient_of.register_fake
def _(x: Tensor, target: Tensor, parameters: list[Tensor], network: str, loss: str, inputs: bool) -> list[Tensor]:
    vector = x.new_empty((sum(prod(p.shape) for p in parameters) + 1,))
    return [vector, x.new_empty(x.shape)] if inputs else [vector]

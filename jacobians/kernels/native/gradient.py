"""Gradients, Gauss-Newton products and norms of per-sample gradients by the C function, and an update in the same call."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jacobians.kernels.native.compiler import library
from jacobians.kernels.native.program import FEWEST_BYTES, FEWEST_OPERATIONS, Setting, numbers, registers, settings_of
from jacobians.kernels.native.runner import Addresses, done, in_c, plain, supports
from jacobians.network.losses import Loss
from jacobians.network.mlp import MLP
from jacobians.planning.registry import Computation, NotPlain, Prepare, Request
from jacobians.problem import Problem
from jacobians.quantities import sgd_step
from jacobians.quantities.gradient import Parts
from jacobians.quantities.jacobian_gradient import not_empty
from jacobians.quantities.parameters import loss_in, offsets
from jacobians.quantities.pullback import views_of

GRADIENT, GAUSS_NEWTON, NORMS = range(3)
BAD_CLASS = -3
# From here on the threads share out the rows of each product, instead of the samples: each would else have all derivatives to itself.
TOGETHER_BYTES = 2**19
TOGETHER_SAMPLES = 512
_SPARE_ROWS, _SAMPLES_AT_ONCE = 24, 512


class ParameterLayout(ctypes.Structure):
    """`ParameterLayout` of native.c."""

    _fields_ = [
        ("layers", ctypes.c_int64),
        ("widths", ctypes.POINTER(ctypes.c_int64)),
        ("activation", ctypes.POINTER(Setting)),
        ("at_weight", ctypes.POINTER(ctypes.c_int64)),
        ("at_bias", ctypes.POINTER(ctypes.c_int64)),
        *((name, ctypes.c_int64) for name in ("parameters", "numbers", "widest", "kind", "samples", "block", "together")),
        *((name, ctypes.c_int64) for name in ("loss", "classes", "work", "work_of_thread")),
        *((name, ctypes.c_double) for name in ("factor", "rate", "momentum", "decay")),
    ]


class Derivative:
    """Calls the C function for derivatives with respect to the parameters; `lean` with the fewest samples at a time, on one thread."""

    def __init__(self, mlp: MLP, problem: Problem, kind: int, loss: Loss, classes: bool, inputs: bool = False, lean: bool = False) -> None:
        self._addresses, self._inputs, self._kind = Addresses(mlp, problem), inputs, kind
        N, P = problem.N, problem.P
        self._chain = chain = layout_of(mlp, problem)
        self.like = [torch.empty_like(p) for p in mlp.parameters()]
        panel, lanes = registers(problem.dtype)
        self._threaded = not lean and is_worth_threads(problem)
        threads = torch.get_num_threads() if self._threaded else 1
        stored = chain.parameters * problem.itemsize
        together = (
            threads > 1 and kind != NORMS and (stored >= 4 * TOGETHER_BYTES or (stored >= TOGETHER_BYTES and N <= TOGETHER_SAMPLES // 2))
        )
        if together:
            block = min(-(-N // panel) * panel, TOGETHER_SAMPLES)
        else:
            # Samples fill whole vectors: one, two, or a panel of two or four, as the registers allow.
            block = lanes if lean else next((size for size in (lanes, 2 * lanes) if size * threads >= N), panel)
        values, widest = chain.numbers, chain.widest
        chain.kind, chain.samples, chain.block, chain.together = kind, N, block, int(together)
        chain.loss, chain.classes = library().loss_code(loss.name.encode()), int(classes)
        count = 1 if loss.reduction != "mean" else P if kind == NORMS else N * P
        if loss.per_sample:
            count = N if loss.reduction == "mean" and kind != NORMS else 1
        chain.factor = loss.scale / max(1, count)
        if kind == GRADIENT and N == 1:
            chain.work, chain.work_of_thread = 2 * values + 3 * panel + widest, widest + 4 * P * lanes
        else:
            shared = ((3 if kind == GAUSS_NEWTON else 2) * values + 3 * widest + 1) * block
            own = (_SPARE_ROWS + _SAMPLES_AT_ONCE) * panel
            chain.work = shared if together else 0
            chain.work_of_thread = own if together else own + shared + (0 if kind == NORMS else chain.parameters)
            chain.work_of_thread = -(-chain.work_of_thread // 16) * 16
        self._at = ctypes.addressof(chain)
        self._function = getattr(library(), f"gradient_{problem.dtype}")
        self._function.argtypes = [ctypes.c_void_p] * 10 + [ctypes.c_int]
        self._outputs, self._itemsize = P, problem.itemsize
        self._rates = (0.0, 0.0, 0.0)  # of an update
        # The loss stands behind a gradient: one tensor is allocated instead of two.
        self._result = {GRADIENT: chain.parameters + 1, GAUSS_NEWTON: chain.parameters, NORMS: N}[kind]

    @property
    def working_bytes(self) -> int:
        """Memory of a call beyond its result, on as many threads as it takes."""
        threads = torch.get_num_threads() if self._threaded else 1
        return self.like[0].element_size() * (self._chain.work + threads * self._chain.work_of_thread)

    def __call__(
        self, x: Tensor, target: Tensor, v: Tensor | None = None, *, addresses: tuple[Any, Any, Any] | None = None
    ) -> Parts | Tensor:
        """Compute; with the parameters at other addresses where these are given."""
        weights, biases, alive = addresses or self._addresses.now()
        x, target = plain("x", x), plain("target", target)
        out = x.new_empty(self._result)
        at = out.data_ptr()
        if self._kind != GRADIENT:
            v = None if v is None else plain("v", v)
            self._call(weights, biases, x.data_ptr(), target.data_ptr(), None if v is None else v.data_ptr(), at, None, None, None)
            return out
        gx = torch.empty_like(x) if self._inputs else None
        loss = at + (self._result - 1) * self._itemsize
        self._call(weights, biases, x.data_ptr(), target.data_ptr(), None, at, None if gx is None else gx.data_ptr(), loss, None)
        del alive
        return Parts(out, self.like, gx)

    def update(self, x: Tensor, target: Tensor, rate: float, momentum: float, decay: float, velocity: Tensor | None) -> Tensor:
        """Compute the gradient and take a step of gradient descent with it, in one call; the gradient itself is not kept."""
        if self._rates != (rate, momentum, decay):
            self._rates = self._chain.rate, self._chain.momentum, self._chain.decay = rate, momentum, decay
        weights, biases, alive = self._addresses.now()
        if isinstance(alive, list):  # copies would be updated in their place
            raise NotPlain("a parameter is not contiguous, and cannot be updated where it stands")
        x, target, loss = plain("x", x), plain("target", target), x.new_empty(())
        at_velocity = None if velocity is None else velocity.data_ptr()
        self._call(weights, biases, x.data_ptr(), target.data_ptr(), None, None, None, loss.data_ptr(), at_velocity)
        del alive
        return loss

    def _call(self, *addresses: Any) -> None:
        status = self._function(self._at, *addresses, torch.get_num_threads() if self._threaded else 1)
        if status == BAD_CLASS:
            raise ValueError(f"class indices must lie in 0 … {self._outputs - 1}")
        if status:
            done(status, "a derivative of the loss")


def layout_of(mlp: MLP, problem: Problem) -> ParameterLayout:
    """Describe a network for the C functions: widths, activations, and where each parameter begins in a vector of all."""
    widths = problem.widths
    at_weight, at_bias, parameters = offsets(widths, mlp.biased)
    return ParameterLayout(
        problem.L + 1, numbers(widths), settings_of(problem), numbers(at_weight), numbers(at_bias), parameters, sum(widths), max(widths)
    )


def is_worth_threads(problem: Problem) -> bool:
    """Say whether a gradient is large enough to be shared between threads."""
    if problem.N == 1:
        return problem.weights * problem.itemsize >= FEWEST_BYTES
    return problem.N * problem.weights * 6 >= FEWEST_OPERATIONS


def why_not(problem: Problem) -> str | None:
    """Say why the kernels cannot compute a derivative of a loss."""
    psi = problem.activations[-1]
    if (reason := supports(problem)) is not None:
        return reason
    if psi.coupled:
        return f"has no {psi.name} in C; use cross_entropy on the values before it, or the method in torch"
    loss = loss_in(problem)
    if library().loss_code(loss.name.encode()) < 0:
        return f"has no loss {loss.name!r} in C"
    if loss.reduction == "none" and problem.quantity != "gradient_norms":
        return "returns one loss, not one for each element; use the method in torch, or another reduction"
    return not_empty(problem)


def _prepare(kind: int) -> Prepare:
    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        loss, by_classes = loss_in(problem), {}
        takes_classes = loss.classes

        def run(inputs: tuple[Tensor, ...]) -> tuple[None, Any]:
            classes = takes_classes and not inputs[1].is_floating_point()
            derivative = by_classes.get(classes)
            if derivative is None:
                derivative = by_classes[classes] = Derivative(mlp, problem, kind, loss, classes, request.inputs)
            return None, derivative(*inputs)

        like = [torch.empty_like(p) for p in mlp.parameters()]
        restore = {
            GRADIENT: lambda parts: parts.tensors(),
            GAUSS_NEWTON: lambda out: tuple(views_of(out, like)),
            NORMS: lambda out: (out,),
        }
        return Computation(run, restore=restore[kind], records=False)

    return prepare


def _prepare_step(mlp: MLP, problem: Problem, request: Request) -> Computation:
    network, loss = sgd_step.own_copy(mlp), loss_in(problem)
    derivative = Derivative(network, problem, GRADIENT, loss, loss.classes)
    parameters = tuple(network.parameters())

    def run(inputs: tuple[Tensor, Tensor]) -> tuple[None, tuple[Tensor, ...]]:
        return None, (derivative.update(*inputs, sgd_step.RATE, 0.0, 0.0, None), *parameters)

    return Computation(run, records=False, reset=lambda: sgd_step.put_back(network, mlp))


_of_loss = partial(in_c, supports=why_not)
_of_loss("gradient/reverse:native", options=("inputs",), summary="evaluation, loss and pullback in C, block by block")(_prepare(GRADIENT))
_of_loss("ggn/products:native", summary="tangents and cotangents of a block in C")(_prepare(GAUSS_NEWTON))
_of_loss("gradient_norms/reverse:native", summary="from the norms of both factors, in C")(_prepare(NORMS))
_of_loss("sgd_step/reverse:native", summary="gradient and update in one call, in C")(_prepare_step)

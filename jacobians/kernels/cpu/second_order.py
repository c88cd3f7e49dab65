"""Laplacians and Hessians by the C function, and the way back through them and through a Jacobian: `torch.autograd` sees one operation.

The backward pass recomputes what it needs, block by block, from x and the parameters: nothing but these is kept between the two passes.
Keeping the values and derivatives of every layer instead was measured too: docs/methods.md.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from jacobians.kernels.cpu.compiler import library
from jacobians.kernels.cpu.program import FEWEST_OPERATIONS, Setting, setting
from jacobians.kernels.cpu.runner import Addresses, addresses_of, done, plain, supports
from jacobians.mlp import MLP
from jacobians.problem import Problem
from jacobians.quantities import jacobian_gradient, laplacian_gradient
from jacobians.quantities.jacobian_gradient import not_empty
from jacobians.quantities.parameters import leaves_of
from jacobians.registry import JACOBIAN, Computation, Request, register

PUSH, HESSIAN, BACK_FORWARD, BACK_REVERSE = range(4)
# A block whose working set is larger is cut to half its samples, so that it stays in the second cache.
CACHED_BYTES = 2097152
SLOTS, MOST_SLOTS, SUM_BYTES = 16, 64, 2**18
# A push leaves for the way back what takes no more than this. Beyond, memory comes fresh from the system in each step and its page faults
# cost more than computing again: docs/methods.md.
KEPT_BYTES = 2**25
THIRD = (
    "the kernels in C pull back once, and this asks for a derivative of what they pulled back; "
    "compute with method='forward:eager' or 'reverse:eager' (quantities of their own: 'forward:eager'), which can be differentiated again"
)


class Jet(ctypes.Structure):
    """`Jet` of native.c."""

    _fields_ = [
        ("layers", ctypes.c_int64),
        ("widths", ctypes.POINTER(ctypes.c_int64)),
        ("activation", ctypes.POINTER(Setting)),
        *((name, ctypes.POINTER(ctypes.c_int64)) for name in ("at_weight", "at_bias", "at_padded")),
        *((name, ctypes.c_int64) for name in ("numbers", "widest", "kind", "samples", "block", "laplacians", "keeps")),
        *((name, ctypes.c_int64) for name in ("parameters_padded", "work_of_thread", "kept_of_block", "slots")),
        ("penalty", ctypes.c_double),
    ]


class InputDerivatives:
    """Calls the C function for one kind of computation.

    Args:
        problem: The problem; of one whose output couples its neurons, what is computed stands before that output.
        biased: Whether each layer has a bias.
        kind: `PUSH` (y, J, Laplacians), `HESSIAN`, `BACK_FORWARD` (cotangents of y, J and Laplacians to the parameters and x, along
            tangents), or `BACK_REVERSE` (those of y and J, along cotangents).
        laplacians: M.
        keeps: Whether a push leaves what the way back needs, and the way back finds it.
        penalty: Factor of the loss `Σ (J - target)²`, whose way back begins at J itself; 0 for cotangents from outside.
        lean: Whether to take the fewest samples at a time, on one thread.
    """

    def __init__(
        self,
        problem: Problem,
        biased: Sequence[bool],
        kind: int,
        laplacians: int = 0,
        *,
        keeps: bool = False,
        penalty: float = 0.0,
        lean: bool = False,
    ) -> None:
        if problem.activations[-1].coupled:
            problem = problem.with_(output_activation="identity")
        widths, layers = problem.widths, problem.L + 1
        lanes, most = (getattr(library(), f"{name}_width_{problem.dtype}")() for name in ("vector", "panel"))
        sizes = [size for (i, o), b in zip(pairwise(widths), biased, strict=True) for size in (i * o, o if b else 0)]
        padded = [o * (-(-i // lanes) * lanes) + o for i, o in pairwise(widths)]
        at, at_padded = [0, *accumulate(sizes)], [0, *accumulate(padded)]
        numbers = ctypes.c_int64 * layers
        jet = Jet(
            layers,
            (ctypes.c_int64 * len(widths))(*widths),
            (Setting * layers)(*map(setting, problem.activations)),
            numbers(*at[:-1:2]),
            numbers(*[place if b else -1 for place, b in zip(at[1::2], biased, strict=True)]),
            numbers(*at_padded[:-1]),
        )
        jet.numbers, jet.widest, jet.kind, jet.samples = sum(widths[1:]), max(widths), kind, problem.N
        jet.laplacians, jet.keeps, jet.penalty = laplacians, int(keeps), penalty
        self._jet, self._at, self.parameters = jet, ctypes.addressof(jet), at[-1]
        self.threaded = not lean and problem.N * sum(i * o for i, o in pairwise(widths)) * 6 >= FEWEST_OPERATIONS
        threads = torch.get_num_threads() if self.threaded else 1
        self._count = getattr(library(), f"jet_numbers_{problem.dtype}")
        self._count.argtypes, self._count.restype = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p], ctypes.c_int64
        self._itemsize, self._what = problem.itemsize, f"derivatives at x of shape {problem.input_shape}"
        # The block of a push that keeps is that of the way back, whatever else they need.
        jet.block = lanes if lean else next((size for size in (lanes, 2 * lanes) if size * threads >= problem.N), most)
        while jet.block > 2 * lanes and sum(self._sizes()) * problem.itemsize > CACHED_BYTES and not keeps:
            jet.block //= 2
        # Each thread takes blocks of its own: more threads than blocks would only be woken.
        self._most_threads = max(1, -(-problem.N // jet.block)) if self.threaded else 1
        working, jet.kept_of_block = self._sizes()
        jet.kept_of_block = -(-jet.kept_of_block // 16) * 16
        self.kept_numbers = -(-problem.N // jet.block) * jet.kept_of_block if keeps else 0
        jet.parameters_padded = -(-at_padded[-1] // 16) * 16 if kind in (BACK_FORWARD, BACK_REVERSE) else 0
        jet.work_of_thread = -(-working // 16) * 16
        # More slots than threads, for one of them may be held up; each has a sum of its own, which must stay small.
        many = 1 if lean else SLOTS if jet.parameters_padded * problem.itemsize <= SUM_BYTES else min(threads, MOST_SLOTS)
        jet.slots = max(1, min(-(-problem.N // jet.block), many))
        self._function = getattr(library(), f"jet_{problem.dtype}")
        self._function.argtypes = [ctypes.c_void_p] * 7 + [ctypes.c_int]

    def _sizes(self) -> tuple[int, int]:
        """Return the numbers that a block takes of a thread's memory, and those that may be kept."""
        leaves = ctypes.c_int64()
        return self._count(self._at, self._jet.block, ctypes.addressof(leaves)), leaves.value

    @property
    def working_bytes(self) -> int:
        """Memory of a call beyond its result, on as many threads as it takes."""
        of_threads = self._jet.work_of_thread * min(self._most_threads, torch.get_num_threads())
        return self._itemsize * (self._jet.slots * self._jet.parameters_padded + of_threads)

    def __call__(
        self,
        weights: Any,
        biases: Any,
        x: Tensor,
        given: Sequence[Tensor | None],
        results: Sequence[Tensor | None],
        loss: Tensor | None = None,
    ) -> None:
        """Compute.

        Args:
            weights: Addresses of the weights.
            biases: Addresses of the biases.
            x: Input.
            given: Directions (one row of weights of `∂²/∂x_d²` for each Laplacian), cotangents of y, J and Laplacians, and the target of
                J, each or `None`.
            results: y, J, Laplacians, Hessian, derivatives by the parameters (one behind the other) and by x to write, and what is kept,
                each or `None`.
            loss: A scalar to write the loss of J to.

        Raises:
            MemoryError: There is no memory for the working set.
            RuntimeError: The library does not know an activation.
        """
        threads = min(self._most_threads, torch.get_num_threads())
        at_loss = None if loss is None else loss.data_ptr()
        status = self._function(self._at, weights, biases, x.data_ptr(), addresses_of(given), addresses_of(results), at_loss, threads)
        if status:
            done(status, self._what)


def along_tangents(problem: Problem) -> bool:
    """Say along what a Jacobian is pulled back: the fewer of its columns and rows, whatever it was computed along.

    Args:
        problem: The problem.

    Returns:
        Whether along its columns.
    """
    return problem.L == 0 or problem.D <= problem.P


class Pullback:
    """The way back from cotangents of y, J and Laplacians to x and the parameters.

    Args:
        problem: The problem.
        biased: Whether each layer has a bias.
        laplacians: M; 0 for a Jacobian alone.
        keeps: Whether the push has left what is needed; recomputed otherwise.
        lean: Whether to take the fewest samples at a time, on one thread.
    """

    def __init__(self, problem: Problem, biased: Sequence[bool], laplacians: int = 0, keeps: bool = False, lean: bool = False) -> None:
        kind = BACK_FORWARD if laplacians or along_tangents(problem) else BACK_REVERSE
        self._biased = list(biased)
        self.call = InputDerivatives(problem, biased, kind, laplacians, keeps=keeps, lean=lean)

    def __call__(
        self,
        x: Tensor,
        parameters: Sequence[Tensor],
        directions: Tensor | None,
        kept: Tensor | None,
        cotangents: Sequence[Tensor | None],
        wants_x: bool,
        wants_parameters: bool,
    ) -> tuple[Tensor | None, list[Tensor] | list[None]]:
        """Pull back.

        Args:
            x: Input.
            parameters: `W_1, b_1, W_2, …`, without the biases that there are none of.
            directions: As they were pushed, (M, D).
            kept: What the push has left.
            cotangents: Of y, J and the Laplacians; `None` for what nothing depends on.
            wants_x: Whether `∂L/∂x` is wanted.
            wants_parameters: Whether any `∂L/∂θ` is wanted.

        Returns:
            `∂L/∂x` or `None`, and one derivative per parameter, or `None`s.
        """
        weights, biases, alive = self.addresses(parameters)
        three = [*(None if t is None else plain("a cotangent", t) for t in cotangents), None][:3]
        out = x.new_empty(self.call.parameters) if wants_parameters else None
        gx = torch.empty_like(x) if wants_x else None
        self.call(weights, biases, x, (directions, *three, None), (None, None, None, None, out, gx, kept))
        del alive
        return gx, [None] * len(parameters) if out is None else unflatten(out, parameters)

    def addresses(self, parameters: Sequence[Tensor]) -> tuple[Any, Any, object]:
        """Return where parameters stand in memory.

        Args:
            parameters: `W_1, b_1, W_2, …`.

        Returns:
            Addresses of weights and of biases, and what must live until the call is over.
        """
        rest = iter([t if t.is_contiguous() else t.contiguous() for t in parameters])
        pairs = [(next(rest), next(rest) if b else None) for b in self._biased]
        return addresses_of([W for W, _ in pairs]), addresses_of([b for _, b in pairs]), pairs


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Take a vector of all parameters apart, without a copy.

    Args:
        vector: All numbers.
        like: A tensor of each shape.

    Returns:
        Views of these shapes.
    """
    return list(torch._C._nn.unflatten_dense_tensors(vector, list(like)))  # pyright: ignore[reportAttributeAccessIssue]


class _Differentiable(Function):
    """One operation of autograd: values by one C function, and their pullback by another."""

    @staticmethod
    def forward(ctx: Any, compute: Any, pull: Pullback, directions: Tensor | None, x: Tensor, *parameters: Tensor) -> Any:
        """Compute y or `None`, J, and Laplacians where there are any."""
        ctx.set_materialize_grads(False)
        ctx.pull, ctx.directions = pull, directions
        results, kept = compute(x)
        ctx.save_for_backward(x, kept, *parameters)
        return results

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        """Pull cotangents back."""
        x, kept, *parameters = ctx.saved_tensors
        wants_x, wanted = ctx.needs_input_grad[3], ctx.needs_input_grad[4:]
        with torch.no_grad():
            gx, found = ctx.pull(plain("x", x), parameters, ctx.directions, kept, cotangents, wants_x, any(wanted))
        gradients = [g if wants else None for g, wants in zip((gx, *found), (wants_x, *wanted), strict=True)]
        return None, None, None, *refusing(gradients, [x, *parameters, *cotangents])


class _Loss(Function):
    """The loss of a Jacobian with its derivatives, all in one pass: what goes back is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, compute: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        """Compute the loss and all derivatives."""
        loss, gx, out = compute(x, parameters, ctx.needs_input_grad[1])
        ctx.save_for_backward(x, gx, out, *parameters)
        return loss

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        """Multiply the derivatives."""
        x, gx, out, *parameters = ctx.saved_tensors
        (g,) = cotangents
        with torch.no_grad():
            found = (None if gx is None else scaled(gx, g.item()), *unflatten(scaled(out, g.item()), parameters))
        gradients = [t if wants else None for t, wants in zip(found, ctx.needs_input_grad[1:], strict=True)]
        return None, *refusing(gradients, [x, *parameters, g])


def scaled(t: Tensor, factor: float) -> Tensor:
    """Multiply by a number, on one thread.

    Args:
        t: A contiguous tensor.
        factor: The number.

    Returns:
        A tensor of its own.
    """
    out = torch.empty_like(t)
    function = getattr(library(), f"scaled_{str(t.dtype).removeprefix('torch.')}")
    function.argtypes = [ctypes.c_void_p, ctypes.c_double, ctypes.c_void_p, ctypes.c_int64]
    function.restype = None
    function(t.data_ptr(), factor, out.data_ptr(), t.numel())
    return out


def refusing(gradients: Sequence[Tensor | None], of: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """Let whoever differentiates derivatives of ours again hear that they cannot.

    Args:
        gradients: What was pulled back.
        of: What it depends on.

    Returns:
        The same numbers; where a graph of them is being recorded, with a record that raises.
    """
    if not torch.is_grad_enabled():
        return gradients
    anchors = [t for t in of if t is not None and t.requires_grad]
    there = iter(_Refusal.apply(len(anchors), *anchors, *[g for g in gradients if g is not None]))
    return [None if g is None else next(there) for g in gradients]


class _Refusal(Function):
    """The identity, which refuses to be differentiated."""

    @staticmethod
    def forward(ctx: FunctionCtx, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return all but the first few."""
        return tuple(t.view_as(t) for t in tensors[count:])

    @staticmethod
    def backward(ctx: FunctionCtx, *cotangents: Tensor) -> Any:
        """Refuse."""
        raise RuntimeError(THIRD)


def differentiable(compute: Any, pull: Pullback, x: Tensor, parameters: Sequence[Tensor], directions: Tensor | None = None) -> Any:
    """Compute so that autograd can pull back.

    Args:
        compute: `x -> (y or None, J, …), what is kept or None`.
        pull: The way back.
        x: Input.
        parameters: All parameters that `compute` uses.
        directions: Of Laplacians, (M, D).

    Returns:
        The results of `compute`, in autograd's record.
    """
    with torch.enable_grad():
        return _Differentiable.apply(compute, pull, directions, x, *parameters)


class JacobianLoss:
    """Calls the C function for the mean squared difference of J and a target, with all derivatives in the same pass.

    Args:
        mlp: The network.
        problem: The problem.
    """

    def __init__(self, mlp: MLP, problem: Problem) -> None:
        biased = [b is not None for b in mlp.biases]
        self._pull = Pullback(problem, biased)
        kind = BACK_FORWARD if along_tangents(problem) else BACK_REVERSE
        numbers = max(1, problem.N * problem.P * problem.D)
        self._call = InputDerivatives(problem, biased, kind, penalty=1.0 / numbers)

    def __call__(self, x: Tensor, parameters: Sequence[Tensor], target: Tensor | None) -> Tensor:
        """Compute, in autograd's record.

        Args:
            x: Input.
            parameters: All parameters.
            target: Of the shape of J, or `None` for zeros.

        Returns:
            The loss.

        Raises:
            NotPlain: A tensor's numbers do not stand in memory as they are.
        """
        for t in (x, *parameters):
            plain("x or a parameter", t)
        at = None if target is None else plain("the target", target)

        def compute(x: Tensor, parameters: Sequence[Tensor], wants_x: bool) -> tuple[Tensor, Tensor | None, Tensor]:
            weights, biases, alive = self._pull.addresses(parameters)
            x = plain("x", x)
            loss, out, gx = x.new_empty(()), x.new_empty(self._call.parameters), torch.empty_like(x) if wants_x else None
            self._call(weights, biases, x, (None, None, None, None, at), (None, None, None, None, out, gx, None), loss)
            del alive
            return loss, gx, out

        with torch.enable_grad():
            return _Loss.apply(compute, x, *parameters)  # pyright: ignore[reportReturnType]


class Laplacians:
    """Calls the C function for y, J and Laplacians.

    Args:
        mlp: The network.
        problem: The problem.
        laplacians: M.
        keeps: Whether to leave what the way back needs.
    """

    def __init__(self, mlp: MLP, problem: Problem, laplacians: int, keeps: bool = False) -> None:
        self._addresses, self._problem = Addresses(mlp, problem), problem
        self._call = InputDerivatives(problem, [b is not None for b in mlp.biases], PUSH, laplacians, keeps=keeps)
        batch = problem.input_shape[:-1]
        self._shapes = (*batch, problem.P), problem.jacobian_shape, (*batch, problem.P, laplacians)

    def __call__(self, x: Tensor, directions: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
        """Compute.

        Args:
            x: Input.
            directions: (M, D).

        Returns:
            y, J, and Laplacians of shape (P, M) or (N, P, M); and what is kept.

        Raises:
            NotPlain: A tensor's numbers do not stand in memory as they are.
        """
        weights, biases, alive = self._addresses.now()
        x, directions = plain("x", x), plain("weights", directions)
        y, J, laplacians = (x.new_empty(shape) for shape in self._shapes)
        kept = x.new_empty(self._call.kept_numbers) if self._call.kept_numbers else None
        self._call(weights, biases, x, (directions, None, None, None, None), (y, J, laplacians, None, None, None, kept))
        del alive
        return (y, J, laplacians), kept


def keeps_for(problem: Problem, biased: Sequence[bool], laplacians: int) -> bool:
    """Say whether a push through a Laplacian leaves what the way back needs, or that is computed again.

    Args:
        problem: The problem.
        biased: Whether each layer has a bias.
        laplacians: M.

    Returns:
        Whether it is kept.
    """
    call = InputDerivatives(problem, biased, PUSH, laplacians, keeps=True)
    return call.kept_numbers * problem.itemsize <= KEPT_BYTES


def _second(problem: Problem) -> str | None:
    psi = problem.activations[-1]
    return f"has no second derivative of {psi.name}; leave out the output activation" if psi.coupled else supports(problem)


def _prepare_laplacian(mlp: MLP, problem: Problem, request: Request) -> Computation:
    biased = [b is not None for b in mlp.biases]
    made: dict[int, tuple[Laplacians, Pullback | None]] = {}

    def run(inputs: tuple[Tensor, Tensor]) -> tuple[None, tuple[Tensor, Tensor, Tensor]]:
        x, directions = inputs
        count = len(directions)
        if count not in made:
            keeps = request.create_graph and keeps_for(problem, biased, count)
            pull = Pullback(problem, biased, count, keeps) if request.create_graph else None
            made[count] = Laplacians(mlp, problem, count, keeps), pull
        compute, pull = made[count]
        if pull is None:
            return None, compute(x, directions)[0]
        plain("x", x)  # raises outside the autograd function, where torch can still step in
        fixed = plain("weights", directions.detach())
        return None, differentiable(lambda x: compute(x, fixed), pull, x, tuple(mlp.parameters()), fixed)

    return Computation(run, records=False)


def loss_reason(problem: Problem) -> str | None:
    """Say why the loss of a Jacobian cannot be computed in one pass.

    Args:
        problem: The problem.

    Returns:
        The reason, or `None` where it can.
    """
    psi = problem.activations[-1]
    if psi.coupled:
        return f"has no {psi.name} in C, through which rows of J are not computed by themselves"
    return supports(problem) or not_empty(problem)


def _prepare_loss(mlp: MLP, problem: Problem, request: Request) -> Computation:
    network, parameters = leaves_of(mlp)
    loss = JacobianLoss(network, problem.with_(quantity=JACOBIAN))

    def run(x: Tensor) -> tuple[None, tuple[Tensor, ...]]:
        return None, jacobian_gradient.gradients(loss(x, parameters, None), parameters)

    return Computation(run, records=False)


def _prepare_hessian(mlp: MLP, problem: Problem, request: Request) -> Computation:
    addresses = Addresses(mlp, problem)
    call = InputDerivatives(problem, [b is not None for b in mlp.biases], HESSIAN)
    nothing = (None,) * 5
    shape = (*problem.jacobian_shape, problem.D)

    def run(x: Tensor) -> tuple[None, tuple[Tensor]]:
        weights, biases, alive = addresses.now()
        x = plain("x", x)
        H = x.new_empty(shape)
        call(weights, biases, x, nothing, (None, None, None, H, None, None, None))
        del alive
        return None, (H,)

    return Computation(run, records=False)


register(
    "laplacian/forward:native",
    hand_written=True,
    differentiable=True,
    supports=_second,
    device="cpu",
    summary="value, tangents and Laplacian of a block in C, with a pullback in C",
)(_prepare_laplacian)
register("hessian/symmetric:native", hand_written=True, supports=_second, device="cpu", summary="U' diag(A φ'') U of a block in C")(
    _prepare_hessian
)
register(
    "laplacian_gradient/forward:native",
    hand_written=True,
    supports=lambda problem: _second(problem) or not_empty(problem),
    device="cpu",
    summary="the forward Laplacian and its pullback in C",
)(laplacian_gradient.through("forward", "native"))
register(
    "jacobian_gradient/fused:native",
    hand_written=True,
    supports=loss_reason,
    device="cpu",
    summary="J, its loss and their pullback block by block in C, no J formed",
)(_prepare_loss)
register(
    "jacobian_gradient/forward:native",
    hand_written=True,
    supports=lambda problem: supports(problem) or not_empty(problem),
    device="cpu",
    summary="forward mode and the pullback through it in C",
)(jacobian_gradient.through("forward", "native"))
register(
    "jacobian_gradient/reverse:native",
    hand_written=True,
    supports=lambda problem: supports(problem) or not_empty(problem),
    device="cpu",
    summary="reverse mode and the pullback through it in C",
)(jacobian_gradient.through("reverse", "native"))

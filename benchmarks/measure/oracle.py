"""The oracle: what a quantity must be, by autograd in float64, and the verdict over what a method returned."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

import jacobians as jac
from benchmarks.workloads.cases import Case
from jacobians.planning.plan import make_plan
from jacobians.planning.registry import JACOBIAN, Request, find_quantity
from jacobians.quantities.sgd_step import own_copy

BASE_TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
REFUSED = 0.5  # a tolerance from which on a result of zeros could pass
SAFETY = 4.0  # a case's tolerance is this multiple of the error that rounding alone makes
NO_FLOAT64 = {"mps"}
SMALLEST_PART = 1e-3  # of the root mean square of all parts: below, the error counts against that
RELABELLINGS = 3  # independent samples of that rounding error


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a result is right: its error, what was allowed, and what is wrong with it (`None` for nothing)."""

    rel_error: float | None
    tolerance: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Reference:
    """A network, the inputs of its problem's quantity, what that is there in float64, and the error allowed."""

    mlp: jac.MLP
    problem: jac.Problem
    inputs: tuple[Tensor, ...]
    exact: tuple[Tensor, ...]
    tolerance: float

    @property
    def x(self) -> Tensor:
        """The input of the network."""
        return self.inputs[0]

    @property
    def along(self) -> bool:
        """Whether a result is a matrix that can be judged along a direction."""
        return self.problem.quantity == JACOBIAN

    def own(self) -> Reference:
        """Return the same with a network and inputs that nobody else has."""
        return replace(self, mlp=own_copy(self.mlp), inputs=tuple(t.clone() for t in self.inputs))

    def at(self, *inputs: tuple[Tensor, ...]) -> Reference:
        """Return the reference of the same network at other inputs, several where it trains; with the tolerance there."""
        mlp, base = self.mlp, BASE_TOLERANCE[self.problem.dtype]
        for one in inputs[:-1]:  # each step goes on from what the one before has made
            mlp, stepped = own_copy(mlp.to(dtype=torch.float64)), _exact(mlp, self.problem, one)[1:]
            for now, then in zip(mlp.parameters(), stepped, strict=True):
                now.copy_(then)
        exact = _exact(mlp, self.problem, inputs[-1])
        amplified = self.tolerance > base
        tolerance = min(REFUSED, _tolerance(self.mlp, self.problem, inputs[-1], exact, 0)) if amplified else base
        return replace(self, inputs=inputs[-1], exact=exact, tolerance=tolerance)

    def other_inputs(self, number: int) -> tuple[Tensor, ...]:
        """Draw other inputs like these."""
        return draw_inputs(self.problem, 1_000_003 + number)


def network_and_inputs(problem: jac.Problem, init: str, seed: int) -> tuple[jac.MLP, tuple[Tensor, ...]]:
    """Draw a network and the inputs of the problem's quantity. The same seed means the same numbers on every device."""
    dtype = getattr(torch, problem.dtype)
    mlp = jac.MLP.random(
        widths=problem.widths,
        activation=problem.activation,
        output_activation=problem.output_activation,
        bias=problem.bias,
        init=init,
        seed=seed,
        dtype=dtype,
        device=problem.device,
    )
    return mlp, draw_inputs(problem, seed + 1)


def draw_inputs(problem: jac.Problem, seed: int) -> tuple[Tensor, ...]:
    """Draw the inputs of a problem's quantity."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(problem.input_shape, generator=generator, dtype=torch.float64)
    drawn = (x, *find_quantity(problem.quantity).draw(problem, generator))
    dtype = getattr(torch, problem.dtype)
    return tuple(t.to(device=problem.device, dtype=dtype if t.is_floating_point() else t.dtype) for t in drawn)


def relative_error(found: tuple[Tensor, ...], exact: tuple[Tensor, ...], per_sample: bool) -> float:
    """Return the relative error `‖f - f64‖ / ‖f64‖`, computed in float64, of the worst part f of a result.

    Parts are the samples of a batch where there is a row for each, else the tensors: one that is wrong would vanish in the norm of
    thousands. A part that is itself a thousand times smaller than the root mean square of all is measured against that, for there
    rounding is all there is.
    """
    errors, norms = [], []
    for one, other in zip(found, exact, strict=True):
        parts = other.shape[0] if per_sample else 1
        if not other.numel():
            continue
        errors.append(torch.linalg.vector_norm((one.to(other.device).to(other.dtype) - other).reshape(parts, -1), dim=1))
        norms.append(torch.linalg.vector_norm(other.reshape(parts, -1), dim=1))
    if not errors:
        return 0.0
    error, norm = torch.cat(errors), torch.cat(norms)
    scale = norm.clamp_min(SMALLEST_PART * norm.square().mean().sqrt())
    return torch.where(scale > 0, error / scale, error).max().item()


@lru_cache(maxsize=2)  # the methods of a problem come one after the other; a twin may sit between
def reference(problem: jac.Problem, init: str, seed: int, amplifies: bool = True) -> Reference:
    """Draw the network of a case and compute what its Jacobian must be, and how close a method must come.

    A saturated network amplifies rounding from layer to layer, for every method alike. How much is estimated: hidden
    neurons are relabelled at random, which changes nothing but the order of summation, and autograd's error in the
    case's own dtype is taken, at its worst over a few relabellings. The tolerance is `SAFETY` times that, and never
    below the base tolerance of the dtype.
    """
    mlp, inputs = network_and_inputs(problem, init, seed)
    exact = _exact(mlp, problem, inputs)
    tolerance = _tolerance(mlp, problem, inputs, exact, seed) if amplifies else BASE_TOLERANCE[problem.dtype]
    return Reference(mlp, problem, inputs, exact, tolerance)


def _tolerance(mlp: jac.MLP, problem: jac.Problem, inputs: tuple[Tensor, ...], exact: tuple[Tensor, ...], seed: int) -> float:
    quantity = find_quantity(problem.quantity)
    generator = torch.Generator().manual_seed(seed + 2)
    worst = 0.0
    for _ in range(RELABELLINGS):
        relabelled = _relabel(mlp, generator)
        # Where the result has a place for each parameter, it is another one for the relabelled network.
        right = exact if quantity.relabelled else _exact(relabelled, problem, inputs)
        worst = max(worst, _error(quantity.exact(relabelled, problem, inputs), right, problem))
    return max(BASE_TOLERANCE[problem.dtype], SAFETY * worst)


def _error(found: tuple[Tensor, ...], exact: tuple[Tensor, ...], problem: jac.Problem) -> float:
    return relative_error(found, exact, find_quantity(problem.quantity).per_sample and problem.batch is not None)


def _exact(mlp: jac.MLP, problem: jac.Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # Some accelerators have no float64: there the exact result is computed on the CPU.
    home = torch.device("cpu") if inputs[0].device.type in NO_FLOAT64 else inputs[0].device
    exactly = tuple(t.to(home).double() if t.is_floating_point() else t.to(home) for t in inputs)
    return find_quantity(problem.quantity).exact(mlp.to(device=home).to(dtype=torch.float64), problem, exactly)


def judge(result: Tensor | tuple[Tensor, ...], ref: Reference) -> Verdict:
    """Compare a result with the reference."""
    found = result if isinstance(result, tuple) else (result,)
    name = "J" if ref.problem.quantity == JACOBIAN else "the result"
    if len(found) != len(ref.exact):
        return Verdict(None, ref.tolerance, f"there are {len(found)} tensors, expected {len(ref.exact)}")
    for one, exact in zip(found, ref.exact, strict=True):
        if one.shape != exact.shape:
            return Verdict(None, ref.tolerance, f"{name} has shape {tuple(one.shape)}, expected {tuple(exact.shape)}")
        if one.dtype != ref.x.dtype:
            return Verdict(None, ref.tolerance, f"{name} is {one.dtype}, expected {ref.x.dtype}")
        if not bool(torch.isfinite(one).all()):
            return Verdict(None, ref.tolerance, f"{name} has entries that are not finite")
    error = _error(found, ref.exact, ref.problem)
    wrong = not error <= ref.tolerance
    return Verdict(error, ref.tolerance, f"relative error {error:.3g} exceeds the tolerance {ref.tolerance:.3g}" if wrong else None)


def judge_along(found: list[Tensor], xs: list[Tensor], ref: Reference) -> str | None:
    """Compare Jacobians with the oracle along a random direction, J·v, by one evaluation of the network for all of them.

    The tolerance is `SAFETY` times as wide: a direction shows now more and now less of an error than its mean.
    """
    home = "cpu" if ref.x.device.type in NO_FLOAT64 else ref.x.device
    x = torch.stack(xs).to(home, torch.float64).flatten(0, -2)
    J = torch.stack(found).to(home, torch.float64).flatten(0, -3)
    if not x.numel() or not J.numel():
        return None
    v = torch.randn_like(x)
    exact = torch.func.jvp(ref.mlp.to(device=home).to(dtype=torch.float64), (x,), (v,))[1]
    error = torch.linalg.vector_norm((J @ v[..., None])[..., 0] - exact, dim=-1)
    size = torch.linalg.matrix_norm(J) * torch.linalg.vector_norm(v, dim=-1) / x.shape[-1] ** 0.5
    scale = torch.maximum(torch.linalg.vector_norm(exact, dim=-1), size)  # v may be almost orthogonal to all rows
    scale = scale.clamp_min(SMALLEST_PART * scale.square().mean().sqrt())
    worst, tolerance = torch.where(scale > 0, error / scale, error).max().item(), min(REFUSED, SAFETY * ref.tolerance)
    if not math.isfinite(worst):
        return "J has entries that are not finite"
    return f"relative error {worst:.3g} along a direction exceeds {tolerance:.3g}" if worst > tolerance else None


def check(case: Case, result: Tensor | tuple[Tensor, ...]) -> Verdict:
    """Check a method on a case: on the case's own network, and where that says little, on a well-conditioned twin.

    Where rounding alone makes an error of the order of J, no tolerance on J can tell a wrong sign from noise. The same
    method must then also be right, to the base tolerance, on a `xavier` network of the same shape, dtype and device.
    """
    problem = case.problem
    ref = reference(problem, case.init, case.seed)
    own = judge(result, ref)
    if own.reason is not None:
        return own
    twin = twin_of(case)
    if twin is None:
        return own
    verdict = judge(make_plan(twin.mlp, twin.inputs, problem, Request(), case.method)(*twin.inputs), twin)
    if verdict.reason is None:
        return own
    return Verdict(own.rel_error, own.tolerance, f"on a xavier network of the same shape: {verdict.reason}")


def twin_of(case: Case) -> Reference | None:
    """Return the well-conditioned twin of a case, where its own network says little."""
    amplified = reference(case.problem, case.init, case.seed).tolerance > BASE_TOLERANCE[case.problem.dtype]
    return reference(case.problem, "xavier", case.seed) if amplified else None


def _relabel(mlp: jac.MLP, generator: torch.Generator) -> jac.MLP:
    """Permute the neurons of every hidden layer: the same function, summed in another order."""
    orders = [torch.randperm(width, generator=generator).to(mlp.device) for width in mlp.widths[1:-1]]
    ends = [torch.arange(mlp.D, device=mlp.device), *orders, torch.arange(mlp.P, device=mlp.device)]
    weights = [W[rows][:, columns].contiguous() for W, columns, rows in zip(mlp.weights, ends, ends[1:], strict=False)]
    biases = [None if b is None else b[rows] for b, rows in zip(mlp.biases, ends[1:], strict=True)]
    return jac.MLP(weights, biases, mlp.activations[:-1], mlp.activations[-1])

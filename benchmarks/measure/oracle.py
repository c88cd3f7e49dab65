"""The oracle: `torch.autograd.functional.jacobian` in float64, and the verdict over a method's Jacobian."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

import jacobians as jac
from benchmarks.workloads.cases import Case

BASE_TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
SAFETY = 4.0  # a case's tolerance is this multiple of the error that rounding alone makes
NO_FLOAT64 = {"mps"}
RELABELLINGS = 3  # independent samples of that rounding error


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a Jacobian is right: its error, what was allowed, and what is wrong with it (`None` for nothing)."""

    rel_error: float | None
    tolerance: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Reference:
    """A network, an input, the float64 Jacobian there, and the error allowed."""

    mlp: jac.MLP
    x: Tensor
    J: Tensor
    tolerance: float

    def at(self, x: Tensor) -> Reference:
        """Return the reference of the same network at another input; where rounding is amplified, with the tolerance there.

        Args:
            x: The input.

        Returns:
            The reference.
        """
        exact = _exact(self.mlp, x)
        base = BASE_TOLERANCE[str(x.dtype).removeprefix("torch.")]
        return replace(self, x=x, J=exact, tolerance=_tolerance(self.mlp, x, exact, 0) if self.tolerance > base else base)

    def input(self, number: int) -> Tensor:
        """Draw another input like x.

        Args:
            number: Which.

        Returns:
            Standard normal numbers of the same shape.
        """
        generator = torch.Generator().manual_seed(1_000_003 + number)
        return torch.randn(self.x.shape, generator=generator, dtype=torch.float64).to(device=self.x.device, dtype=self.x.dtype)


def network_and_input(problem: jac.Problem, init: str, seed: int) -> tuple[jac.MLP, Tensor]:
    """Draw a network and an input. The same seed means the same numbers on every device.

    Args:
        problem: Sizes, dtype and device.
        init: Weight initialisation.
        seed: Seed; the input is drawn from `seed + 1`.

    Returns:
        The network, and x of shape (D,) or (N, D) with entries from N(0, 1).
    """
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
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(problem.input_shape, generator=generator, dtype=torch.float64)
    return mlp, x.to(device=problem.device, dtype=dtype)


def exact_jacobian(mlp: jac.MLP, x: Tensor) -> Tensor:
    """Differentiate with autograd, in the dtype of the arguments.

    Samples do not meet in an MLP, so the gradient of `f(x).sum(0)` with respect to sample n is that sample's own.

    Args:
        mlp: The network.
        x: Input of shape (D,) or (N, D).

    Returns:
        J of shape (P, D) or (N, P, D).
    """
    if x.ndim == 1:
        return jacobian(mlp, x, vectorize=True)  # pyright: ignore[reportReturnType]
    summed = jacobian(lambda x: mlp(x).sum(0), x, vectorize=True)  # (P, N, D)
    return summed.movedim(0, 1)  # pyright: ignore[reportAttributeAccessIssue]


def relative_error(J: Tensor, exact: Tensor) -> float:
    """Return `‖J_n - J64_n‖ / ‖J64_n‖` in the Frobenius norm, computed in float64, of the worst sample n.

    A batch is judged sample by sample: one that is wrong would vanish in the norm of thousands. A sample whose own Jacobian is a
    thousand times smaller than the batch's root mean square is measured against that, for there rounding is all there is.

    Args:
        J: The Jacobian to judge, (P, D) or (N, P, D).
        exact: The float64 Jacobian.

    Returns:
        The relative error; the absolute one where the exact Jacobian is zero. NaN or infinite where J is.
    """
    batch = exact.reshape(-1, *exact.shape[-2:])
    if not len(batch):
        return 0.0
    errors = torch.linalg.matrix_norm(J.to(exact.device).to(exact.dtype).reshape(batch.shape) - batch)
    norms = torch.linalg.matrix_norm(batch)
    floor = 1e-3 * norms.square().mean().sqrt()
    scale = norms.clamp_min(floor)
    return torch.where(scale > 0, errors / scale, errors).max().item()


@lru_cache(maxsize=2)  # the methods of a problem come one after the other; a twin may sit between
def reference(problem: jac.Problem, init: str, seed: int) -> Reference:
    """Draw the network of a case and compute what its Jacobian must be, and how close a method must come.

    A saturated network amplifies rounding from layer to layer, for every method alike. How much is estimated: hidden
    neurons are relabelled at random, which changes nothing but the order of summation, and autograd's error in the
    case's own dtype is taken, at its worst over a few relabellings. The tolerance is `SAFETY` times that, and never
    below the base tolerance of the dtype.

    Args:
        problem: The problem.
        init: Weight initialisation.
        seed: Seed.

    Returns:
        Network, input, Jacobian and tolerance.
    """
    mlp, x = network_and_input(problem, init, seed)
    exact = _exact(mlp, x)
    return Reference(mlp, x, exact, _tolerance(mlp, x, exact, seed))


def _tolerance(mlp: jac.MLP, x: Tensor, exact: Tensor, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed + 2)
    unavoidable = max(relative_error(exact_jacobian(_relabel(mlp, generator), x), exact) for _ in range(RELABELLINGS))
    return max(BASE_TOLERANCE[str(x.dtype).removeprefix("torch.")], SAFETY * unavoidable)


def _exact(mlp: jac.MLP, x: Tensor) -> Tensor:
    # Some accelerators have no float64: there the exact Jacobian is computed on the CPU.
    home = torch.device("cpu") if x.device.type in NO_FLOAT64 else x.device
    return exact_jacobian(mlp.to(device=home).to(dtype=torch.float64), x.to(home).double())


def judge(J: Tensor, ref: Reference) -> Verdict:
    """Compare a Jacobian with the reference.

    Args:
        J: What the method returned.
        ref: What it must be.

    Returns:
        The verdict.
    """
    if J.shape != ref.J.shape:
        return Verdict(None, ref.tolerance, f"J has shape {tuple(J.shape)}, expected {tuple(ref.J.shape)}")
    if J.dtype != ref.x.dtype:
        return Verdict(None, ref.tolerance, f"J is {J.dtype}, expected {ref.x.dtype}")
    if not bool(torch.isfinite(J).all()):
        return Verdict(None, ref.tolerance, "J has entries that are not finite")
    error = relative_error(J, ref.J)
    wrong = not error <= ref.tolerance
    return Verdict(error, ref.tolerance, f"relative error {error:.3g} exceeds the tolerance {ref.tolerance:.3g}" if wrong else None)


def check(case: Case, J: Tensor) -> Verdict:
    """Check a method on a case: on the case's own network, and where that says little, on a well-conditioned twin.

    Where rounding alone makes an error of the order of J, no tolerance on J can tell a wrong sign from noise. The same
    method must then also be right, to the base tolerance, on a `xavier` network of the same shape, dtype and device.

    Args:
        case: The case.
        J: What the case's method returned for the case's network and input.

    Returns:
        The verdict; `rel_error` and `tolerance` are those of the case's own network.
    """
    problem = case.problem
    ref = reference(problem, case.init, case.seed)
    own = judge(J, ref)
    if own.reason is not None or ref.tolerance <= BASE_TOLERANCE[problem.dtype]:
        return own
    twin = reference(problem, "xavier", case.seed)
    verdict = judge(jac.plan(twin.mlp, twin.x, case.method)(twin.x), twin)
    if verdict.reason is None:
        return own
    return Verdict(own.rel_error, own.tolerance, f"on a xavier network of the same shape: {verdict.reason}")


def _relabel(mlp: jac.MLP, generator: torch.Generator) -> jac.MLP:
    """Permute the neurons of every hidden layer: the same function, summed in another order.

    Args:
        mlp: The network.
        generator: Source of the permutations.

    Returns:
        The relabelled network.
    """
    orders = [torch.randperm(width, generator=generator).to(mlp.device) for width in mlp.widths[1:-1]]
    ends = [torch.arange(mlp.D, device=mlp.device), *orders, torch.arange(mlp.P, device=mlp.device)]
    weights = [W[rows][:, columns].contiguous() for W, columns, rows in zip(mlp.weights, ends, ends[1:], strict=False)]
    biases = [None if b is None else b[rows] for b, rows in zip(mlp.biases, ends[1:], strict=True)]
    return jac.MLP(weights, biases, mlp.activations[:-1], mlp.activations[-1])

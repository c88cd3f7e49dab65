"""The forward Laplacian: value, Jacobian and weighted sums of second derivatives pushed through the network together, in one sweep."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from jacobians.modes import steps
from jacobians.network.mlp import MLP
from jacobians.planning.inputs import check_like
from jacobians.planning.registry import Computation, Cost, Quantity, Request, readable, register_quantity
from jacobians.problem import Problem
from jacobians.quantities.parameters import followed, sizes


def laplacian_of(mlp: MLP, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute y, J and the Laplacians `Σ_d w_md ∂²y/∂x_d²` by one forward sweep.

    Beside the value go the tangents `T^d = ∂h/∂x_d` and, for each row w of weights, `q = Σ_d w_d ∂²h/∂x_d²`:

        U = W T,  r = W q;    T ← φ'(z) U,  q ← φ''(z) Σ_d w_d (U^d)² + φ'(z) r

    Example:
        >>> mlp = MLP([torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0]])], activation="exp")
        >>> laplacian_of(mlp, torch.zeros(2), torch.ones(1, 2))[2]  # exp(2 a + b) has second derivatives 4 and 1 at 0
        tensor([[5.]])

    Source:
        Li et al., Forward Laplacian, Nature Machine Intelligence 6 (2024), arXiv 2307.08214.
    """
    if mlp.graph is not None:
        return steps.laplacian(mlp.graph, x, directions)
    h = x[None] if x.ndim == 1 else x  # (N, D)
    T = q = None
    nan_if_not_finite = (h - h).sum(-1, keepdim=True)
    for index, (W, b, rule) in enumerate(zip(*mlp.parameter_tuples(), mlp.activations, strict=True)):
        z = F.linear(h, W, b)
        U = W.mT.expand(z.shape[0], -1, -1) if T is None else F.linear(T, W)  # (N, D, out)
        r = None if q is None else F.linear(q, W)  # (N, M, out)
        h = rule.value(z)
        slope, curvature = rule.slope(z, h), rule.curvature(z, h)
        if index == 0:
            slope = nan_if_not_finite + (1 if slope is None else slope)
            curvature = None if curvature is None else curvature + nan_if_not_finite
        T = U if slope is None else slope[:, None, :] * U
        q = r if r is None or slope is None else slope[:, None, :] * r
        if curvature is not None:
            bent = curvature[:, None, :] * (directions @ U.square())  # (M, D) x (N, D, out) -> (N, M, out)
            q = bent if q is None else q + bent
    assert T is not None
    lap = h.new_zeros(h.shape[0], len(directions), mlp.P) + nan_if_not_finite[:, None] if q is None else q
    y, J, lap = h, T.mT, lap.mT
    return (y[0], J[0], lap[0]) if x.ndim == 1 else (y, J, lap)


def _cost(problem: Problem, mode: str) -> Cost:
    """Count the evaluation, D tangents and the Laplacian through all layers but the first, which they do not multiply."""
    s = sizes(problem)
    D = problem.D
    flops = problem.N * (2 * s.weights + 2 * (D + 1) * (s.weights - s.first) + (3 * D + 4) * s.neurons)
    return Cost(flops, problem.itemsize * (s.parameters + problem.N * (D + problem.P * (D + 2))))


def second_by_autograd(y: Tensor, x: Tensor, directions: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
    """Differentiate twice as codes for differential equations do: a gradient of each output, and of each of its entries again."""
    rows, laplacians = [], []
    for p in range(y.shape[1]):
        (g,) = torch.autograd.grad(y[:, p].sum(), x, create_graph=True)
        rows.append(g)
        diagonal = torch.zeros_like(x)
        if g.requires_grad:
            seconds = []
            for d in range(x.shape[1]):
                (second,) = torch.autograd.grad(g[:, d].sum(), x, create_graph=create_graph, retain_graph=True, allow_unused=True)
                seconds.append(torch.zeros_like(x[:, d]) if second is None else second[:, d])
            diagonal = torch.stack(seconds, -1)
        laplacians.append(diagonal @ directions.mT)
    return torch.stack(rows, 1), torch.stack(laplacians, 1)


def _exact(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, directions = inputs
    with torch.enable_grad():
        y, at, _ = followed(mlp, problem, x)
        J, lap = second_by_autograd(y, at, directions, create_graph=False)
    shapes = (*problem.input_shape[:-1], problem.P), problem.jacobian_shape, (*problem.input_shape[:-1], problem.P, len(directions))
    return tuple(t.detach().reshape(shape) for t, shape in zip((y, J, lap), shapes, strict=True))


def ones(problem: Problem, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return the directions of the Laplacian itself."""
    return (torch.ones(1, problem.D, dtype=torch.float64),)


def bends(problem: Problem) -> str | None:
    """Say why a network has no second derivatives by this formula."""
    psi = problem.activations[-1]
    return f"has no second derivative of {psi.name}; leave out the output activation" if psi.coupled else None


def directions_fit(mlp: MLP, problem: Problem, inputs: tuple[Tensor, ...]) -> None:
    """Refuse directions that are no constants of shape (M, D)."""
    x, directions = inputs
    if directions.ndim != 2 or directions.shape[1] != problem.D or not len(directions):
        raise ValueError(
            f"weights must have shape ({problem.D},) or (M, {problem.D}), one for each ∂²/∂x_d², got {tuple(directions.shape)}; "
            f"leave them out for the Laplacian itself (a plan takes the latter)"
        )
    check_like("weights", directions, directions.shape, x)
    if directions.requires_grad:
        raise ValueError("weights are constants and cannot require grad; detach them")


register_quantity(
    Quantity(
        "laplacian",
        "Laplacian",
        {
            "forward": "q ← φ''(z) Σ_d w_d (U^d)² + φ'(z) W q beside the value and the tangents U",
            "reverse": "each entry of each row of J differentiated again",
            "forward-over-reverse": "the trace of a Hessian, each row of J pushed along each coordinate",
            "nested": "the tangent of a tangent, along each coordinate",
            "taylor": "a Taylor polynomial of degree two, along each coordinate",
        },
        _cost,
        _exact,
        draw=ones,
        takes=("weights",),
        fits=directions_fit,
        per_sample=True,
        relabelled=True,
        order=lambda problem: 2,
        axes=(0, 1, 0),
        call='y, J, lap = jac.laplacian(mlp, x, method="{method}")',
    )
)


@readable("laplacian/forward:eager", supports=bends, options=("steps",), summary="value, tangents and Laplacian, in torch")
def _prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
    return Computation(run=lambda inputs: (None, laplacian_of(mlp, *inputs)))

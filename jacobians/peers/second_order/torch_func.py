"""`torch.func`: `jacfwd(jacrev)` under `vmap`, and `grad` of a function of Jacobians."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.func import grad_and_value, jacfwd, jacrev, vmap

from jacobians.network.mlp import MLP
from jacobians.peers.evaluation import FORWARD_AD
from jacobians.peers.parameters.torch_func import Parameters, functional
from jacobians.planning.registry import Computation, Prepare, Request, register
from jacobians.problem import Problem
from jacobians.quantities.jacobian_gradient import not_empty, penalty
from jacobians.quantities.laplacian import bends
from jacobians.quantities.laplacian_gradient import residual

Network = Callable[[Parameters, Tensor], Tensor]


def seconds(f: Network) -> Callable[[Parameters, Tensor], tuple[Tensor, tuple[Tensor, Tensor]]]:
    """Return `(parameters, x) -> (H, (J, y))` of a batch, the evaluation and J shared as auxiliary outputs."""

    def with_value(parameters: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
        y = f(parameters, x)
        return y, y

    def with_jacobian(parameters: Parameters, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        J, y = jacrev(with_value, argnums=1, has_aux=True)(parameters, x)
        return J, (J, y)

    return vmap(jacfwd(with_jacobian, argnums=1, has_aux=True), in_dims=(None, 0))


def laplacians(f: Network, parameters: Parameters, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take the weighted traces of Hessians."""
    H, (J, y) = seconds(f)(parameters, x)
    return y, J, H.diagonal(dim1=-2, dim2=-1) @ directions.mT


def laplacian_loss(f: Network) -> Callable[..., Tensor]:
    """Return the loss of a training step through Laplacians."""
    return lambda parameters, x, directions: residual(laplacians(f, parameters, x, directions)[2])


def jacobian_loss(f: Network) -> Callable[..., Tensor]:
    """Return the loss of a training step through Jacobians."""
    return lambda parameters, x: penalty(vmap(jacrev(f, argnums=1), in_dims=(None, 0))(parameters, x))


Compute = Callable[..., tuple[Tensor, ...]]


def prepare_with(build: Callable[[Network, Problem], Compute], wrap: Callable[[Compute], Compute] = lambda f: f) -> Prepare:
    """Make a method of `(f, problem) -> ((parameters, x, *others) -> tensors of a batch)`."""

    def prepare(mlp: MLP, problem: Problem, request: Request) -> Computation:
        f, parameters = functional(mlp)
        compute = wrap(build(f, problem))

        def run(inputs: Tensor | tuple[Tensor, ...]) -> tuple[None, tuple[Tensor, ...]]:
            x, *others = inputs if isinstance(inputs, tuple) else (inputs,)
            with FORWARD_AD:
                found = compute(parameters, x.reshape(-1, problem.D), *others)
            return None, found

        return Computation(run)

    return prepare


def batches(problem: Problem) -> str | None:
    """Say why transforms under `vmap` do not serve a problem."""
    return not_empty(problem) or ("is written for a batch; pass x[None]" if problem.batch is None else bends(problem))


def build_laplacian(f: Network, problem: Problem) -> Compute:
    """Compose the trace of the Hessian."""
    return lambda parameters, x, directions: laplacians(f, parameters, x, directions)


def build_hessian(f: Network, problem: Problem) -> Compute:
    """Compose `jacfwd(jacrev)` under `vmap`."""
    each = vmap(jacfwd(jacrev(f, argnums=1), argnums=1), in_dims=(None, 0))
    return lambda parameters, x: (each(parameters, x),)


def build_gradient(loss: Callable[[Network], Callable[..., Tensor]]) -> Callable[[Network, Problem], Compute]:
    """Compose `grad_and_value` of a loss."""

    def build(f: Network, problem: Problem) -> Compute:
        compute = grad_and_value(loss(f))

        def both(*arguments: Tensor) -> tuple[Tensor, ...]:
            found, value = compute(*arguments)
            return value, *found

        return both

    return build


register("laplacian/forward-over-reverse:torch.func", supports=batches, summary="the trace of vmap(jacfwd(jacrev))")(
    prepare_with(build_laplacian)
)
register("laplacian_gradient/forward-over-reverse:torch.func", supports=batches, summary="grad of the traces of vmap(jacfwd(jacrev))")(
    prepare_with(build_gradient(laplacian_loss))
)
register("jacobian_gradient/reverse:torch.func", supports=not_empty, summary="grad of a function of vmap(jacrev)")(
    prepare_with(build_gradient(jacobian_loss))
)
register("hessian/forward-over-reverse:torch.func", supports=batches, summary="vmap(jacfwd(jacrev))")(prepare_with(build_hessian))

"""JAX: its transforms composed as its users do (reverse over reverse, forward over reverse, nested jvp, jet), and our formulas in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jacobians.peers.jax import evaluate_one, why_not
from jacobians.peers.parameters.jax import Compute, prepare_with
from jacobians.peers.second_order.torch_func import batches
from jacobians.planning.registry import register
from jacobians.problem import Problem

Seconds = Callable[..., tuple[Any, Any, Any]]  # (parameters, x, directions) of one sample -> y, J, Laplacians


def supports(problem: Problem) -> str | None:
    """Say why the JAX code here does not serve a problem."""
    return why_not(problem) or batches(problem)


def _of_hessian(outer: str) -> Callable[[Any, Problem], Seconds]:
    def build(jax: Any, problem: Problem) -> Seconds:
        f, transform = evaluate_one(problem), getattr(jax, outer)

        def compute(parameters: Any, x: Any, directions: Any) -> tuple[Any, Any, Any]:
            def with_value(x: Any) -> tuple[Any, Any]:
                y = f(parameters, x)
                return y, y

            def with_jacobian(x: Any) -> tuple[Any, tuple[Any, Any]]:
                J, y = jax.jacrev(with_value, has_aux=True)(x)
                return J, (J, y)

            H, (J, y) = transform(with_jacobian, has_aux=True)(x)
            return y, J, jax.numpy.einsum("pdd,md->pm", H, directions)

        return compute

    return build


def _nested(jax: Any, problem: Problem) -> Seconds:
    f = evaluate_one(problem)

    def compute(parameters: Any, x: Any, directions: Any) -> tuple[Any, Any, Any]:
        def twice(e: Any) -> tuple[Any, Any, Any]:
            def once(x: Any) -> tuple[Any, Any]:
                return jax.jvp(lambda x: f(parameters, x), (x,), (e,))

            (y, first), (_, second) = jax.jvp(once, (x,), (e,))
            return y, first, second

        y, J, seconds = jax.vmap(twice, out_axes=(None, 1, 1))(jax.numpy.eye(problem.D, dtype=x.dtype))
        return y, J, seconds @ directions.T

    return compute


def _jet(jax: Any, problem: Problem) -> Seconds:
    from jax.experimental.jet import jet

    f = evaluate_one(problem)

    def compute(parameters: Any, x: Any, directions: Any) -> tuple[Any, Any, Any]:
        def along(e: Any) -> tuple[Any, Any, Any]:
            y, (first, second) = jet(lambda x: f(parameters, x), (x,), ((e, jax.numpy.zeros_like(x)),))
            return y, first, second

        y, J, seconds = jax.vmap(along, out_axes=(None, 1, 1))(jax.numpy.eye(problem.D, dtype=x.dtype))
        return y, J, seconds @ directions.T

    return compute


def formula(jax: Any, problem: Problem) -> Compute:
    """Write the forward Laplacian of a batch in JAX; the derivatives of an activation are JAX's own, by jvp."""
    np, highest = jax.numpy, jax.lax.Precision.HIGHEST

    def compute(parameters: Any, x: Any, directions: Any) -> tuple[Any, Any, Any]:
        h, T, q = x, None, None
        for (W, b), rule in zip(parameters, problem.activations, strict=True):
            z = np.matmul(h, W.T, precision=highest) + (0.0 if b is None else b)
            U = np.broadcast_to(W.T, (len(z), *W.T.shape)) if T is None else np.matmul(T, W.T, precision=highest)
            r = None if q is None else np.matmul(q, W.T, precision=highest)

            def once(z: Any, rule: Any = rule) -> tuple[Any, Any]:
                return jax.jvp(lambda z: rule.jax(jax, z), (z,), (np.ones_like(z),))

            (h, slope), (_, curvature) = jax.jvp(once, (z,), (np.ones_like(z),))
            bent = curvature[:, None, :] * np.matmul(directions, U * U, precision=highest)
            T = slope[:, None, :] * U
            q = bent if r is None else bent + slope[:, None, :] * r
        assert T is not None
        assert q is not None
        return h, np.swapaxes(T, 1, 2), np.swapaxes(q, 1, 2)

    return compute


def batched(build: Callable[[Any, Problem], Seconds]) -> Callable[[Any, Problem], Compute]:
    """Put a computation of one sample under `vmap`."""
    return lambda jax, problem: jax.vmap(build(jax, problem), in_axes=(None, 0, None))


def trained(build: Callable[[Any, Problem], Compute]) -> Callable[[Any, Problem], Compute]:
    """Make the gradient of the mean squared Laplacian of a computation of Laplacians."""

    def of(jax: Any, problem: Problem) -> Compute:
        compute = build(jax, problem)
        return jax.value_and_grad(lambda parameters, x, directions: (compute(parameters, x, directions)[2] ** 2).mean())

    return of


def _jacobian_gradient(transform: str) -> Callable[[Any, Problem], Compute]:
    def build(jax: Any, problem: Problem) -> Compute:
        rows = jax.vmap(getattr(jax, transform)(evaluate_one(problem), argnums=1), in_axes=(None, 0))
        return jax.value_and_grad(lambda parameters, x: (rows(parameters, x) ** 2).mean())

    return build


def _jacobian_formula(jax: Any, problem: Problem) -> Compute:
    """The reverse-mode chain of a batch written in JAX, and its gradient by JAX."""
    np, highest = jax.numpy, jax.lax.Precision.HIGHEST

    def penalty(parameters: Any, x: Any) -> Any:
        h, slopes = x, []
        for (W, b), rule in zip(parameters, problem.activations, strict=True):
            z = np.matmul(h, W.T, precision=highest) + (0.0 if b is None else b)
            h, slope = jax.jvp(lambda z, rule=rule: rule.jax(jax, z), (z,), (np.ones_like(z),))
            slopes.append(slope)
        C = slopes[-1][:, :, None] * parameters[-1][0]
        for (W, _), slope in zip(parameters[-2::-1], slopes[-2::-1], strict=True):
            C = np.matmul(C * slope[:, None, :], W, precision=highest)
        return (C**2).mean()

    return jax.value_and_grad(penalty)


def _hessian(jax: Any, problem: Problem) -> Compute:
    return jax.vmap(jax.hessian(evaluate_one(problem), argnums=1), in_axes=(None, 0))


def needs_tanh(problem: Problem) -> str | None:
    """Say why jet does not serve a problem."""
    other = [rule.name for rule in problem.activations if rule.name not in {"tanh", "identity", "exp"}]
    return supports(problem) or (f"jet has no rule for {other[0]}" if other else None)


register("laplacian/forward:jax", supports=supports, runtime="jax", summary="the forward Laplacian written in JAX, under jit")(
    prepare_with(formula)
)
register("laplacian/reverse:jax", supports=supports, runtime="jax", summary="jit of the trace of jacrev(jacrev)")(
    prepare_with(batched(_of_hessian("jacrev")))
)
register("laplacian/forward-over-reverse:jax", supports=supports, runtime="jax", summary="jit of the trace of jacfwd(jacrev)")(
    prepare_with(batched(_of_hessian("jacfwd")))
)
register("laplacian/nested:jax", supports=supports, runtime="jax", summary="jit of jvp of jvp along each coordinate")(
    prepare_with(batched(_nested))
)
register("laplacian/taylor:jax", supports=needs_tanh, runtime="jax", summary="jit of jax.experimental.jet along each coordinate")(
    prepare_with(batched(_jet))
)
register("laplacian_gradient/forward:jax", supports=supports, runtime="jax", summary="value_and_grad of our formula written in JAX")(
    prepare_with(trained(formula))
)
register("laplacian_gradient/reverse:jax", supports=supports, runtime="jax", summary="value_and_grad of the trace of jacrev(jacrev)")(
    prepare_with(trained(batched(_of_hessian("jacrev"))))
)
register(
    "laplacian_gradient/forward-over-reverse:jax", supports=supports, runtime="jax", summary="value_and_grad of the trace of jacfwd(jacrev)"
)(prepare_with(trained(batched(_of_hessian("jacfwd")))))
register("laplacian_gradient/nested:jax", supports=supports, runtime="jax", summary="value_and_grad of jvp of jvp along each coordinate")(
    prepare_with(trained(batched(_nested)))
)
register("laplacian_gradient/taylor:jax", supports=needs_tanh, runtime="jax", summary="value_and_grad of jet along each coordinate")(
    prepare_with(trained(batched(_jet)))
)
register("jacobian_gradient/reverse:jax", supports=supports, runtime="jax", summary="jit of value_and_grad of vmap(jacrev)")(
    prepare_with(_jacobian_gradient("jacrev"))
)
register("jacobian_gradient/forward:jax", supports=supports, runtime="jax", summary="jit of value_and_grad of vmap(jacfwd)")(
    prepare_with(_jacobian_gradient("jacfwd"))
)
register("jacobian_gradient/chain:jax", supports=supports, runtime="jax", summary="value_and_grad of reverse mode written in JAX")(
    prepare_with(_jacobian_formula)
)
register("hessian/forward-over-reverse:jax", supports=supports, runtime="jax", summary="jit(vmap(jax.hessian))")(prepare_with(_hessian))

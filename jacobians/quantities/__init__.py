"""WHAT is computed, one file each: its cost, its oracle, and the readable method in torch. Importing this registers them."""

from jacobians.quantities import (  # noqa: F401
    derivatives,
    ggn,
    gradient,
    hessian,
    jacobian,
    jacobian_gradient,
    laplacian,
    laplacian_gradient,
    ntk,
    parameter_jacobian,
    per_sample,
    sgd_step,
    value,
)

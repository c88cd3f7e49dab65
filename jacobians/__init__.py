"""Jacobians of multilayer perceptrons: hand-written forward and reverse mode, and every library's way beside them."""

from jacobians import kernels as kernels  # registers the fast methods
from jacobians import peers as peers  # registers the library methods
from jacobians.input_derivatives import hessian, hessian_diagonal, hvp, jacobian_loss, jvp, laplacian, vjp
from jacobians.modes import FactoredJacobian, optimal_bracketing
from jacobians.modes import forward as forward  # of modes, (y or None, J): the public call is `jacobian(..., method="forward")`
from jacobians.modes import mixed as mixed
from jacobians.modes import reverse as reverse
from jacobians.module_gradient import ModuleGradient, module_gradient
from jacobians.named_derivatives import derivatives
from jacobians.network.activations import Activation
from jacobians.network.losses import Loss
from jacobians.network.mlp import MLP
from jacobians.parameter_derivatives import ggn_product, gradient, ntk, parameter_jacobian, per_sample_gradient_norms, per_sample_gradients
from jacobians.planning.cost import Cost, cost
from jacobians.planning.plan import Plan, jacobian, plan, value_and_jacobian
from jacobians.planning.registry import (
    Computation,
    Method,
    Quantity,
    Request,
    find_method,
    methods,
    quantities,
    register,
    register_quantity,
)
from jacobians.problem import Problem
from jacobians.quantities.gradient import Gradient
from jacobians.quantities.parameter_jacobian import ParameterJacobian
from jacobians.quantities.per_sample import PerSampleGradients
from jacobians.sgd import SGD
from jacobians.store.outofcore import Stored, compute_to_disk, open_stored

__all__ = [
    "MLP",
    "SGD",
    "Activation",
    "Computation",
    "Cost",
    "FactoredJacobian",
    "Gradient",
    "Loss",
    "Method",
    "ModuleGradient",
    "ParameterJacobian",
    "PerSampleGradients",
    "Plan",
    "Problem",
    "Quantity",
    "Request",
    "Stored",
    "compute_to_disk",
    "cost",
    "derivatives",
    "find_method",
    "ggn_product",
    "gradient",
    "hessian",
    "hessian_diagonal",
    "hvp",
    "jacobian",
    "jacobian_loss",
    "jvp",
    "laplacian",
    "methods",
    "module_gradient",
    "ntk",
    "open_stored",
    "optimal_bracketing",
    "parameter_jacobian",
    "per_sample_gradient_norms",
    "per_sample_gradients",
    "plan",
    "quantities",
    "register",
    "register_quantity",
    "value_and_jacobian",
    "vjp",
]

_RENAMED = {"open": "open_stored", "compute": "compute_to_disk"}


def __getattr__(name: str) -> object:
    """Name the successor of a public name of 0.1.0."""
    remedy = f"; it is jacobians.{_RENAMED[name]} since 0.2.0" if name in _RENAMED else ""
    raise AttributeError(f"module 'jacobians' has no attribute {name!r}{remedy}")

"""Jacobians of multilayer perceptrons: hand-written forward and reverse mode, and every library's way beside them."""

from jacobians import kernels as kernels  # registers the fast methods
from jacobians import peers as peers  # registers the library methods
from jacobians.activations import Activation
from jacobians.cost import Cost, cost
from jacobians.mlp import MLP
from jacobians.modes import FactoredJacobian, forward, mixed, optimal_bracketing, reverse
from jacobians.plans import Plan, jacobian, plan, value_and_jacobian
from jacobians.problem import Problem
from jacobians.registry import Computation, Method, Request, find_method, methods, register

__all__ = [
    "MLP",
    "Activation",
    "Computation",
    "Cost",
    "FactoredJacobian",
    "Method",
    "Plan",
    "Problem",
    "Request",
    "cost",
    "find_method",
    "forward",
    "jacobian",
    "methods",
    "mixed",
    "optimal_bracketing",
    "plan",
    "register",
    "reverse",
    "value_and_jacobian",
]

"""WHAT is computed, one file each: its cost, its oracle, and the readable method in torch. Importing this registers them."""

from jacobians.quantities import ggn, gradient, jacobian, ntk, parameter_jacobian, per_sample, sgd_step

__all__ = ["ggn", "gradient", "jacobian", "ntk", "parameter_jacobian", "per_sample", "sgd_step"]

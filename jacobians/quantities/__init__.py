"""What is computed besides the input Jacobian, one file each, in readable torch."""

from jacobians.quantities.gradient import Gradient, PerSampleGradients, gradient, per_sample_gradients
from jacobians.quantities.ntk import ntk
from jacobians.quantities.parameter_jacobian import ParameterJacobian, parameter_jacobian

__all__ = ["Gradient", "ParameterJacobian", "PerSampleGradients", "gradient", "ntk", "parameter_jacobian", "per_sample_gradients"]

"""The modes made fast for a device: `cpu` in C, `cuda` as CUDA graphs. Importing this registers them."""

from jacobians.kernels.cpu import gradient, jacobian, second_order, tangent_kernel
from jacobians.kernels.cuda import graph

__all__ = ["gradient", "graph", "jacobian", "second_order", "tangent_kernel"]

"""The modes made fast for a device: `cpu` in C, `cuda` as CUDA graphs and in Triton. Importing this registers them."""

from jacobians.kernels.cpu import gradient, jacobian, second_order, tangent_kernel
from jacobians.kernels.cuda import blocks, graph, sums, wide

__all__ = ["blocks", "gradient", "graph", "jacobian", "second_order", "sums", "tangent_kernel", "wide"]

"""The modes made fast for a device: `native` in C, `cuda` as CUDA graphs and in Triton. Importing this registers them."""

import jacobians.quantities  # noqa: F401 - registers what the methods compute
from jacobians.kernels.cuda import blocks, graph, sums, wide
from jacobians.kernels.native import derivatives, gradient, jacobian, second_order, tangent_kernel

__all__ = ["blocks", "derivatives", "gradient", "graph", "jacobian", "second_order", "sums", "tangent_kernel", "wide"]

"""The modes made fast for a device: `cpu` in C, `cuda` as CUDA graphs. Importing this registers them."""

from jacobians.kernels.cpu import runner
from jacobians.kernels.cuda import graph

__all__ = ["graph", "runner"]

"""The modes made fast for a device, one file per technique. Importing this registers them."""

from jacobians.kernels.cpu import runner as native
from jacobians.kernels.cuda import graph as cuda_graph

__all__ = ["cuda_graph", "native"]

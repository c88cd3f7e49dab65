"""The modes made fast for a device, one file per technique. Importing this registers them."""

from jacobians.kernels import cuda_graph, native

__all__ = ["cuda_graph", "native"]

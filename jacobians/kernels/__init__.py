"""The modes made fast for a device, one file per technique. Importing this registers them."""

from jacobians.kernels import native

__all__ = ["native"]

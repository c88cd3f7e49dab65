"""Library methods for Laplacians, Hessians, derivatives by name and training through a Jacobian, one file per library."""

from jacobians.peers.second_order import autograd, folx, jax, named, torch_compile, torch_func

__all__ = ["autograd", "folx", "jax", "named", "torch_compile", "torch_func"]

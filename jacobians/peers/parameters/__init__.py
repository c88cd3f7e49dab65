"""Library methods for derivatives with respect to parameters, one file per library. Importing this registers them."""

from jacobians.peers.parameters import autograd, backpack, curvlinops, jax, numpy, opacus, torch_compile, torch_func

__all__ = ["autograd", "backpack", "curvlinops", "jax", "numpy", "opacus", "torch_compile", "torch_func"]

"""Library methods and the naive baseline. Importing this registers them."""

from jacobians.peers import autograd_functional, jax, notebook, parameters, second_order, sum_trick, torch_compile, torch_func

__all__ = ["autograd_functional", "jax", "notebook", "parameters", "second_order", "sum_trick", "torch_compile", "torch_func"]

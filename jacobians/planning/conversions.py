"""What makes arrays of a library out of tensors, and tensors out of them: one function a library, the same for all of its methods.

The benchmarks time a computation without these, and with any other `convert` or `restore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jacobians.network.mlp import MLP


def numpy_array(t: Tensor) -> Any:
    """Return a tensor of the CPU as an array in the same memory."""
    return t.detach().numpy()


def jax_array(t: Tensor) -> Any:
    """Return a tensor as a JAX array: on the CPU in the same memory where that is aligned, on a GPU a copy by way of NumPy."""
    import jax

    with jax.enable_x64(True) if t.dtype == torch.float64 else nullcontext():  # told per call: other users of JAX are left alone
        if t.device.type == "cpu":
            return jax.dlpack.from_dlpack(t.detach().contiguous())
        return jax.device_put(t.detach().cpu().contiguous().numpy(), jax.devices("gpu")[0])


def numpy_tensors(found: Any) -> tuple[Tensor, ...]:
    """Return the arrays of a result as tensors in the same memory."""
    return tuple(torch.from_numpy(np.asarray(array)) for array in found)


def jax_tensors(found: Any) -> Any:
    """Return an array as a tensor of its own, or the arrays of a result as a tuple of them."""
    import jax

    if not isinstance(found, (tuple, list, dict)):
        return torch.from_dlpack(found).clone()
    return tuple(torch.from_dlpack(array).clone() for array in jax.tree_util.tree_leaves(found))


def plain_types(library: str) -> tuple[type, ...]:
    """Return the types of a library's arrays: of these and not of a subclass must a result be."""
    if library == "numpy":
        return (np.ndarray,)
    import jax

    return (type(jax.numpy.zeros(())),)


LIBRARIES = {"numpy": (numpy_array, numpy_tensors), "jax": (jax_array, jax_tensors)}


@dataclass(frozen=True, slots=True)
class Converted:
    """The `convert` of a computation of a library's arrays: the inputs in a tuple, behind the parameters where it takes these too."""

    library: str  # `"numpy"` or `"jax"`
    mlp: MLP | None = None  # the network whose parameters, as they are at the call, come first, in pairs

    def __call__(self, given: Tensor | tuple[Tensor, ...]) -> tuple[Any, ...]:
        """Convert the inputs of one call."""
        return self.each([given])[0]

    def each(self, given: Sequence[Tensor | tuple[Tensor, ...]]) -> list[tuple[Any, ...]]:
        """Convert the inputs of some calls, and the parameters once."""
        array, first = LIBRARIES[self.library][0], []
        if self.mlp is not None:
            first = [[(array(W), None if b is None else array(b)) for W, b in zip(*self.mlp.parameter_tuples(), strict=True)]]
        return [(*first, *map(array, inputs if isinstance(inputs, tuple) else (inputs,))) for inputs in given]

"""Networks from files, read without running anything that is in them."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import torch
from torch import Tensor

import jacobians as jac
from benchmarks.errors import BadInput


def load_mlp(path: Path, activation: str = "tanh", output_activation: str = "identity") -> jac.MLP:
    """Read an MLP from a state dictionary: `….weight` matrices and `….bias` vectors, in the order of the layers.

    A `.pt` or `.pth` file is read with `weights_only=True`: a pickle that would run code is refused, not run.
    """
    state = _read(path)
    weights = {name.removesuffix("weight"): tensor for name, tensor in state.items() if name.endswith("weight")}
    biases = {name.removesuffix("bias"): tensor for name, tensor in state.items() if name.endswith("bias")}
    other = [name for name in state if not name.endswith(("weight", "bias"))] + [name for name in biases if name not in weights]
    if other or not weights:
        found = ", ".join(other[:3]) or "nothing"
        raise BadInput(
            f"{path}: expected the weight and bias of linear layers alone, found {found}; save the state_dict of an nn.Sequential"
        )
    try:
        return jac.MLP(list(weights.values()), [biases.get(name) for name in weights], activation, output_activation)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise BadInput(f"{path}: no such file; give a .safetensors, .pt or .pth file")
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError:
            raise BadInput("safetensors is not installed; install it with: pip install safetensors") from None
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{path}: not a safetensors file ({error})") from None
    if path.suffix not in {".pt", ".pth"}:
        raise BadInput(f"{path}: unknown kind of file {path.suffix!r}; give a .safetensors, .pt or .pth file")
    try:
        with warnings.catch_warnings(action="ignore"):  # about the age of the pickle: it is refused or read, nothing between
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BadInput(f"{path}: refused, it holds more than tensors; save the state_dict alone, or use safetensors") from None
    except Exception as error:  # a file of rubbish may end the parser in any way
        raise BadInput(f"{path}: not a torch checkpoint ({type(error).__name__})") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise BadInput(f"{path}: expected a state_dict of tensors; save model.state_dict()")
    return state

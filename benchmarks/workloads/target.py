"""The problem a user asks about: sizes from the command line, or a network in a Python module."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

import jacobians as jac
from benchmarks.errors import BadInput
from jacobians.problem import Problem, uniform_widths


def from_sizes(L: int | None, D: int | None, K: int | None, P: int | None, widths: tuple[int, ...] | None) -> tuple[int, ...]:
    """Read the widths of a network."""
    sizes = {"--L": L, "--D": D, "--K": K, "--P": P}
    given = [name for name, size in sizes.items() if size is not None]
    if widths is not None:
        if given:
            raise BadInput(f"give either --widths or {', '.join(sizes)}, got both")
        found = widths
    elif L == 0 and D is not None and P is not None:
        found = (D, P)
    elif L is None or D is None or K is None or P is None:
        missing = ", ".join(name for name, size in sizes.items() if size is None)
        raise BadInput(f"missing {missing}; give --L, --D, --K and --P, or --widths, --checkpoint or --module")
    else:
        found = uniform_widths(L, D, K, P)
    return found


def from_module(name: str) -> jac.MLP:
    """Import a network: this runs the module with the user's rights, so it must be one that the user trusts."""
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise BadInput(f"--module takes package.module:attribute, got {name!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = getattr(importlib.import_module(module_name), attribute)
        if callable(found) and not isinstance(found, torch.nn.Module | jac.MLP):
            found = found()
        return found if isinstance(found, jac.MLP) else jac.MLP.from_torch(found)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"--module {name}: {error}; is it on the Python path?") from None
    except (Exception, SystemExit) as error:  # whatever the user's module raises is the user's to mend
        raise BadInput(f"--module {name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}") from None
    finally:
        sys.path.pop(0)


def problem_of_network(mlp: jac.MLP, N: int, device: str, dtype: str | None) -> Problem:
    if mlp.graph is not None:
        raise BadInput(f"the network is no chain of layers ({mlp.graph.reason}), and what is measured and recommended are those of chains")
    return Problem(
        widths=mlp.widths,
        batch=None if N == 1 else N,
        activation=mlp.activation,
        output_activation=mlp.output_activation,
        bias=any(b is not None for b in mlp.biases),
        dtype=dtype or str(mlp.dtype).removeprefix("torch."),
        device=device,
    )

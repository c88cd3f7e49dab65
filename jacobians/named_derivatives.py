"""`derivatives`: what people who solve equations ask for, `u_t` and `u_xx`, by these names."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor, nn

from jacobians.network.from_torch import network_of
from jacobians.network.mlp import MLP
from jacobians.planning import transforms
from jacobians.planning.inputs import dense, problem_of
from jacobians.planning.plan import compute_cached
from jacobians.planning.registry import Request
from jacobians.quantities.derivatives import numbered, read, write

_REQUESTS = {graph: Request(create_graph=graph) for graph in (False, True)}


def derivatives(
    mlp: MLP | nn.Module,
    x: Tensor | Sequence[Tensor],
    names: Sequence[str],
    method: str = "auto",
    *,
    inputs: str | Sequence[str] | None = None,
    outputs: str | Sequence[str] | None = None,
    create_graph: bool = False,
) -> dict[str, Tensor]:
    """Compute the derivatives that are named, up to the fourth order, in one pass, and nothing else.

    A name is an output, or an output, `_` and the inputs that it is differentiated by: `u`, `u_t`, `u_xy`, `u_xxxx`; inputs with longer
    names stand in braces, `u_{x1,x1}`. Derivatives of one order can be added, `u_xx + 2*u_yy`, which costs less than each of them;
    `laplacian(u)` and `bilaplacian(u)` are the sums over all inputs.

    Args:
        mlp: The network, or a module that `MLP.from_torch` takes.
        x: Input of shape (…, D); or a tuple of tensors, each (N,) or (N, d_i), whose columns in this order are the inputs.
        names: What to compute.
        method: `"auto"`, `"taylor"`, or a full method name.
        inputs: A name for each column of x; or one for each tensor, whose columns are then `x0`, `x1`, … where it has several. By default
            `x` or `x0`, `x1`, … for one tensor, and the parameters of `forward` for several.
        outputs: Names of the outputs, by default `y0`, `y1`, …; numbers do as well, `0_xx`. One output is what the names call it.
        create_graph: Whether the results can be back-propagated through to the parameters and to x.

    Returns:
        Name to values, in the order of the names. Of the shape of an input that has one number a sample, so that columns (N, 1) give
        columns (N, 1); else of shape (…).

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: The input does not fit, a name is unknown, an order is above four, or the method is unknown or does not support the
            problem.

    Example:
        >>> mlp = MLP([torch.tensor([[-1.0, 2.0]]), torch.tensor([[1.0]])], activation="exp")  # u = exp(2 x - t)
        >>> t, x = torch.zeros(1), torch.zeros(1)
        >>> derivatives(mlp, (t, x), ["u", "u_t", "u_xx", "u_txx"], inputs=("t", "x"))
        {'u': tensor([1.]), 'u_t': tensor([-1.]), 'u_xx': tensor([4.]), 'u_txx': tensor([-4.])}

    Source:
        Griewank, Utke & Walther, Evaluating higher derivative tensors by forward propagation of univariate Taylor series, Math. Comp. 69
        (2000).
    """
    if isinstance(names, str):
        raise TypeError(f"names must be a list of names, got the text {names!r}; write [{names!r}]")
    _kept, mlp = mlp, network_of(mlp)  # which does not keep a module alive that is made in the call
    if isinstance(x, Tensor) and not x.ndim:
        problem_of(mlp, x)  # refuses it
    if isinstance(x, Sequence):
        if mlp.inputs is not None and len(x) != len(mlp.inputs.order):
            raise ValueError(f"the network takes {len(mlp.inputs.order)} inputs, got {len(x)}; pass one tensor for each")
        x, counts, shape = _joined(mlp, tuple(x))
    else:
        dense("x", x)
        counts, shape = (int(mlp.sizes.partition("-")[0]) if torch.compiler.is_compiling() else x.shape[-1],), x.shape[:-1]
    columns = _columns(_tuple("inputs", inputs) or _parameters(mlp, len(counts)), counts)
    if mlp.inputs is not None and len(counts) > 1:  # the module puts its arguments together in an order of its own
        ends = list(accumulate(counts))
        places = [c for i in mlp.inputs.order for c in range(ends[i] - counts[i], ends[i])]
        x, columns = x[..., places], tuple(columns[c] for c in places)
    names = tuple(names)
    asked = _asked(names, columns, _tuple("outputs", outputs), mlp.sizes)
    flat = x.reshape(-1, len(columns)) if x.ndim > 2 else x
    found = compute_cached(mlp, "derivatives", (flat,), method, _REQUESTS[bool(create_graph)], asked=asked)
    return {name: t.reshape(shape) for name, t in zip(names, found, strict=True)}


def _tuple(what: str, given: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Check names of inputs or outputs."""
    if given is None:
        return None
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{what} must be names such as 'x', got {name!r}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{what} must be different names, got {list(names)}")
    return names


def _joined(mlp: MLP, tensors: tuple[Tensor, ...]) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """Join several inputs: x (…, D), how many columns each has, and the shape of what has one number a sample."""
    if not tensors:
        raise ValueError("x is an empty tuple; pass at least one tensor")
    for number, t in enumerate(tensors):
        dense(f"x[{number}]", t)
        if (t.dtype, t.device) != (tensors[0].dtype, tensors[0].device):
            raise TypeError(
                f"x[{number}] is {t.dtype} on {t.device}, but x[0] {tensors[0].dtype} on {tensors[0].device}; convert one of them"
            )
    shapes = [tuple(t.shape) for t in tensors]
    if len(shapes) == mlp.D and len(set(shapes)) == 1:  # one number a sample each, whatever the shape of the samples
        return torch.stack(tensors, -1), (1,) * mlp.D, shapes[0]
    ndim = max(map(len, shapes))
    matrices = [t if t.ndim == ndim else t[..., None] for t in tensors]
    if ndim < 2 or any(t.ndim != ndim or t.shape[:-1] != matrices[0].shape[:-1] for t in matrices):
        raise ValueError(f"inputs must have shapes (N,) or (N, d_i) with the same N, got {', '.join(map(str, shapes))}; reshape them")
    batch = next((shape for shape, t in zip(shapes, matrices, strict=True) if t.shape[-1] == 1), tuple(matrices[0].shape[:-1]))
    return torch.cat(matrices, -1), tuple(t.shape[-1] for t in matrices), batch


def _parameters(mlp: MLP, count: int) -> tuple[str, ...]:
    """Name inputs as the parameters of the module's `forward`, where several are given; one is x."""
    if count == 1:
        return ("x",)
    chain = mlp._chain  # pyright: ignore[reportPrivateUsage]
    module = chain.module() if chain else None
    names = tuple(inspect.signature(module.forward).parameters) if module else ()
    if len(names) != count:
        raise ValueError(f"{count} inputs have no names; pass e.g. inputs=({', '.join(repr(n) for n in ('t', *'xyz')[:count])})")
    return names


@lru_cache(maxsize=1024)
@transforms.constant
def _columns(names: tuple[str, ...], counts: tuple[int, ...]) -> tuple[str, ...]:
    """Name the columns of x."""
    if len(names) == sum(counts):
        return names
    if len(names) != len(counts):
        what = f"{sum(counts)} columns" if len(counts) == 1 else f"{len(counts)} inputs with {sum(counts)} columns"
        raise ValueError(f"inputs has {len(names)} names for {what}; give one for each")
    columns = tuple(column for name, count in zip(names, counts, strict=True) for column in numbered(name, count))
    if len(set(columns)) < len(columns):
        raise ValueError(f"the columns of inputs {names} have the same names: {', '.join(columns)}; name each column")
    return columns


@lru_cache(maxsize=1024)
@transforms.constant  # it reads text by regular expressions
def _asked(names: tuple[str, ...], inputs: tuple[str, ...], outputs: tuple[str, ...] | None, sizes: str) -> str:
    """Read the names, and write what they ask for as problems hold it."""
    P = int(sizes.rpartition("-")[2])
    if outputs is not None and len(outputs) != P:
        outputs = numbered(outputs[0], P) if len(outputs) == 1 else outputs
        if len(outputs) != P:
            raise ValueError(f"outputs has {len(outputs)} names for {P} outputs; give one for each")
    return write(read(names, inputs, outputs, P), len(inputs), P)

"""Detect active torch transforms and tracers, under which a kernel that reads memory would be wrong, silently."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack  # pyright: ignore[reportPrivateUsage]
from torch.utils._device import DeviceContext

Given = ParamSpec("Given")
Returned = TypeVar("Returned")
_peek = torch._C._functorch.peek_interpreter_stack  # pyright: ignore[reportAttributeAccessIssue]
_dispatch_modes = torch._C._len_torch_dispatch_stack  # pyright: ignore[reportAttributeAccessIssue]
_function_modes = torch._C._len_torch_function_stack  # pyright: ignore[reportAttributeAccessIssue]
autocast = torch._C._is_any_autocast_enabled  # for any type of device: one call without an argument to be read
_tracing = torch._C._get_tracing_state


def tracing(*inputs: object) -> bool:
    """Say whether a graph is being recorded in which sizes are no plain integers: there nothing can be planned."""
    return _recording() or any(type(size) is not int for t in inputs for size in getattr(t, "shape", ()))


def _recording() -> bool:
    return torch.compiler.is_compiling() or _tracing() is not None


def constant(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Mark what `torch.compile` calls while it traces: `torch.compiler.assume_constant_result`, which loads the compiler to say so."""
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def in_own_precision(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Let a function of `(network, x, …)` compute in the dtype of its network, whatever `torch.autocast` asks for."""

    @functools.wraps(function)
    def call(*given: Given.args, **options: Given.kwargs) -> Returned:
        x: Any = given[1] if len(given) > 1 else options.get("x")
        kind = x.device.type if isinstance(x, torch.Tensor) else "cpu"
        if not torch.is_autocast_enabled(kind):
            return function(*given, **options)
        with torch.autocast(kind, enabled=False):
            return function(*given, **options)

    return call


def active() -> bool:
    """Say whether a transform (`vmap`, `grad`, `jvp`, …), a mode, a trace, forward-mode AD or `torch.compile` is at work.

    Example:
        >>> active(), torch.func.vmap(lambda x: x * active())(torch.ones(2)).tolist()
        (False, [1.0, 1.0])
    """
    return (
        _recording()
        or _peek() is not None
        or _dispatch_modes() > 0
        # `torch.set_default_device` only says where new tensors go.
        or (_function_modes() > 0 and not all(isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack()))
        or forward_ad._current_level >= 0
    )

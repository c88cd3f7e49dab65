"""What decides the value of a torch module, beside its parameters: written down when it is wrapped, compared in each call.

For modules of torch these are the children, the settings, hooks, and the code. Of a module with a forward of its own they are all that
this forward can read besides: the attributes of the object and its class, globals and closures. What could change without a trace there
is refused at once.
"""

from __future__ import annotations

import copy
import random
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from operator import contains
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_torch

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
GLOBAL_HOOKS: list[Mapping[Any, Any]] = [getattr(of_torch, f"_global{name}") for name in HOOKS]
_STILL = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, type)  # what cannot change in its place
_HOLDS = (list, tuple, dict, set, frozenset)
_LIBRARIES = ("torch", "math", "operator", "functools", "typing")  # modules whose functions give the same each time
_ANY_NAME = {"getattr", "vars", "eval", "exec", "globals", "locals", "__dict__"}  # with these code reads what its names do not say
_REMEDY = "make it an attribute of the module that is a number, a text or a function, or write the network as an nn.Sequential"


class Fingerprint:
    """Compares a module with what it was.

    `settings` names the attributes that decide, of modules whose forward is torch's or ours; `own` are those with another, which is refused
    where it reads what may change unnoticed. `buffers` says whether the buffers that these read are looked at in each call.
    """

    def __init__(
        self, module: nn.Module, settings: list[tuple[nn.Module, tuple[str, ...]]], own: list[nn.Module], buffers: bool = False
    ) -> None:
        self._buffers = buffers
        whole, *self._modules = module.modules()
        self._whole = weakref.ref(whole)  # which a fingerprint does not keep alive
        self._type, self._types = type(whole), list(map(type, self._modules))
        self._kinds = list(dict.fromkeys([self._type, *self._types]))
        self._forwards = [kind.forward for kind in self._kinds]
        self._dicts = [m.__dict__ for m in (whole, *self._modules)]
        self._hooks = [*GLOBAL_HOOKS, *(d[name] for d in self._dicts for name in HOOKS)]
        self._settings = [(m.__dict__, name) for m, names in settings for name in names]
        self._values = [d[name] for d, name in self._settings]
        children = [d["_modules"] for d in self._dicts if d["_modules"]]
        self._children = [(c, list(c), list(c.values())) for c in children]
        self._reads: list[tuple[Callable[[], object], object]] = []
        self._attributes: list[tuple[dict[str, Any], tuple[Any, ...]]] = []
        if own:
            self._write_down(own, [whole, *self._modules])

    def same(self) -> bool:
        """Say whether nothing has changed: the module is looked at in a few calls of C, each over all of its layers."""
        try:
            return not (
                any(self._hooks)
                or type(self._whole()) is not self._type
                or list(map(type, self._modules)) != self._types
                or any(map(contains, self._dicts, repeat("forward")))
                or [d[name] for d, name in self._settings] != self._values
                or [None for c, keys, values in self._children if [*c.values()] != values or [*c] != keys]
                or [kind.forward for kind in self._kinds] != self._forwards
                or [None for d, values in self._attributes if tuple(d.values()) != values]
                or [None for read, value in self._reads if read() is not value]
            )
        except (KeyError, ValueError, RuntimeError, TypeError):  # an attribute is gone, or what took its place cannot be compared
            return False

    def changed_children(self) -> str | None:
        """Name the kind of a module whose children are others than they were, if there is one."""
        for kind, d in zip([self._type, *self._types], self._dicts, strict=True):
            for c, keys, values in self._children:
                if c is d["_modules"] and (list(c), list(c.values())) != (keys, values):
                    return kind.__name__
        return None

    def _write_down(self, own: list[nn.Module], modules: list[nn.Module]) -> None:
        code = _Code()
        for m in own:
            code.add(type(m).forward, m)
        for m in modules:
            d = m.__dict__
            read = set(d) if code.reads_any else set(d) & code.names
            if not (m in own or read):
                continue
            for name in sorted(read - _BOOKS):
                code.add_value(f"the attribute {name!r}", d[name], m)
            for name in sorted(set(d["_buffers"]) & code.names):
                if m in own and not (self._buffers and not code.names & _ANY_BUFFER):
                    raise ValueError(f"the forward of {type(m).__name__} reads the buffer {name!r}, whose numbers may change; {_REMEDY}")
            self._attributes.append((d, tuple(copy.deepcopy(v) if isinstance(v, _HOLDS) and k not in _BOOKS else v for k, v in d.items())))
        self._reads = code.reads


_ANY_BUFFER = {"_buffers", "buffers", "named_buffers", "get_buffer", "state_dict"}
_BOOKS = set(nn.Module().__dict__) - {"training"}  # what torch keeps in every module


class _Code:
    """All functions that a forward may call, and what they read."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.reads: list[tuple[Callable[[], object], object]] = []
        self._seen: set[object] = set()

    @property
    def reads_any(self) -> bool:
        """Whether the names in the code do not say what it reads."""
        return bool(self.names & _ANY_NAME)

    def add(self, function: types.FunctionType, m: nn.Module) -> None:
        """Follow a function of a user, with all that it calls."""
        if function in self._seen or not isinstance(function, types.FunctionType) or _of_library(function.__module__):
            return
        self._seen.add(function)
        names, codes = set(), [function.__code__]
        while codes:
            code = codes.pop()
            names |= set(code.co_names)
            codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        self.names |= names
        self.reads.append((lambda: function.__code__, function.__code__))
        self.reads.append((lambda: function.__defaults__, function.__defaults__))
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self.add_value(f"a default of {function.__name__}", value, m)
        for name in sorted(names & set(function.__globals__)):
            space = function.__globals__
            self.reads.append((lambda space=space, name=name: space.get(name), space[name]))
            self.add_value(f"the global {name!r}", space[name], m)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self.reads.append((lambda cell=cell: cell.cell_contents, cell.cell_contents))
            self.add_value(f"the variable {name!r} around it", cell.cell_contents, m)
        for kind in type(m).__mro__:
            for name in sorted(names & set(vars(kind))) if not _of_library(kind.__module__) else ():
                self.reads.append((lambda kind=kind, name=name: vars(kind).get(name), vars(kind)[name]))
                self.add_value(f"the attribute {name!r} of its class", vars(kind)[name], m)

    def add_value(self, what: str, value: Any, m: nn.Module) -> None:
        """Follow a value that a forward reads; refuse one that may change in its place."""
        if isinstance(value, types.ModuleType):
            if not _of_library(value.__name__):
                raise ValueError(f"the forward of {type(m).__name__} reads {what}, a module that may give another value later; {_REMEDY}")
        elif isinstance(value, property | staticmethod | classmethod | types.MethodType):
            inner = value.fget if isinstance(value, property) else value.__func__
            if inner is not None and getattr(value, "__self__", m) in (m, type(m)):
                self.add(inner, m)  # pyright: ignore[reportArgumentType]
        elif isinstance(value, types.FunctionType):
            self.add(value, m)
        elif isinstance(value, _HOLDS) and what.startswith("the attribute") and "class" not in what:
            if not all(map(_still, _inside(value))):
                raise ValueError(f"the forward of {type(m).__name__} reads {what}, which holds what may change unnoticed; {_REMEDY}")
        elif not (_still(value) or isinstance(value, nn.Module)):
            raise ValueError(
                f"the forward of {type(m).__name__} reads {what}, a {type(value).__name__} that may change unnoticed; {_REMEDY}"
            )


def _of_library(name: str | None) -> bool:
    return (name or "").partition(".")[0] in _LIBRARIES


def _still(value: Any) -> bool:
    """Say whether a value stays what it is as long as it is the same object."""
    if isinstance(value, tuple | frozenset):
        return all(map(_still, value))
    library = not isinstance(value, Tensor | nn.Module | random.Random) and _of_library(getattr(value, "__module__", None))
    return isinstance(value, (*_STILL, types.BuiltinFunctionType)) or (callable(value) and library)


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = [*value, *value.values()]
    for each in value:
        if isinstance(each, _HOLDS):
            yield from _inside(each)
        else:
            yield each


def generators() -> tuple[object, ...]:
    """Return the states of the generators of random numbers: what draws some changes them."""
    _, key, place, *_ = np.random.get_state()
    return random.getstate(), key.tobytes(), place, torch.get_rng_state().numpy().tobytes()  # pyright: ignore[reportAttributeAccessIssue]

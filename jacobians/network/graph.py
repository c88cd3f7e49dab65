"""Torch modules that are no chain of layers, read as a sequence of steps by symbolic tracing."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from jacobians.network import steps
from jacobians.network.activations import RULES, Activation
from jacobians.network.fingerprint import Fingerprint
from jacobians.network.from_torch import (
    FUNCTIONS,
    VIEWS,
    Changed,
    ends_in_views,
    held_by,
    joined,
    name_of,
    opens_log_cosh,
    refuse_all_extras,
    refuse_training,
    still_there,
    trace,
)
from jacobians.network.mlp import MLP

_ARITHMETIC = {
    **dict.fromkeys(("add", "iadd"), "add"),
    **dict.fromkeys(("sub", "isub", "subtract"), "sub"),
    **dict.fromkeys(("mul", "imul", "multiply"), "mul"),
    **dict.fromkeys(("truediv", "itruediv", "div", "divide"), "div"),
}
_AS_WIDE = steps.Elementwise | steps.Kink | steps.Constant | steps.Sum | steps.Product | steps.Norm | steps.BatchNorm  # as they take


class Graph:
    """The steps of a module, each behind those that it takes, and the checks that they have not changed. It stands where a `Chain` does."""

    folded = True  # its parameters are no weights and biases of a chain

    def __init__(self, module: nn.Module, reason: str, weak: bool = False) -> None:
        self.module: Callable[[], nn.Module | None] = held_by(module, weak)
        self.reason = reason
        self.steps: list[steps.Step] = []
        self.flattens, self.inputs = False, None
        self.hidden, self.output = [], Activation("identity")
        self._settings: list[tuple[nn.Module, tuple[str, ...]]] = []
        self._slots: list[steps.Slot] = []
        refuse_all_extras(module)
        self._build(module, *trace(module, buffers=True))
        own = [m for m in module.modules() if not type(m).__module__.startswith("torch.nn")]
        self._fingerprint = Fingerprint(module, self._settings, own, buffers=True)
        self._settings = []
        self._slots = [slot for step in self.steps for slot in step.slots if slot is not None]
        self._read: tuple[list[Tensor | None], Any] = ([], ((), ()))
        self._size(module)

    def read(self) -> tuple[tuple[Tensor, ...], tuple[None, ...]]:
        """Return its tensors as they are now, in the place of weights."""
        if not self._fingerprint.same():
            self._adopt_change()
        seen, pair = self._read
        found: list[Tensor | None] = [inside[table].get(name) for inside, table, name in self._slots]
        if seen and [None if t is None else t.shape for t in found] != [None if t is None else t.shape for t in seen]:
            raise Changed("a parameter has another shape than when the module was wrapped; wrap the module again with MLP.from_torch")
        if seen and len(seen) == len(found) and all(map(operator.is_, found, seen)):
            return pair
        there = tuple({id(t): t for t in found if t is not None and t.is_floating_point()}.values())
        pair = there, (None,) * len(there)
        self._read = found, pair
        return pair

    def _adopt_change(self) -> None:
        module = still_there(self.module())
        try:
            now = MLP.from_torch(module)._chain  # pyright: ignore[reportPrivateUsage]  # compared with the module as well
        except (TypeError, ValueError, LookupError, RuntimeError) as error:
            raise Changed(f"the {type(module).__name__} is another network since it was wrapped: {error}; wrap it again") from None
        if not isinstance(now, Graph) or now.description() != self.description():
            raise Changed(
                f"the {type(module).__name__} computes something else since it was wrapped; wrap the module again with MLP.from_torch"
            )
        self._fingerprint = now._fingerprint

    def description(self) -> list[object]:
        """Return what makes it this network."""
        return [self.inputs, *(step.description() for step in self.steps)]

    def text(self) -> list[str]:
        """Write the steps down, without the addresses of `description`."""

        def of(step: steps.Step) -> str:
            kind, inputs, slots, *rest = step.description()
            names = [slot and slot[1:] for slot in slots]  # pyright: ignore[reportGeneralTypeIssues]
            return f"{kind.__name__} {inputs} {names} {['cos' if r is steps.COSINE else str(r) for r in rest]}"  # pyright: ignore[reportAttributeAccessIssue]

        return list(map(of, self.steps))

    def kinks(self) -> list[str]:
        """Name the activations of a network that is piecewise linear; none where it is not."""
        rules = [s.rule for s in self.steps if isinstance(s, steps.Elementwise)]
        if any(isinstance(s, steps.Product | steps.Norm | steps.Coupled) for s in self.steps) or not all(
            getattr(r, "piecewise_linear", False) for r in rules
        ):
            return []
        prelu = ["prelu"] if any(isinstance(s, steps.Kink) for s in self.steps) else []
        return [*dict.fromkeys(r.name for r in rules if isinstance(r, Activation)), *prelu]

    def _size(self, module: nn.Module) -> None:
        """Find the widths."""
        like_x = {0}
        self.D = 0
        for number, step in enumerate(self.steps, start=1):
            if step.inputs[0] in like_x:
                p = step.tensors()
                if isinstance(step, steps.Affine):
                    self.D = p[0].shape[1]  # pyright: ignore[reportOptionalMemberAccess]
                    break
                if isinstance(
                    step, steps.Elementwise | steps.Kink | steps.Constant | steps.Sum | steps.Product | steps.Norm | steps.BatchNorm
                ):
                    like_x.add(number)
        if not self.D:
            raise ValueError("no Linear layer or matrix tells the width of x")
        (first, *_), _ = self.read()
        if first.is_meta:
            raise ValueError("it is on the meta device and has no numbers")
        values = self.evaluate(torch.zeros(1, self.D, dtype=first.dtype, device=first.device))
        self.P = values[-1].shape[-1]
        wide = [values[i].shape[-1] for i, step in enumerate(self.steps, start=1) if isinstance(step, steps.Affine) and i < len(self.steps)]
        self.widths = (self.D, *wide, self.P)  # those between are of affine steps

    def evaluate(self, x: Tensor, tensors: Sequence[Sequence[Any]] | None = None) -> list[Tensor]:
        """Return x (N, D) and the values of all steps, with their tensors as they are now or were read before."""
        values = [x]
        for step, p in zip(self.steps, tensors or [step.tensors() for step in self.steps], strict=True):
            values.append(step.value(p, *(values[i] for i in step.inputs)))
        return values

    def _build(self, module: nn.Module, given: list[fx.Node], nodes: list[fx.Node]) -> None:
        at: dict[fx.Node, int] = {given[0]: 0} if given else {}  # the step that a node is
        if len(given) > 1:
            self.inputs = joined(module, given, nodes[0])
            at = {nodes.pop(0): 0}
        slots: dict[fx.Node, steps.Slot] = {}
        for node in nodes:
            if node.op == "output":
                if node.args[0] not in at or at[node.args[0]] != len(self.steps):  # pyright: ignore[reportArgumentType]
                    raise TypeError("the forward must return one tensor, of its last step")
                return
            if node.op == "get_attr":
                slots[node] = _slot(module, str(node.target))
                continue
            made = self._layer(module, node, at) if node.op == "call_module" else self._function(node, at, slots)
            if isinstance(made, steps.Step):
                self.steps.append(made)
                at[node] = len(self.steps)
            else:
                at[node] = made

    def _layer(self, module: nn.Module, node: fx.Node, at: dict[fx.Node, int]) -> steps.Step | int:
        """Return the step of a layer, or the number of the step that it leaves as it is."""
        where = str(node.target)
        layer: Any = module.get_submodule(where)
        (source,) = list[Any](node.args)
        i, kind = at[source], type(layer)

        def parameters(*names: str, table: str = "_parameters") -> list[steps.Slot | None]:
            return [(layer.__dict__, table, name) if layer.__dict__[table].get(name) is not None else None for name in names]

        if kind is nn.Linear:
            return steps.Affine([i], parameters("weight", "bias"))
        if kind in (nn.LayerNorm, nn.RMSNorm):
            self._settings.append((layer, ("eps", "normalized_shape")))
            if len(layer.normalized_shape) != 1:
                raise ValueError(f"layer {where} ({kind.__name__}) must normalise the last axis alone")
            named = [*parameters("weight"), *(parameters("bias") if kind is nn.LayerNorm else [None])]
            return steps.Norm([i], named, layer.eps, kind is nn.LayerNorm)
        if kind is nn.BatchNorm1d:
            self._settings.append((layer, ("training", "eps")))
            refuse_training(where, layer)
            stats = parameters("running_mean", "running_var", table="_buffers")
            return steps.BatchNorm([i], [*stats, *parameters("weight", "bias")], layer.eps)
        if kind in (nn.Dropout, nn.AlphaDropout):
            self._settings.append((layer, ("training", "p")))
            refuse_training(where, layer)
            return i
        if kind is nn.PReLU:
            return steps.Kink([i], parameters("weight"))
        if kind is nn.Flatten and i == 0 and (layer.start_dim, layer.end_dim) == (1, -1):
            self.flattens = True
            self._settings.append((layer, ("start_dim", "end_dim")))
            return i
        rule = Activation.from_torch(layer)
        if rule is None:
            raise TypeError(f"layer {where} is a {kind.__name__}")
        self._settings.append((layer, tuple(rule.settings)))
        return i if rule.linear else (steps.Coupled if rule.coupled else steps.Elementwise)([i], rule)

    def _function(self, node: fx.Node, at: dict[fx.Node, int], slots: dict[fx.Node, steps.Slot]) -> steps.Step | int:
        """Return the step of a function or method, or the number of the step that it leaves as it is."""
        name = name_of(node)
        args: list[Any] = list(node.args)
        options: dict[str, Any] = {key: value for key, value in node.kwargs.items() if key not in ("inplace", "out")}
        if name in ("cat", "concat", "concatenate", "hstack"):
            parts, *rest = args
            dim = options.get("dim", rest[0] if rest else 1 if name == "hstack" else 0)
            if dim in (-1, 1) and isinstance(parts, list | tuple) and all(part in at for part in parts):
                return steps.Join([at[part] for part in parts])
        elif name in _ARITHMETIC and len(args) == 2 and not options:
            return self._arithmetic(_ARITHMETIC[name], args, at, slots)
        elif name in ("neg", "square") or (name == "pow" and args[1:] == [2]):
            i = at[args[0]]
            return steps.Constant([i], "mul", -1.0) if name == "neg" else steps.Product([i, i])
        elif opens_log_cosh(node):
            return at[args[0]]
        elif name == "log" and opens_log_cosh(args[0]):
            return steps.Elementwise([at[args[0]]], Activation("log_cosh"))
        elif name == "cos":
            return steps.Elementwise([at[args[0]]], steps.COSINE)
        elif name == "matmul" and args[0] in at and args[1] in slots:
            return steps.Features([at[args[0]]], [slots[args[1]], None])
        elif name == "linear" and args[0] in at:
            given = [*args[1:], options.get("bias")][:2]
            if all(t is None or t in slots for t in given):
                return steps.Affine([at[args[0]]], [None if t is None else slots[t] for t in given])
        elif name == "getitem" and args[0] in at:
            return steps.Part([at[args[0]]], part_of(node))
        elif name in VIEWS and args[0] in at:
            if at[args[0]] == 0 and name == "flatten" and [*args[1:], *options.values()] in ([1], [1, -1]):
                self.flattens = True
                return 0
            if ends_in_views(node):
                return at[args[0]]
        elif name in FUNCTIONS and args and args[0] in at:
            settings = dict(zip(RULES[FUNCTIONS[name]].settings, args[1:], strict=False)) | options
            return steps.Elementwise([at[args[0]]], Activation(FUNCTIONS[name], **settings))
        raise TypeError(f"'{node}' ({name}) is no step that is known")

    def _arithmetic(self, kind: str, args: Sequence[Any], at: dict[fx.Node, int], slots: dict[fx.Node, steps.Slot]) -> steps.Step:
        a, b = args
        if a in at and b in at:
            if kind == "div":
                raise TypeError("a quotient of two values is no step that is known")
            return steps.Product([at[a], at[b]]) if kind == "mul" else steps.Sum([at[a], at[b]], 1 if kind == "add" else -1)
        of_x, other = (a, b) if a in at else (b, a)
        if isinstance(other, int | float):
            operand: Any = float(other)
        elif other in slots:
            operand = slots[other]
            inside, table, name = operand
            t = inside[table][name]
            if t.ndim > 1 and t.shape[:-1].numel() != 1:
                raise TypeError(f"the constant {name!r} must be one number, or one for each feature, got shape {tuple(t.shape)}")
        else:
            raise TypeError(f"{other!r} is no constant")
        if of_x is b and kind == "div":
            raise TypeError("a constant divided by a value is no step that is known")
        return steps.Constant([at[of_x]], "from" if of_x is b and kind == "sub" else kind, operand)


def part_of(node: Any) -> slice:
    """Read which features an index takes: `[:, a:b]`, `[..., a:b]`, or one by its number."""
    index = node.args[1]
    if isinstance(index, tuple) and len(index) == 2 and index[0] in (Ellipsis, slice(None)):
        last = index[1]
        if isinstance(last, int):
            last = slice(last, last + 1 or None)
            if not ends_in_views(node):
                raise TypeError(f"'{node}' takes away the axis of features; write [:, i:i+1]")
        if isinstance(last, slice) and last.step in (None, 1):
            return last
    raise TypeError(f"'{node}' takes {index!r}, which are no features side by side of all samples")


def _slot(module: nn.Module, target: str) -> steps.Slot:
    """Return where a parameter or buffer stands."""
    path, _, name = target.rpartition(".")
    inside = module.get_submodule(path).__dict__
    table = "_parameters" if name in inside["_parameters"] else "_buffers"
    if name not in inside[table]:
        raise TypeError(f"the tensor {target!r} is neither a parameter nor a buffer; register it as one")
    return inside, table, name

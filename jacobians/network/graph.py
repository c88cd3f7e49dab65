"""Torch modules that are no chain of layers, read as a sequence of steps by symbolic tracing."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from jacobians.network.activations import RULES, Activation
from jacobians.network.fingerprint import Fingerprint, generators
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
from jacobians.network.steps import (
    COSINE,
    Affine,
    BatchNorm,
    Constant,
    Coupled,
    Elementwise,
    Features,
    Join,
    Kink,
    Norm,
    Part,
    Product,
    Slot,
    Step,
    Sum,
)

_ARITHMETIC = {
    **dict.fromkeys(("add", "iadd"), "add"),
    **dict.fromkeys(("sub", "isub", "subtract"), "sub"),
    **dict.fromkeys(("mul", "imul", "multiply"), "mul"),
    **dict.fromkeys(("truediv", "itruediv", "div", "divide"), "div"),
}


class Graph:
    """The steps of a module, and the checks that they have not changed. It stands where a `Chain` does.

    Args:
        module: The torch module.
        reason: Why it is no chain.
        weak: Whether it must not keep the module alive.

    Attributes:
        steps: The steps in an order in which each comes after those it takes.
        D: Input width.
        P: Output width.
        widths: D, the widths of affine steps, and P.

    Raises:
        TypeError: A step is of a kind that is not known.
        ValueError: A step does not fit.
    """

    folded = True  # its parameters are no weights and biases of a chain

    def __init__(self, module: nn.Module, reason: str, weak: bool = False) -> None:
        self.module: Callable[[], nn.Module | None] = held_by(module, weak)
        self.reason, self._weak = reason, weak
        self.steps: list[Step] = []
        self.flattens, self.inputs = False, None
        self.hidden, self.output = [], Activation("identity")
        self._settings: list[tuple[nn.Module, tuple[str, ...]]] = []
        self._slots: list[Slot] = []
        refuse_all_extras(module)
        before = generators()
        graph = trace(module, buffers=True)
        if generators() != before:
            raise ValueError("the forward draws random numbers")
        self._build(module, graph)
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

        def of(step: Step) -> str:
            kind, inputs, slots, *rest = step.description()
            names = [slot and slot[1:] for slot in slots]  # pyright: ignore[reportGeneralTypeIssues]
            return f"{kind.__name__} {inputs} {names} {['cos' if r is COSINE else str(r) for r in rest]}"  # pyright: ignore[reportAttributeAccessIssue]

        return list(map(of, self.steps))

    def kinks(self) -> list[str]:
        """Name the activations of a network that is piecewise linear; none where it is not."""
        rules = [s.rule for s in self.steps if isinstance(s, Elementwise)]
        if any(isinstance(s, Product | Norm | Coupled) for s in self.steps) or not all(
            getattr(r, "piecewise_linear", False) for r in rules
        ):
            return []
        prelu = ["prelu"] if any(isinstance(s, Kink) for s in self.steps) else []
        return [*dict.fromkeys(r.name for r in rules if isinstance(r, Activation)), *prelu]

    def _size(self, module: nn.Module) -> None:
        """Find the widths."""
        like_x = {0}
        self.D = 0
        for number, step in enumerate(self.steps, start=1):
            if step.inputs[0] in like_x:
                p = step.tensors()
                if isinstance(step, Affine):
                    self.D = p[0].shape[1]  # pyright: ignore[reportOptionalMemberAccess]
                    break
                if isinstance(step, Elementwise | Kink | Constant | Sum | Product | Norm | BatchNorm):
                    like_x.add(number)
        if not self.D:
            raise ValueError("no Linear layer or matrix tells the width of x")
        (first, *_), _ = self.read()
        if first.is_meta:
            raise ValueError("it is on the meta device and has no numbers")
        values = self.evaluate(torch.zeros(1, self.D, dtype=first.dtype, device=first.device))
        self.P = values[-1].shape[-1]
        wide = [values[i].shape[-1] for i, step in enumerate(self.steps, start=1) if isinstance(step, Affine) and i < len(self.steps)]
        self.widths = (self.D, *wide, self.P)

    def evaluate(self, x: Tensor) -> list[Tensor]:
        """Return x (N, D) and the values of all steps."""
        values = [x]
        for step in self.steps:
            values.append(step.value(step.tensors(), *(values[i] for i in step.inputs)))
        return values

    def _build(self, module: nn.Module, graph: fx.Graph) -> None:
        given = [node for node in graph.nodes if node.op == "placeholder"]
        nodes = [node for node in graph.nodes if node.op != "placeholder"]
        at: dict[fx.Node, int] = {given[0]: 0} if given else {}  # the step that a node is
        if len(given) > 1:
            self.inputs = joined(module, given, nodes[0])
            at = {nodes.pop(0): 0}
        slots: dict[fx.Node, Slot] = {}
        for node in nodes:
            if node.op == "output":
                if node.args[0] not in at or at[node.args[0]] != len(self.steps):  # pyright: ignore[reportArgumentType]
                    raise TypeError("the forward must return one tensor, of its last step")
                return
            if node.op == "get_attr":
                slots[node] = _slot(module, str(node.target))
                continue
            made = self._layer(module, node, at) if node.op == "call_module" else self._function(node, at, slots)
            if isinstance(made, Step):
                self.steps.append(made)
                at[node] = len(self.steps)
            else:
                at[node] = made

    def _layer(self, module: nn.Module, node: fx.Node, at: dict[fx.Node, int]) -> Step | int:
        """Return the step of a layer, or the number of the step that it leaves as it is."""
        where, layer = str(node.target), module.get_submodule(str(node.target))
        (source,) = node.args
        i, kind = at[source], type(layer)  # pyright: ignore[reportArgumentType]

        def parameters(*names: str, table: str = "_parameters") -> list[Slot | None]:
            return [(layer.__dict__, table, name) if layer.__dict__[table].get(name) is not None else None for name in names]

        if kind is nn.Linear:
            return Affine([i], parameters("weight", "bias"))
        if kind in (nn.LayerNorm, nn.RMSNorm):
            self._settings.append((layer, ("eps", "normalized_shape")))
            if len(layer.normalized_shape) != 1:  # pyright: ignore[reportArgumentType]
                raise ValueError(f"layer {where} ({kind.__name__}) must normalise the last axis alone")
            named = [*parameters("weight"), *(parameters("bias") if kind is nn.LayerNorm else [None])]
            return Norm([i], named, layer.eps, kind is nn.LayerNorm)  # pyright: ignore[reportArgumentType]
        if kind is nn.BatchNorm1d:
            self._settings.append((layer, ("training", "eps")))
            refuse_training(where, layer)
            stats = parameters("running_mean", "running_var", table="_buffers")
            return BatchNorm([i], [*stats, *parameters("weight", "bias")], layer.eps)  # pyright: ignore[reportArgumentType]
        if kind in (nn.Dropout, nn.AlphaDropout):
            self._settings.append((layer, ("training", "p")))
            refuse_training(where, layer)
            return i
        if kind is nn.PReLU:
            return Kink([i], parameters("weight"))
        if kind is nn.Flatten and i == 0 and (layer.start_dim, layer.end_dim) == (1, -1):
            self.flattens = True
            self._settings.append((layer, ("start_dim", "end_dim")))
            return i
        rule = Activation.from_torch(layer)
        if rule is None:
            raise TypeError(f"layer {where} is a {kind.__name__}")
        self._settings.append((layer, tuple(rule.settings)))
        return i if rule.linear else (Coupled if rule.coupled else Elementwise)([i], rule)

    def _function(self, node: fx.Node, at: dict[fx.Node, int], slots: dict[fx.Node, Slot]) -> Step | int:
        """Return the step of a function or method, or the number of the step that it leaves as it is."""
        name = name_of(node)
        args, options = list(node.args), {key: value for key, value in node.kwargs.items() if key not in ("inplace", "out")}
        if name in ("cat", "concat", "concatenate", "hstack"):
            parts, *rest = args
            dim = options.get("dim", rest[0] if rest else 1 if name == "hstack" else 0)
            if dim in (-1, 1) and isinstance(parts, list | tuple) and all(part in at for part in parts):
                return Join([at[part] for part in parts])  # pyright: ignore[reportArgumentType]
        elif name in _ARITHMETIC and len(args) == 2 and not options:
            return self._arithmetic(_ARITHMETIC[name], args, at, slots)
        elif name in ("neg", "square") or (name == "pow" and args[1:] == [2]):
            i = at[args[0]]  # pyright: ignore[reportArgumentType]
            return Constant([i], "mul", -1.0) if name == "neg" else Product([i, i])
        elif opens_log_cosh(node):
            return at[args[0]]  # pyright: ignore[reportArgumentType]
        elif name == "log" and opens_log_cosh(args[0]):
            return Elementwise([at[args[0]]], Activation("log_cosh"))  # pyright: ignore[reportArgumentType]
        elif name == "cos":
            return Elementwise([at[args[0]]], COSINE)  # pyright: ignore[reportArgumentType]
        elif name == "matmul" and args[0] in at and args[1] in slots:
            return Features([at[args[0]]], [slots[args[1]], None])  # pyright: ignore[reportArgumentType]
        elif name == "linear" and args[0] in at:
            given = [*args[1:], options.get("bias")][:2]
            if all(t is None or t in slots for t in given):
                return Affine([at[args[0]]], [None if t is None else slots[t] for t in given])  # pyright: ignore[reportArgumentType]
        elif name == "getitem" and args[0] in at:
            return Part([at[args[0]]], part_of(node))  # pyright: ignore[reportArgumentType]
        elif name in VIEWS and args[0] in at:
            if at[args[0]] == 0 and name == "flatten" and [*args[1:], *options.values()] in ([1], [1, -1]):  # pyright: ignore[reportArgumentType]
                self.flattens = True
                return 0
            if ends_in_views(node):
                return at[args[0]]  # pyright: ignore[reportArgumentType]
        elif name in FUNCTIONS and args and args[0] in at:
            settings = dict(zip(RULES[FUNCTIONS[name]].settings, args[1:], strict=False)) | options
            return Elementwise([at[args[0]]], Activation(FUNCTIONS[name], **settings))  # pyright: ignore[reportArgumentType]
        raise TypeError(f"'{node}' ({name}) is no step that is known")

    def _arithmetic(self, kind: str, args: Sequence[Any], at: dict[fx.Node, int], slots: dict[fx.Node, Slot]) -> Step:
        a, b = args
        if a in at and b in at:
            if kind == "div":
                raise TypeError("a quotient of two values is no step that is known")
            return Product([at[a], at[b]]) if kind == "mul" else Sum([at[a], at[b]], 1 if kind == "add" else -1)
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
        return Constant([at[of_x]], "from" if of_x is b and kind == "sub" else kind, operand)


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


def _slot(module: nn.Module, target: str) -> Slot:
    """Return where a parameter or buffer stands."""
    path, _, name = target.rpartition(".")
    inside = module.get_submodule(path).__dict__
    table = "_parameters" if name in inside["_parameters"] else "_buffers"
    if name not in inside[table]:
        raise TypeError(f"the tensor {target!r} is neither a parameter nor a buffer; register it as one")
    return inside, table, name

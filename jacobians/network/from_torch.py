"""Torch modules as chains of affine maps and activations: the layers that `MLP.from_torch` accepts, and how they map.

The module stays the owner: its parameters are read at each call, so an optimizer's step, a replaced parameter or
`torch.func.functional_call` is seen. What would make the module compute something else than the chain, at wrapping or later, is an
error and never a wrong number.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from jacobians.network.activations import RULES, Activation, text_of
from jacobians.network.fingerprint import GLOBAL_HOOKS, HOOKS, Fingerprint, generators
from jacobians.network.mlp import MLP, Tuples, check_parameters

if TYPE_CHECKING:
    from jacobians.network.graph import Graph

_DROPOUT = (nn.Dropout, nn.AlphaDropout)
_LAZY = (nn.LazyLinear, nn.LazyBatchNorm1d)
# Functions and methods that `torch.fx` may find in a forward, by name; their arguments have the names of our settings.
FUNCTIONS = {name: name for name in RULES} | {"sin": "sine", "logsigmoid": "log_sigmoid"}
_CALLS = ("call_function", "call_method")
_JOINS = ("cat", "concat", "concatenate", "hstack", "stack")
_OTHERS = tuple(getattr(nn, name) for name in ("MultiheadAttention", "TransformerEncoderLayer", "TransformerDecoderLayer", "Embedding"))
_OTHERS += (nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase)  # pyright: ignore[reportPrivateUsage]
_ELSEWHERE = "take torch.func.vmap(torch.func.jacrev(lambda x: net(x[None])[0]))(x) for such a net"
_WRAP_AGAIN = "wrap the module again with MLP.from_torch"


class Scaled(nn.Module):
    """An activation times a constant, as a torch module: `scale · φ(z)`."""

    def __init__(self, activation: nn.Module, scale: float) -> None:
        super().__init__()
        self.activation = activation
        self.scale = scale

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * self.activation(z)


class Changed(ValueError):
    """A module computes something else than when it was wrapped."""


class Branches(TypeError):
    """A forward is no chain, for a step takes something else than what the last one gave."""


@dataclass
class _Affine:
    """A linear layer, by its attributes, with the batch norms that stand before it and directly behind it."""

    linear: dict[str, Any]
    where: str
    before: list[nn.BatchNorm1d] = field(default_factory=list)
    behind: list[nn.BatchNorm1d] = field(default_factory=list)
    activation: Activation | None = None
    inner: float = 1.0  # factor of what enters the activation
    rows: slice | None = None  # of the outputs
    parametrized: Callable[[], nn.Module | None] | None = None  # the layer, whose weight is computed from its parameters

    def read(self) -> tuple[Tensor, Tensor | None]:
        """Return W and b as they are now, the batch norms multiplied in."""
        parameters = self.linear["_parameters"]
        W, b = parameters.get("weight"), parameters.get("bias")
        if self.parametrized is not None:
            layer: Any = self.parametrized()
            W, b = layer.weight, layer.bias
        if W is None:
            raise ValueError(f"layer {self.where} (Linear) has lost its parameter 'weight'; remove what replaced it, e.g. pruning")
        for norm in reversed(self.before):  # W (g h + c) + b, the one next to W first
            g, c = _affine_of(self.where, norm, W.shape[1:])
            b = W @ c if b is None else b + W @ c
            W = W * g
        for norm in self.behind:  # g (W h + b) + c
            g, c = _affine_of(self.where, norm, W.shape[:1])
            b = c if b is None else g * b + c
            W = g[:, None] * W
        if self.rows is not None:
            W, b = W[self.rows], None if b is None else b[self.rows]
        return W, b


def held_by(module: nn.Module, weak: bool) -> Callable[[], nn.Module | None]:
    """Return what returns a module, and keeps it alive unless that is to be weak."""
    return weakref.ref(module) if weak else lambda: module


def still_there(module: nn.Module | None) -> nn.Module:
    """Refuse to go on for a module that is gone."""
    if module is None:
        raise ValueError("the module of this network has been deleted; keep it, or wrap it with MLP.from_torch, which does")
    return module


def trace(module: nn.Module, buffers: bool = False) -> tuple[list[Any], list[Any]]:
    """Trace the forward of a module by `torch.fx`, to its arguments and all other nodes; with its buffers as nodes, or as they are now."""
    from torch import fx

    class Tracer(fx.Tracer):
        proxy_buffer_attributes = buffers

        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return type(m) in {rule.module for rule in RULES.values()} or super().is_leaf_module(m, module_qualified_name)

        def create_arg(self, a: Any) -> Any:
            if isinstance(a, Tensor) and not any(a is t for t in (*self.root.parameters(), *self.root.buffers())):
                raise TypeError(
                    "it reads a tensor that is neither a parameter nor a buffer; register it as one"
                )  # fx would, with the module
            return super().create_arg(a)

    tracer, before = Tracer(), generators()
    try:
        nodes = list(tracer.trace(module).nodes)
    except Exception as error:  # whatever the forward does with a proxy
        first = str(error).splitlines()[0] if str(error) else "no message"
        raise TypeError(
            f"the forward of {type(module).__name__} cannot be traced by torch.fx ({first}); write it as an nn.Sequential"
        ) from None
    finally:
        vars(tracer).clear()  # it is part of cycles, and holds the module
    if generators() != before:
        raise ValueError(f"the forward of {type(module).__name__} draws random numbers: no two calls compute the same; take them out")
    return [node for node in nodes if node.op == "placeholder"], [node for node in nodes if node.op != "placeholder"]


class Inputs(NamedTuple):
    """Several inputs that a forward puts together before anything else."""

    names: tuple[str, ...]  # of the arguments of the forward
    order: tuple[int, ...]  # the arguments in the order in which they are put together
    stacked: bool  # whether each is one number a sample, without an axis of its own

    def split(self, x: Tensor) -> list[Tensor]:
        """Take (N, D) apart into arguments, all but the last of them one column wide."""
        count = len(self.order)
        parts = x.unbind(-1) if self.stacked else x.split([1] * (count - 1) + [x.shape[-1] - count + 1], -1)
        return [parts[self.order.index(i)] for i in range(count)]


class Chain:
    """The layers of a module in order, and the checks that they have not changed.

    With `normalising`, for `module_gradient`, batch norms may be in training mode; with `weak` it does not keep the module alive.
    """

    def __init__(self, module: nn.Module, normalising: bool = False, weak: bool = False) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"expected a torch nn.Module, got {type(module).__name__}; pass e.g. nn.Sequential(nn.Linear(3, 64), nn.Tanh(), …)"
            )
        self.module: Callable[[], nn.Module | None] = held_by(module, weak)
        self.sequence: list[nn.Linear | nn.BatchNorm1d | Activation] = []  # in their order, for `module_gradient`
        self.flattens = False  # whether the module begins with a Flatten, and so takes images
        self.inputs: Inputs | None = None  # how several inputs are put together first
        self._weak, self._normalising = weak, normalising
        self._settings: list[tuple[nn.Module, tuple[str, ...]]] = []
        self._own: list[nn.Module] = []
        self._affine: list[_Affine] = []
        pending: list[nn.BatchNorm1d] = []
        refuse_all_extras(module)
        for where, layer in self._layers(module):
            self._take(where, layer, pending)
        if pending:
            raise ValueError("a BatchNorm1d behind the last activation cannot be merged into a Linear layer; put it before the activation")
        if not self._affine:
            raise ValueError(f"the {type(module).__name__} has no Linear layer; at least one is needed")
        for unit in self._affine:
            if unit.inner != 1:  # no activation came behind it
                unit.activation = Activation("identity", scale=unit.inner)
        *self.hidden, self.output = (unit.activation or Activation("identity") for unit in self._affine)
        if normalising:  # evaluated once, now
            return
        self._fingerprint = Fingerprint(module, self._settings, self._own)
        self._settings, self._own, self.sequence = [], [], []  # which may hold the module itself
        self._slots = [(unit.linear, name) for unit in self._affine for name in ("weight", "bias")]
        self._read: tuple[list[Tensor | None], Tuples] = ([], ((), ()))

    def read(self) -> Tuples:
        """Return weights and biases as they are now."""
        if not self._fingerprint.same():
            self._adopt_change()
        seen, pair = self._read
        try:
            found = [inside["_parameters"][name] for inside, name in self._slots]
        except KeyError:
            found = []  # one is gone, which is said below
        if seen and len(seen) == len(found) and all(map(is_, found, seen)) and not self.folded:
            return pair
        pairs = [unit.read() for unit in self._affine]
        pair = tuple(W for W, _ in pairs), tuple(b for _, b in pairs)
        check_parameters(*pair)
        self._read = found, pair
        return pair

    def _adopt_change(self) -> None:
        """Go on where the module still is this network after a change, e.g. of its training flag; refuse it otherwise."""
        module = still_there(self.module())
        refuse_all_extras(module)
        if (kind := self._fingerprint.changed_children()) is not None:
            raise Changed(f"the layers of the {kind} have changed since it was wrapped; {_WRAP_AGAIN}")
        now = MLP.from_torch(module)._chain  # pyright: ignore[reportPrivateUsage]  # compared with the module as well
        assert now is not None
        if not isinstance(now, Chain):
            raise Changed(f"the {type(module).__name__} is no chain any more: {now.reason}; {_WRAP_AGAIN}")
        if now._description() != self._description():
            raise Changed(
                f"the {type(module).__name__} computes something else since it was wrapped: {text_of([*now.hidden, now.output])} for "
                f"{text_of([*self.hidden, self.output])}; {_WRAP_AGAIN}"
            )
        self._fingerprint = now._fingerprint

    def _description(self) -> list[object]:
        units = [(id(u.linear), *map(id, (*u.before, *u.behind)), len(u.before), u.activation, str(u.rows)) for u in self._affine]
        return [self.inputs, *units]

    @cached_property
    def folded(self) -> bool:
        """Whether weights are computed from the parameters: batch norms multiplied in, rows left out, parametrizations."""
        return any(unit.before or unit.behind or unit.rows or unit.parametrized for unit in self._affine)

    def _layers(self, module: nn.Module) -> Iterator[tuple[str, nn.Module | Activation]]:
        kind = type(module)
        if kind is nn.Sequential:
            yield from self._children(module, "")
        elif (
            kind in (nn.Linear, nn.BatchNorm1d)
            or _parametrized(module)
            or isinstance(module, nn.Sequential)
            or Activation.from_torch(module)
        ):
            yield "0", module
        else:
            yield from self._traced(module)

    def _children(self, container: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        for name, child in container._modules.items():
            where = f"{prefix}{name}"
            if child is None:
                raise ValueError(f"layer {where} is None; remove it from the {type(container).__name__}")
            if type(child) is nn.Sequential:
                yield from self._children(child, f"{where}.")
            else:
                yield where, child

    def _traced(self, module: nn.Module) -> Iterator[tuple[str, nn.Module | Activation]]:
        """Go over the layers of a module whose forward is a chain, by symbolic tracing."""
        self._own = [m for m in module.modules() if not type(m).__module__.startswith("torch.nn")]
        given, nodes = trace(module)
        last = given[0] if given else None
        if len(given) > 1:
            last = nodes.pop(0)
            self.inputs = joined(module, given, last)
        for node in nodes:
            inputs = list(node.all_input_nodes)
            if last is None or inputs != [last] or len(last.users) != 1:
                raise Branches(
                    f"'{node}' in the forward of {type(module).__name__} is no step of a chain; each layer must take the last one's output"
                )
            if node.op == "output":
                if node.args[0] is not last:
                    raise TypeError(f"the forward of {type(module).__name__} returns {node.args[0]}; it must return one tensor")
                return
            last = node
            if node.op == "call_module":
                child = module.get_submodule(str(node.target))
                if type(child) is nn.Sequential:
                    yield from self._children(child, f"{node.target}.")
                else:
                    yield str(node.target), child
                continue
            if opens_log_cosh(node):
                continue
            if isinstance(factor := _factor(node, inputs[0]), float):
                self._scale(str(node), factor)
            elif node.op != "get_attr" and name_of(node) == "getitem" and self._affine:
                self._slice(node)
            elif not (self._affine and ends_in_views(node, itself=True)):  # which leave the outputs as they are
                step = _function(node, inputs[0])
                self.flattens |= step is None
                if step is not None:
                    yield str(node), step

    def _scale(self, where: str, factor: float) -> None:
        """Multiply what a layer gives by a number: a setting of its activation."""
        unit = self._affine[-1] if self._affine else None
        if unit is None or factor == 0:
            raise ValueError(f"'{where}' multiplies the input, or by 0; let a Linear layer come before it")
        if unit.activation is None:
            unit.inner *= factor
        else:
            own = unit.activation
            unit.activation = Activation(own.name, scale=own.scale * factor, **own.settings)

    def _slice(self, node: Any) -> None:
        """Leave out outputs: rows of the last weight."""
        from jacobians.network.graph import part_of

        unit = self._affine[-1]
        if not ends_in_views(node) or unit.rows is not None or (unit.activation is not None and unit.activation.coupled):
            raise ValueError(f"'{node}' takes part of the features between layers; only outputs can be sliced")
        unit.rows = part_of(node)

    def _take(self, where: str, layer: nn.Module | Activation, pending: list[nn.BatchNorm1d]) -> None:
        """Append a layer to the chain."""
        if isinstance(layer, Activation):
            self._activate(where, str(layer), layer, pending)
            return
        kind = type(layer)
        if kind is nn.Linear or _parametrized(layer):
            if kind is not nn.Linear:
                _refuse_moving(where, layer)
            if cast("nn.Linear", layer).weight.is_meta:
                raise ValueError(
                    f"layer {where} (Linear) is on the meta device and has no numbers; materialise it with module.to_empty(device='cpu')"
                )
            unit = _Affine(layer.__dict__, where, before=pending[:])
            if kind is not nn.Linear:
                unit.parametrized = held_by(layer, self._weak)
                self._settings += [(m, ("training",)) for m in layer.parametrizations.modules()]  # pyright: ignore[reportAttributeAccessIssue]
            self._affine.append(unit)
            self.sequence.append(cast("nn.Linear", layer))
            pending.clear()
        elif kind is nn.Flatten:
            self._settings.append((layer, ("start_dim", "end_dim")))
            if (layer.start_dim, layer.end_dim) != (1, -1):
                raise ValueError(
                    f"layer {where} (Flatten) must keep the samples apart, as nn.Flatten() does; got start_dim={layer.start_dim}, "
                    f"end_dim={layer.end_dim}"
                )
            self.flattens = True
            if self._affine or pending:
                raise ValueError(f"layer {where} (Flatten) must come first; x has shape (D,) or (N, D) from there on")
        elif kind in _DROPOUT or kind is nn.BatchNorm1d:
            if kind is nn.BatchNorm1d and self._affine and self._affine[-1].inner != 1:
                raise ValueError(f"layer {where} (BatchNorm1d) comes behind a factor; let it follow the Linear layer")
            self._settings.append((layer, ("training", "eps" if kind is nn.BatchNorm1d else "p")))
            if kind is not nn.BatchNorm1d or not self._normalising:
                refuse_training(where, layer)
            if kind is nn.BatchNorm1d:
                self.sequence.append(cast("nn.BatchNorm1d", layer))
                unit = self._affine[-1] if self._affine else None
                (unit.behind if unit and unit.activation is None else pending).append(cast("nn.BatchNorm1d", layer))
        elif kind is Scaled:
            scaled = cast("Scaled", layer)
            self._settings.append((layer, ("scale",)))
            inner = self._activation_of(scaled.activation)
            if inner is None:
                raise TypeError(f"layer {where} scales a {type(scaled.activation).__name__}; {_supported()}")
            self._activate(where, kind.__name__, Activation(inner.name, scale=scaled.scale, **inner.settings), pending)
        elif (rule := self._activation_of(layer)) is not None:
            if not rule.linear:
                self._activate(where, kind.__name__, rule, pending)
        elif isinstance(layer, nn.Linear | nn.Sequential):
            base = "Linear" if isinstance(layer, nn.Linear) else "Sequential"
            raise TypeError(
                f"layer {where} is a {kind.__name__}, a subclass of {base} that may compute something else; use nn.{base} itself"
            )
        else:
            raise TypeError(f"layer {where} is a {kind.__name__}; {_supported()}")

    def _activation_of(self, layer: nn.Module) -> Activation | None:
        try:
            rule = Activation.from_torch(layer)
        except AttributeError as error:
            raise ValueError(f"a {type(layer).__name__} has lost its setting {error.name!r}; give it back") from None
        if rule is not None:
            self._settings.append((layer, tuple(rule.settings)))
        return rule

    def _activate(self, where: str, shown: str, rule: Activation, pending: Sequence[nn.BatchNorm1d]) -> None:
        if not self._affine or self._affine[-1].activation is not None or pending:
            raise ValueError(f"layer {where} ({shown}) must follow a Linear layer; let Linear and activation alternate")
        unit = self._affine[-1]
        if unit.inner != 1:
            if rule.name != "sine":
                raise ValueError(
                    f"layer {where} ({shown}) takes {unit.inner} times what the Linear layer gives; only a sine has such a setting"
                )
            rule = Activation("sine", scale=rule.scale, omega=float(rule.settings["omega"]) * unit.inner)
            unit.inner = 1.0
        unit.activation = rule
        self.sequence.append(rule)


def read(module: nn.Module, weak: bool = False) -> Chain | Graph:
    """Read a module as a chain of layers, or where it is none as a sequence of steps."""
    try:
        return Chain(module, weak=weak)
    except (TypeError, ValueError) as no_chain:
        from jacobians.network.graph import Graph

        if not isinstance(module, nn.Module):
            raise
        try:
            return Graph(module, str(no_chain).partition(";")[0], weak)
        except (TypeError, ValueError, LookupError, RuntimeError, AttributeError) as no_step:  # one that is not known, or does not fit
            for where, layer in module.named_modules():
                if isinstance(layer, _OTHERS):
                    raise TypeError(f"layer {where or '(whole)'} is a {type(layer).__name__}, which is not taken; {_ELSEWHERE}") from None
            if not isinstance(no_chain, Branches) or type(no_step) not in (TypeError, ValueError):
                raise no_chain from None
            remedy = f"; {_ELSEWHERE}" if isinstance(no_step, TypeError) else ""
            raise type(no_step)(f"the forward of {type(module).__name__} is not taken: {no_step}{remedy}") from None


class _OfModule(MLP):
    """The network of a module that was passed where a network is taken: it follows the module, and does not keep it alive."""

    def __init__(self, module: nn.Module) -> None:
        self._take(read(module, weak=True), module)

    def parameter_tuples(self) -> Tuples:
        assert self._chain is not None
        try:
            return self._chain.read()
        except Changed:
            module = self._chain.module()
            assert module is not None
            self._take(read(module, weak=True), module)  # plans see that their activations are gone
            return self._chain.read()


_wrapped: dict[int, tuple[weakref.ref[nn.Module], MLP]] = {}


def network_of(net: object) -> MLP:
    """Return a network as it is, and that of a module: made at the first call and found again as long as the module lives."""
    if type(net) is MLP:
        return net
    found = _wrapped.get(id(net))
    if found is not None and found[0]() is net:
        return found[1]
    if isinstance(net, MLP):
        return net
    if not isinstance(net, nn.Module):
        raise TypeError(f"expected a jacobians.MLP or a torch nn.Module, got {type(net).__name__}; pass e.g. an nn.Sequential")
    key, mlp = id(net), _OfModule(net)

    def forget(_: object) -> None:
        _wrapped.pop(key)[1]._plans.clear()  # which hold the network, that holds them

    _wrapped[key] = weakref.ref(net, forget), mlp
    return mlp


@contextmanager
def _numbers_in(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Lend a module its numbers in another dtype; its own tensors come back, whatever happens."""
    tables: list[dict[str, Any]] = [table for m in module.modules() for table in (m._parameters, m._buffers)]
    own = [(table, name, t) for table in tables for name, t in table.items() if t is not None and t.is_floating_point()]
    try:
        for table, name, t in own:
            table[name] = t.detach().to(dtype)
        yield
    finally:
        for table, name, t in own:
            table[name] = t


def _largest(y: Tensor) -> float:
    """Return the largest finite size of numbers, or the least normal one."""
    finite = torch.where(y.isfinite(), y, 0).abs()
    return max(finite.max().item() if finite.numel() else 0.0, torch.finfo(y.dtype).tiny)


def compare(mlp: MLP, module: nn.Module) -> None:
    """Evaluate both at two inputs, so that what we did not foresee is refused and not computed wrong."""
    # In float64, where rounding hides nothing.
    dtype = torch.float64 if mlp.device.type != "mps" else torch.float32
    x = torch.randn(2, mlp.D, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float64, device="cpu")
    x = x.to(mlp.device, dtype)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False), _numbers_in(module, dtype):
        ours, theirs = mlp(x), module(*(mlp.inputs.split(x) if mlp.inputs else (x,)))
    same = isinstance(theirs, Tensor) and theirs.numel() == ours.numel()
    theirs = theirs.reshape(ours.shape) if same else theirs  # outputs count by their number
    if not same or not torch.allclose(ours, theirs, rtol=0, atol=_largest(theirs) * torch.finfo(dtype).eps ** 0.5, equal_nan=True):
        raise ValueError(
            f"the {type(module).__name__} computes something else than the chain of its layers ({text_of(mlp.activations[:-1])}, "
            f"widths {'-'.join(map(str, mlp.widths))}); pass a module whose forward is that chain"
        )


def joined(module: nn.Module, given: Sequence[Any], node: Any) -> Inputs:
    """Read how a forward puts its arguments together: `torch.cat` or `torch.stack` of all of them, along the features."""
    name = name_of(node)
    parts, *rest = (*node.args, None) if node.args else (node.kwargs.get("tensors"), None)
    dim = node.kwargs.get("dim", rest[0] if rest[0] is not None else 1 if name == "hstack" else 0)
    order = [given.index(part) for part in parts if part in given] if isinstance(parts, list | tuple) else []
    if name not in _JOINS or dim not in (-1, 1) or sorted(order) != list(range(len(given))) or any(len(g.users) != 1 for g in given):
        names = ", ".join(str(g.target) for g in given)
        raise TypeError(
            f"the forward of {type(module).__name__} takes {len(given)} inputs and does not begin with torch.cat([{names}], -1), or stack, "
            "of all of them; write it so, or pass one tensor"
        )
    return Inputs(tuple(str(g.target) for g in given), tuple(order), name == "stack")


VIEWS = ("reshape", "view", "flatten", "squeeze", "contiguous")


def name_of(node: Any) -> str:
    """Name the function or method of a traced node."""
    return str(node.target if node.op == "call_method" else getattr(node.target, "__name__", node.target)).rstrip("_")


def ends_in_views(node: Any, itself: bool = False) -> bool:
    """Say whether nothing but views comes behind a node, before the output; and that it is one itself."""
    while node.op != "output":
        if itself and (node.op == "call_module" or name_of(node) not in VIEWS):
            return False
        if len(node.users) != 1:
            return False
        (node,), itself = node.users, True
    return True


def opens_log_cosh(node: Any) -> bool:
    """Say whether this is the cosh of a `log(cosh(z))`, which is one activation."""
    return node.op in _CALLS and name_of(node) == "cosh" and all(u.op in _CALLS and name_of(u) == "log" for u in node.users)


def _factor(node: Any, taken: Any) -> float | None:
    """Read a multiplication or division by a number, or a change of sign."""
    if node.op not in _CALLS:
        return None
    name, others = name_of(node), [argument for argument in node.args if argument is not taken]
    if name == "neg":
        return -1.0
    if len(others) != 1 or isinstance(others[0], bool) or not isinstance(others[0], int | float):
        return None
    if name in ("mul", "imul", "multiply"):
        return float(others[0])
    by = name in ("div", "truediv", "itruediv", "divide") and node.args[0] is taken and not node.kwargs and others[0]
    return 1 / others[0] if by else None


def _function(node: Any, taken: Any) -> Activation | None:
    """Name what a traced function or method computes; `None` for one that leaves a matrix of samples as it is."""
    name = name_of(node)
    arguments = [argument for argument in node.args if argument is not taken]
    if name == "flatten" and taken.op == "placeholder":
        if [*arguments, *node.kwargs.values()][:1] != [1] or [*arguments, *node.kwargs.values()][1:] not in ([], [-1]):
            raise ValueError(f"'{node}' must keep the samples apart; write torch.flatten(x, 1)")
        return None
    if name == "log" and opens_log_cosh(taken):
        return Activation("log_cosh")
    if name == "dropout":
        raise ValueError(f"'{node}' is a call of dropout; use nn.Dropout, whose eval mode can be seen")
    ours = FUNCTIONS.get(name)
    if node.op == "get_attr" or ours is None:
        raise TypeError(f"'{node}' ({name}) in the forward is no layer of a chain; {_supported()}")
    settings = dict(zip(RULES[ours].settings, arguments, strict=False))
    settings |= {key: value for key, value in node.kwargs.items() if key not in {"inplace", "input"}}
    return Activation(ours, **settings)


def _affine_of(where: str, norm: nn.BatchNorm1d, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Return g and c of a batch norm in eval mode: `g h + c` with `g = γ / √(σ² + ε)`, `c = β - g μ`."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError(f"a BatchNorm1d beside layer {where} has lost its running statistics; {_WRAP_AGAIN} when it has them")
    if any(t is not None and t.shape != size for t in (mean, variance, norm.weight, norm.bias)):
        raise ValueError(f"a BatchNorm1d beside layer {where} has {norm.num_features} features, but the layer {tuple(size)}; make them fit")
    g = torch.rsqrt(variance + norm.eps)
    g = g if norm.weight is None else norm.weight * g
    return g, (-g * mean if norm.bias is None else norm.bias - g * mean)


def _parametrized(layer: nn.Module) -> bool:
    """Say whether this is a linear layer whose weight or bias is computed by `torch.nn.utils.parametrize`."""
    return hasattr(layer, "parametrizations") and type(layer).__bases__ == (nn.Linear,)


def _refuse_moving(where: str, layer: Any) -> None:
    """Refuse a parametrization that gives another weight each time, as that of a spectral norm in training mode."""
    with torch.no_grad():
        if any(m.training and type(m).__name__ == "_SpectralNorm" for m in layer.parametrizations.modules()):
            raise ValueError(f"layer {where} has a spectral norm in training mode, which moves with each call; call module.eval()")
        if not torch.equal(layer.weight, layer.weight):
            raise ValueError(f"layer {where} has a parametrization that gives another weight each time; remove it")


def _refuse_extras(where: str, layer: nn.Module) -> None:
    name = type(layer).__name__
    inside = layer.__dict__
    if hasattr(layer, "parametrizations") and not _parametrized(layer):
        names = ", ".join(layer.parametrizations.keys())  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        raise ValueError(
            f"layer {where} ({name}) has a parametrization of {names}; remove it with torch.nn.utils.parametrize.remove_parametrizations"
        )
    for kind in HOOKS:
        if inside.get(kind):
            hook = type(next(iter(inside[kind].values()))).__name__
            raise ValueError(
                f"layer {where} ({name}) has a {kind.strip('_').removesuffix('s')} ({hook}), which may change what it computes; remove it"
            )
    if "forward" in inside:
        raise ValueError(f"layer {where} ({name}) has a forward of its own, set on the object; delete it")


def refuse_all_extras(module: nn.Module) -> None:
    """Refuse what makes any part of a module compute something else than its type says."""
    if any(GLOBAL_HOOKS):
        raise ValueError("a hook for all modules is registered (torch.nn.modules.module), which may change what they compute; remove it")
    for where, layer in module.named_modules():
        if isinstance(layer, _LAZY):
            raise TypeError(
                f"layer {where} is an uninitialised {type(layer).__name__}; call the module once on an input, so that it takes its shape"
            )
        _refuse_extras(where or "(whole)", layer)


def refuse_training(where: str, layer: nn.Module) -> None:
    if isinstance(layer, _DROPOUT) and layer.training and layer.p > 0:
        raise ValueError(f"layer {where} ({type(layer).__name__}) is random in training mode; call module.eval()")
    if type(layer) is nn.BatchNorm1d and (layer.training or layer.running_mean is None):
        remedy = "call module.eval()" if layer.running_mean is not None else "give it track_running_stats=True"
        raise ValueError(
            f"layer {where} (BatchNorm1d) couples the samples of a batch here, so no sample has a Jacobian of its own; {remedy}, or take "
            "jacobians.module_gradient for the gradient of a loss"
        )


def _supported() -> str:
    kinds = ", ".join(rule.module.__name__ for rule in RULES.values())
    return (
        f"supported are Linear, Sequential, Flatten first, Dropout and BatchNorm1d in eval mode, the activations {kinds}, "
        f"and Softmax or LogSoftmax last, and the steps of docs/networks.md; {_ELSEWHERE}"
    )

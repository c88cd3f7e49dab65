"""The network: weights, biases, its evaluation, and the layer iteration of every mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacobians.names import unknown
from jacobians.network.activations import Activation, activation, per_layer, text_of
from jacobians.planning import transforms
from jacobians.problem import check_widths, uniform_widths

if TYPE_CHECKING:
    from jacobians.network.from_torch import Chain, Inputs
    from jacobians.network.graph import Graph
    from jacobians.network.stack import Stack

Tuples = tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]  # of weights and biases
INITS = ("xavier", "normal", "orthogonal")


class Layer(NamedTuple):
    """One step of the chain: the weight `W_l`, the value `h_l` and the slope `φ'(z_l)` (`None` where it is one)."""

    weight: Tensor
    value: Tensor | None
    slope: Tensor | None


class MLP:
    """A multilayer perceptron `z_{l+1} = W_{l+1} φ(z_l) + b_{l+1}`, `y = ψ(z_{L+1})`.

    Args:
        weights: `W_1 … W_{L+1}`, each of shape (out, in).
        biases: One tensor of shape (out,) or `None` per weight; `None` for no biases at all.
        activation: Hidden activation φ: a name, an `Activation` with its settings, or one of these per hidden layer.
        output_activation: Output activation ψ.

    Attributes:
        activations: φ_1 … φ_L and ψ.
        activation: The hidden ones as text: one name where all are the same.
        output_activation: ψ as text.
        sizes: The widths as text.

    Raises:
        TypeError: A weight is not a floating-point tensor, or dtypes differ.
        ValueError: Shapes do not chain, or devices differ, or an activation is unknown.

    Example:
        >>> mlp = MLP([torch.ones(3, 2), torch.ones(1, 3)], activation="identity")
        >>> mlp(torch.tensor([1.0, 2.0]))
        tensor([9.])
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None] | None = None,
        activation: str | Activation | Sequence[str | Activation] = "tanh",
        output_activation: str | Activation = "identity",
    ) -> None:
        weights = tuple(weights)
        biases = tuple(biases) if biases is not None else (None,) * len(weights)
        check_parameters(weights, biases)
        self._fixed = weights, biases
        self._graph: Graph | None = None
        self._chain: Chain | Graph | None = None  # where the parameters are those of a torch module, read at each call
        self._name_activations(activation, output_activation, len(weights) - 1)

    def _name_activations(self, given: str | Activation | Sequence[str | Activation], output: str | Activation, hidden_layers: int) -> None:
        hidden = per_layer(given, hidden_layers)
        self.activations = (*hidden, activation(output))
        self.activation = text_of(hidden, otherwise=given if isinstance(given, str) else "tanh")
        self.output_activation = str(self.activations[-1])
        self._widths = self._graph.widths if self._graph else widths_of(self.weights)
        self.sizes = "-".join(map(str, self._widths))  # the same as text: while torch.compile traces, numbers may be symbols
        self._plans: dict[object, object] = {}  # plans live and die with the network: see plans.py

    def parameter_tuples(self) -> Tuples:
        """Return `weights` and `biases` as they are now, with one look at the module where there is one."""
        return self._fixed if self._chain is None else self._chain.read()

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """`W_1 … W_{L+1}`, each (out, in)."""
        return self.parameter_tuples()[0]

    @property
    def biases(self) -> tuple[Tensor | None, ...]:
        """`b_1 … b_{L+1}`, each (out,) or `None`."""
        return self.parameter_tuples()[1]

    @property
    def biased(self) -> list[bool]:
        """Whether each layer has a bias."""
        return [b is not None for b in self.biases]

    def parameters(self) -> Iterator[Tensor]:
        """Iterate over the parameters, `W_1, b_1, W_2, …`, without absent biases."""
        for W, b in zip(*self.parameter_tuples(), strict=True):
            yield W
            if b is not None:
                yield b

    @classmethod
    def random(
        cls,
        L: int | None = None,
        D: int | None = None,
        K: int | None = None,
        P: int | None = None,
        *,
        widths: Sequence[int] | None = None,
        activation: str | Activation | Sequence[str | Activation] = "tanh",
        output_activation: str | Activation = "identity",
        bias: bool = False,
        init: str = "xavier",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> MLP:
        """Draw a network. The numbers depend on `seed` alone, not on the device, and on the dtype only by rounding.

        `xavier` draws weights from N(0, 2 / (in + out)) (Glorot & Bengio 2010), `orthogonal` takes the Q factor of a
        Gaussian matrix (Saxe et al. 2014), `normal` draws from N(0, 1), which saturates wide layers. Biases are
        uniform in ±1/√in, or N(0, 1) with `normal`.

        Args:
            L: Number of hidden layers.
            D: Input width.
            K: Hidden width.
            P: Output width.
            widths: All widths, instead of `L, D, K, P`.
            activation: Hidden activation φ, or one per hidden layer.
            output_activation: Output activation ψ.
            bias: Whether to draw biases.
            init: `"xavier"`, `"normal"` or `"orthogonal"`.
            seed: Seed of the generator.
            dtype: Floating-point type.
            device: Device to place the parameters on.

        Returns:
            The network.

        Raises:
            TypeError: Both or neither of `widths` and `L, D, K, P` are given, or the dtype is not a float.
            ValueError: A size, init or activation is not valid.

        Example:
            >>> MLP.random(L=10, D=2, K=30, P=10).widths
            (2, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 10)
        """
        sizes = (L, D, K, P)
        if widths is not None and sizes == (None, None, None, None):
            dims = check_widths(tuple(widths))
        elif widths is None and None not in sizes:
            dims = uniform_widths(L, D, K, P)  # pyright: ignore[reportArgumentType]
        else:
            raise TypeError(f"give either widths or all of L, D, K, P; got widths={widths}, L={L}, D={D}, K={K}, P={P}")
        if init not in INITS:
            raise ValueError(unknown("init", init, INITS))
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating-point torch.dtype, got {dtype!r}; pass e.g. torch.float32")
        # Always drawn in float64 on the CPU: one seed means one network everywhere.
        generator = torch.Generator("cpu").manual_seed(seed)
        weights: list[Tensor] = []
        biases: list[Tensor | None] = []
        for fan_in, fan_out in pairwise(dims):
            W = _draw_weight(fan_out, fan_in, init, generator)
            weights.append(W.to(device=device, dtype=dtype))
            b = _draw_bias(fan_out, fan_in, init, generator).to(device=device, dtype=dtype) if bias else None
            biases.append(b)
        return cls(weights, biases, activation, output_activation)

    @classmethod
    def from_torch(cls, module: nn.Module) -> MLP:
        """Wrap a torch module that is a chain of linear layers and activations. The parameters are the module's own, read at each call.

        Accepted are exactly `nn.Linear`, `nn.Sequential` (nested too), the activations of the table with their settings, `nn.Identity`,
        `nn.Flatten` first, and in eval mode `nn.Dropout` and `nn.BatchNorm1d` (an affine map per feature there, with its running
        statistics as they are at the call). Any other module is traced with `torch.fx`, once, and must come out as such a chain.
        A module that is no such chain is computed step by step in torch, where it is made of linear layers, activations, constants, sums,
        products, joined and sliced features, LayerNorm and RMSNorm: `docs/networks.md` says what is computed then, and how.
        Hooks, parametrizations and subclasses with a forward of their own compute something else and are refused.

        Args:
            module: The module.

        Returns:
            A network that computes with the module's own parameter tensors.

        Raises:
            TypeError: A layer is of another kind.
            ValueError: The layers are no chain, or a layer does more than its type says.

        Example:
            >>> net = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 5))
            >>> mlp = MLP.from_torch(net)
            >>> mlp.widths, mlp.weights[0] is net[0].weight
            ((3, 64, 5), True)
        """
        from jacobians.network.from_torch import read

        mlp = MLP.__new__(MLP)
        mlp._take(read(module), module)
        return mlp

    @staticmethod
    def stack(networks: Sequence[MLP | nn.Module]) -> Stack:
        """Take several networks as one: an ensemble, whose derivatives have a first axis of size E.

        `jacobian`, `value_and_jacobian`, `laplacian`, `hessian` and `hessian_diagonal` take it, and so does a call with x. Each network
        is computed by the method that it would be computed by itself, one after the other; their hidden widths may differ.

        Args:
            networks: Networks, or modules that `from_torch` takes, of the same input and output width.

        Returns:
            The stack.

        Raises:
            TypeError: One is no network.
            ValueError: There are none, or their widths, dtypes or devices differ.

        Example:
            >>> from jacobians import jacobian
            >>> ensemble = MLP.stack([MLP.random(L=2, D=3, K=8, P=2, seed=seed) for seed in range(5)])
            >>> tuple(jacobian(ensemble, torch.ones(4, 3)).shape)
            (5, 4, 2, 3)
        """
        from jacobians.network.stack import Stack

        return Stack(networks)

    def _take(self, chain: Chain | Graph, module: nn.Module) -> None:
        """Become the network of a module."""
        from jacobians.network.from_torch import Chain, compare

        weights, biases = chain.read()
        self._chain, self._graph = chain, None
        if isinstance(chain, Chain):
            check_parameters(weights, biases)
        else:
            self._graph, weights = chain, weights[:1]
        self._name_activations(chain.hidden, chain.output, len(weights) - 1)
        compare(self, module)

    def to_torch(self) -> nn.Sequential:
        """Return an `nn.Sequential` with copies of the parameters.

        Returns:
            The equivalent module; its parameters require grad.
        """
        from jacobians.network.from_torch import Scaled

        self._only_chains("written as a Sequential")
        layers: list[nn.Module] = []
        for index, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            linear = nn.utils.skip_init(nn.Linear, W.shape[1], W.shape[0], bias=b is not None, device=W.device, dtype=W.dtype)
            linear.load_state_dict({"weight": W} if b is None else {"weight": W, "bias": b})
            layers.append(linear)
            rule = self.activations[index]
            if not rule.linear:
                layers.append(rule.to_torch() if rule.scale == 1 else Scaled(rule.to_torch(), rule.scale))
        return nn.Sequential(*layers)

    @property
    def of_module(self) -> bool:
        """Whether the parameters are those of a torch module."""
        return self._chain is not None

    @property
    def graph(self) -> Graph | None:
        """The steps of a module that is no chain of layers: one with skips, norms or features."""
        return self._graph

    @property
    def flattens(self) -> bool:
        """Whether this is the network of a module that begins with a Flatten, and so takes images."""
        return self._chain is not None and self._chain.flattens

    @property
    def inputs(self) -> Inputs | None:
        """How a module puts its inputs together, where it takes several."""
        return None if self._chain is None else self._chain.inputs

    @property
    def folded(self) -> bool:
        """Whether batch norms of a torch module are multiplied into the weights, which then are not its parameters."""
        return self._chain is not None and self._chain.folded

    @property
    def widths(self) -> tuple[int, ...]:
        """`(D, K_1, …, K_L, P)`."""
        if transforms.tracing():  # there sizes are no plain integers
            return self._widths
        return self._graph.widths if self._graph else widths_of(self.weights)

    @property
    def L(self) -> int:
        """Number of hidden layers."""
        return len(self.activations) - 1

    @property
    def D(self) -> int:
        """Input width."""
        return self._graph.D if self._graph else self.weights[0].shape[1]

    @property
    def P(self) -> int:
        """Output width."""
        return self._graph.P if self._graph else self.weights[-1].shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return self.weights[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.weights[0].device

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> MLP:
        """Return the same network on another device or in another dtype.

        Args:
            device: Target device, or `None` to keep it.
            dtype: Target dtype, or `None` to keep it.

        Returns:
            A network whose parameters are converted copies (or the same tensors where nothing changes).
        """
        self._only_chains("converted")
        return converted(self, lambda t: t.to(device=device, dtype=dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate `y = f(x)`."""
        if self._graph is not None:
            return self._graph.evaluate(x)[-1]
        h = x
        for W, b, rule in zip(*self.parameter_tuples(), self.activations, strict=True):
            h = rule.value(F.linear(h, W, b))
        return h

    def layers(self, x: Tensor, *, value: bool = False) -> Iterator[Layer]:
        """Evaluate layer by layer, yielding what a differentiation mode needs: `(W_l, h_l, φ'(z_l))`.

        Forward mode consumes the layers as they come; reverse mode stores them: that list is its tape. The output
        layer is evaluated only where someone needs it, because the Jacobian of a linear output does not.

        A non-finite `x` has no Jacobian, but a saturated or clipped slope would hide that behind finite numbers. So
        the first slope carries `Σ(x - x)`, which is 0 for finite inputs and NaN otherwise.

        Args:
            x: Input of shape (D,) or (N, D).
            value: Whether the output value is wanted too.

        Yields:
            One `Layer` per weight, first to last; slopes have shape (..., out), the first one possibly (..., 1).
        """
        self._only_chains("taken layer by layer")
        h: Tensor | None = x
        last = len(self.activations) - 1
        for index, (W, b, rule) in enumerate(zip(*self.parameter_tuples(), self.activations, strict=True)):
            slope: Tensor | None = None
            h_next: Tensor | None = None
            if index < last or value or not rule.linear:
                assert h is not None  # only the last layer yields no value
                z = F.linear(h, W, b)
                h_next = rule.value(z)
                slope = rule.slope(z, h_next)
            if index == 0:
                nan_if_not_finite = (x - x).sum(-1, keepdim=True)
                slope = nan_if_not_finite + (1 if slope is None else slope)
            yield Layer(W, h_next, slope)
            h = h_next

    def _only_chains(self, what: str) -> None:
        if self._graph is not None:
            raise ValueError(f"this network is no chain of layers and cannot be {what}: {self._graph.reason}; take its module instead")

    def __repr__(self) -> str:
        """Show the sizes, not the numbers."""
        chain = "-".join(map(str, self.widths))
        if self._graph is not None:
            return f"MLP({chain}, {len(self._graph.steps)} steps, {self.dtype}, {self.device})"
        return f"MLP({chain}, {self.activation}, output={self.output_activation}, bias={any(self.biased)}, {self.dtype}, {self.device})"

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle the parameters alone: plans belong to this object."""
        if self._chain is not None:
            return MLP.from_torch, (self._chain.module(),)
        return MLP, (*self._fixed, self.activation, self.output_activation)


def _draw_weight(fan_out: int, fan_in: int, init: str, generator: torch.Generator) -> Tensor:
    gaussian = torch.randn(fan_out, fan_in, generator=generator, dtype=torch.float64, device="cpu")
    if init == "normal":
        return gaussian
    if init == "xavier":
        return gaussian * math.sqrt(2.0 / (fan_in + fan_out))
    tall = gaussian if fan_out >= fan_in else gaussian.T
    Q, R = torch.linalg.qr(tall)
    Q = Q * torch.sign(torch.diagonal(R))  # the sign makes Q uniformly distributed
    return Q if fan_out >= fan_in else Q.T.contiguous()


def _draw_bias(fan_out: int, fan_in: int, init: str, generator: torch.Generator) -> Tensor:
    if init == "normal":
        return torch.randn(fan_out, generator=generator, dtype=torch.float64, device="cpu")
    bound = 1.0 / math.sqrt(fan_in)
    return bound * (2.0 * torch.rand(fan_out, generator=generator, dtype=torch.float64, device="cpu") - 1.0)


def converted(mlp: MLP, each: Callable[[Tensor], Tensor]) -> MLP:
    """Return a network with each parameter converted."""
    weights, biases = mlp.parameter_tuples()
    return MLP([each(W) for W in weights], [None if b is None else each(b) for b in biases], mlp.activation, mlp.output_activation)


def widths_of(weights: tuple[Tensor, ...]) -> tuple[int, ...]:
    """Return D and the widths of all layers."""
    return (weights[0].shape[1], *(W.shape[0] for W in weights))


def check_parameters(weights: tuple[Tensor, ...], biases: tuple[Tensor | None, ...]) -> None:
    """Refuse parameters that are none of a network."""
    if not weights:
        raise ValueError("weights is empty; at least one matrix of shape (out, in) is needed")
    if len(biases) != len(weights):
        raise ValueError(f"got {len(biases)} biases for {len(weights)} weights; pass one bias (or None) per weight")
    first = weights[0]
    for index, W in enumerate(weights, start=1):
        if not isinstance(W, Tensor) or not W.dtype.is_floating_point:
            raise TypeError(f"W_{index} must be a floating-point tensor, got {getattr(W, 'dtype', type(W).__name__)}")
        if W.ndim != 2 or 0 in W.shape:
            raise ValueError(f"W_{index} must be a non-empty matrix (out, in), got shape {tuple(W.shape)}")
        if index > 1 and W.shape[1] != weights[index - 2].shape[0]:
            raise ValueError(
                f"W_{index} expects {W.shape[1]} inputs but W_{index - 1} gives {weights[index - 2].shape[0]}; make the widths chain"
            )
    for index, (W, b) in enumerate(zip(weights, biases, strict=True), start=1):
        if b is not None and (not isinstance(b, Tensor) or b.shape != W.shape[:1]):
            raise ValueError(f"b_{index} must be a tensor of shape ({W.shape[0]},), got {tuple(b.shape) if isinstance(b, Tensor) else b!r}")
        for name, tensor in (("W", W), ("b", b)):
            if tensor is not None and tensor.dtype != first.dtype:
                raise TypeError(f"{name}_{index} is {tensor.dtype} but W_1 is {first.dtype}; convert all parameters to one dtype")
            if tensor is not None and tensor.device != first.device:
                raise ValueError(f"{name}_{index} is on {tensor.device} but W_1 is on {first.device}; move all parameters to one device")

"""The network: weights, biases, its evaluation, and the walk over its layers that every mode shares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacobians.activations import activation as find_activation
from jacobians.problem import check_widths, uniform_widths

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
        activation: Hidden activation φ.
        output_activation: Output activation ψ.

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
        activation: str = "tanh",
        output_activation: str = "identity",
    ) -> None:
        self.weights = tuple(weights)
        self.biases = tuple(biases) if biases is not None else (None,) * len(self.weights)
        self.activation = activation
        self.output_activation = output_activation
        self._phi = find_activation(activation)
        self._psi = find_activation(output_activation)
        self._plans: dict[object, object] = {}  # plans live and die with the network: see plans.py
        _check_parameters(self.weights, self.biases)

    @classmethod
    def random(
        cls,
        L: int | None = None,
        D: int | None = None,
        K: int | None = None,
        P: int | None = None,
        *,
        widths: Sequence[int] | None = None,
        activation: str = "tanh",
        output_activation: str = "identity",
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
            activation: Hidden activation φ.
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
            raise ValueError(f"unknown init {init!r}; choose from {', '.join(INITS)}")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating-point torch.dtype, got {dtype!r}; pass e.g. torch.float32")
        # Always drawn in float64 on the CPU: one seed means one network everywhere.
        generator = torch.Generator().manual_seed(seed)
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
        """Wrap an `nn.Sequential` of `Linear` layers and activations. The parameters are shared, not copied.

        Args:
            module: `Linear, activation, Linear, …`, ending in a `Linear` or in an activation (ψ). Nested `Sequential`
                containers are flattened; the hidden activations must all be the same.

        Returns:
            A network that computes with the module's own parameter tensors.

        Raises:
            TypeError: `module` is not an `nn.Sequential`, or holds a layer of another kind.
            ValueError: The layers do not alternate, or the hidden activations differ.

        Example:
            >>> net = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 5))
            >>> mlp = MLP.from_torch(net)
            >>> mlp.widths, mlp.weights[0] is net[0].weight
            ((3, 64, 5), True)
        """
        if not isinstance(module, nn.Sequential):
            raise TypeError(f"expected an nn.Sequential, got {type(module).__name__}; wrap the layers in nn.Sequential(…)")
        linears: list[nn.Linear] = []
        after: list[str | None] = []  # the activation that follows each linear layer
        for where, layer in _flatten(module):
            if isinstance(layer, nn.Linear):
                linears.append(layer)
                after.append(None)
                continue
            name = _activation_name(where, layer)
            if not linears or after[-1] is not None:
                raise ValueError(f"layer {where} ({type(layer).__name__}) must follow a Linear layer; let Linear and activation alternate")
            after[-1] = name
        if not linears:
            raise ValueError("the nn.Sequential has no Linear layer; at least one is needed")
        hidden = {name or "identity" for name in after[:-1]}
        if len(hidden) > 1:
            raise ValueError(
                f"hidden activations must all be the same, got {', '.join(sorted(hidden))}; use one activation for all hidden layers"
            )
        return cls(
            [linear.weight for linear in linears],
            [linear.bias for linear in linears],
            hidden.pop() if hidden else "tanh",
            after[-1] or "identity",
        )

    def to_torch(self) -> nn.Sequential:
        """Return an `nn.Sequential` with copies of the parameters.

        Returns:
            The equivalent module; its parameters require grad.
        """
        layers: list[nn.Module] = []
        last = len(self.weights) - 1
        for index, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            linear = nn.utils.skip_init(nn.Linear, W.shape[1], W.shape[0], bias=b is not None, device=W.device, dtype=W.dtype)
            linear.load_state_dict({"weight": W} if b is None else {"weight": W, "bias": b})
            layers.append(linear)
            name = self.output_activation if index == last else self.activation
            if name != "identity":
                layers.append(_MODULES[name]())
        return nn.Sequential(*layers)

    @property
    def widths(self) -> tuple[int, ...]:
        """`(D, K_1, …, K_L, P)`."""
        return (self.weights[0].shape[1], *(W.shape[0] for W in self.weights))

    @property
    def L(self) -> int:
        """Number of hidden layers."""
        return len(self.weights) - 1

    @property
    def D(self) -> int:
        """Input width."""
        return self.weights[0].shape[1]

    @property
    def P(self) -> int:
        """Output width."""
        return self.weights[-1].shape[0]

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
        weights = [W.to(device=device, dtype=dtype) for W in self.weights]
        biases = [None if b is None else b.to(device=device, dtype=dtype) for b in self.biases]
        return MLP(weights, biases, self.activation, self.output_activation)

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate `y = f(x)`.

        Args:
            x: Input of shape (D,) or (N, D).

        Returns:
            Output of shape (P,) or (N, P).
        """
        h = x
        for W, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            h = self._phi.value(F.linear(h, W, b))
        return self._psi.value(F.linear(h, self.weights[-1], self.biases[-1]))

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
        h: Tensor | None = x
        last = self.L
        for index, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            rule = self._psi if index == last else self._phi
            slope: Tensor | None = None
            h_next: Tensor | None = None
            if index < last or value or rule.slope is not None:
                assert h is not None  # only the last layer yields no value
                z = F.linear(h, W, b)
                h_next = rule.value(z)
                if rule.slope is not None:
                    slope = rule.slope(z, h_next)
            if index == 0:
                nan_if_not_finite = (x - x).sum(-1, keepdim=True)
                slope = nan_if_not_finite + (1 if slope is None else slope)
            yield Layer(W, h_next, slope)
            h = h_next

    def __repr__(self) -> str:
        """Show the sizes, not the numbers."""
        chain = "-".join(map(str, self.widths))
        biased = any(b is not None for b in self.biases)
        return f"MLP({chain}, {self.activation}, output={self.output_activation}, bias={biased}, {self.dtype}, {self.device})"

    def __reduce__(self) -> tuple[object, ...]:
        """Copy and pickle the parameters alone: plans belong to this object."""
        return MLP, (self.weights, self.biases, self.activation, self.output_activation)


_MODULES: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}
# Settings that our table fixes; a module that differs computes another function.
_DEFAULTS: dict[str, dict[str, object]] = {
    "leaky_relu": {"negative_slope": 0.01},
    "softplus": {"beta": 1.0, "threshold": 20.0},
    "gelu": {"approximate": "none"},
}


def _activation_name(where: str, layer: nn.Module) -> str:
    for name, kind in _MODULES.items():
        if type(layer) is kind:
            for setting, expected in _DEFAULTS.get(name, {}).items():
                got = getattr(layer, setting)
                if got != expected:
                    raise ValueError(
                        f"layer {where} ({type(layer).__name__}) has {setting}={got!r}; only {setting}={expected!r} is supported"
                    )
            return name
    kinds = ", ".join(kind.__name__ for kind in _MODULES.values())
    raise TypeError(f"layer {where} is a {type(layer).__name__}; only Linear and {kinds} are supported")


def _flatten(module: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module._modules.items():  # named_children() would drop a layer that is used twice
        assert child is not None
        if isinstance(child, nn.Sequential):
            yield from _flatten(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _draw_weight(fan_out: int, fan_in: int, init: str, generator: torch.Generator) -> Tensor:
    gaussian = torch.randn(fan_out, fan_in, generator=generator, dtype=torch.float64)
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
        return torch.randn(fan_out, generator=generator, dtype=torch.float64)
    bound = 1.0 / math.sqrt(fan_in)
    return bound * (2.0 * torch.rand(fan_out, generator=generator, dtype=torch.float64) - 1.0)


def _check_parameters(weights: tuple[Tensor, ...], biases: tuple[Tensor | None, ...]) -> None:
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

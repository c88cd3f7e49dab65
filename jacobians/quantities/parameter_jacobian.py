"""The Jacobian with respect to the parameters, kept as two factors per layer: `∂y_p/∂W_l = C_l[p] ⊗ h_{l-1}`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from jacobians.network.mlp import MLP
from jacobians.quantities.pullback import in_pairs, pull, tape_of


@dataclass(frozen=True, eq=False)
class ParameterJacobian:
    """The Jacobian of y with respect to all parameters, never formed unless asked for.

    Attributes:
        cotangents: Per layer C_l, (N, P, out).
        entering: Per layer h_{l-1}, (N, in).
        biased: Per layer whether it has a bias.
    """

    cotangents: tuple[Tensor, ...]
    entering: tuple[Tensor, ...]
    biased: tuple[bool, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, P, number of parameters)."""
        sizes = (C.shape[-1] * (h.shape[-1] + b) for C, h, b in zip(self.cotangents, self.entering, self.biased, strict=True))
        N, P = self.cotangents[0].shape[:2]
        return N, P, sum(sizes)

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the two factors of a layer.

        Args:
            index: 0 for the first.

        Returns:
            C (N, P, out) and h (N, in): `∂y_p/∂W[o, i] = C[n, p, o] h[n, i]`, `∂y_p/∂b[o] = C[n, p, o]`.
        """
        return self.cotangents[index], self.entering[index]

    def layers(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Go over the layers.

        Yields:
            The two factors of each, first to last.
        """
        yield from zip(self.cotangents, self.entering, strict=True)

    def __matmul__(self, v: Sequence[Tensor] | Tensor) -> Tensor:
        """Push a tangent of the parameters forward: `(F v)[n, p] = Σ_l C_l[n, p] · (V_l h_{l-1}[n] + v_l)`."""
        if not isinstance(v, Tensor | Sequence) or isinstance(v, str | bytes):
            return NotImplemented
        total: Tensor | None = None
        for (V, v_b), C, h in zip(self._split(v), self.cotangents, self.entering, strict=True):
            z = h @ V.mT if v_b is None else h @ V.mT + v_b  # (N, out)
            part = (C @ z[:, :, None]).squeeze(-1)
            total = part if total is None else total + part
        assert total is not None
        return total

    @property
    def T(self) -> _Transposed:
        """The transpose, for `F.T @ u`."""
        return _Transposed(self)

    def dense(self, most_bytes: int = 2**32) -> Tensor:
        """Form the matrix.

        Args:
            most_bytes: The largest size that is formed.

        Returns:
            (N, P, n), parameters in the order of `mlp.parameters()`, each flattened.

        Raises:
            MemoryError: It would be larger.
        """
        N, P, n = self.shape
        needed = N * P * n * self.cotangents[0].element_size()
        if needed > most_bytes:
            raise MemoryError(f"the dense Jacobian takes {needed} bytes, more than most_bytes={most_bytes}; use F @ v, F.T @ u or layer(l)")
        parts: list[Tensor] = []
        for C, h, biased in zip(self.cotangents, self.entering, self.biased, strict=True):
            parts += [(C[..., None] * h[:, None, None, :]).flatten(-2), *([C] if biased else [])]
        return torch.cat(parts, dim=-1)

    def _split(self, v: Sequence[Tensor] | Tensor) -> list[tuple[Tensor, Tensor | None]]:
        shapes: list[tuple[int, ...]] = []
        for C, h, biased in zip(self.cotangents, self.entering, self.biased, strict=True):
            shapes += [(C.shape[-1], h.shape[-1]), *([(C.shape[-1],)] if biased else [])]
        if isinstance(v, Tensor):
            if v.shape != (self.shape[-1],):
                raise ValueError(f"v must have shape ({self.shape[-1]},), got {tuple(v.shape)}")
            v = [part.reshape(shape) for part, shape in zip(v.split(list(map(prod, shapes))), shapes, strict=True)]
        if not all(isinstance(t, Tensor) and t.dtype == self.cotangents[0].dtype for t in v):
            raise TypeError(f"v must be {self.cotangents[0].dtype} tensors, as the factors are, got {[getattr(t, 'dtype', t) for t in v]}")
        if [tuple(t.shape) for t in v] != shapes:
            raise ValueError(f"v must have the shapes of the parameters, {shapes}, got {[tuple(t.shape) for t in v]}")
        return in_pairs(v, self.biased)


@dataclass(frozen=True, eq=False)
class _Transposed:
    """`F.T`: pulls cotangents of y back to the parameters."""

    of: ParameterJacobian

    def __matmul__(self, u: Tensor) -> tuple[Tensor, ...]:
        """Pull back: `Σ_n Σ_p u[n, p] ∂y_p/∂θ`."""
        if not isinstance(u, Tensor):
            return NotImplemented
        if u.dtype != self.of.cotangents[0].dtype:
            raise TypeError(f"u must be {self.of.cotangents[0].dtype}, as the factors are, got {u.dtype}; convert it with u.to")
        if tuple(u.shape) != self.of.shape[:2]:
            raise ValueError(f"u must have shape {self.of.shape[:2]}, got {tuple(u.shape)}")
        found: list[Tensor] = []
        for C, h, biased in zip(self.of.cotangents, self.of.entering, self.of.biased, strict=True):
            c = (u[:, None, :] @ C).squeeze(1)  # (N, out)
            found += [c.mT @ h, *([c.sum(0)] if biased else [])]
        return tuple(found)


def factors_of(mlp: MLP, x: Tensor) -> ParameterJacobian:
    """Compute the Jacobian with respect to the parameters, as its factors."""
    y, steps = tape_of(mlp, x)
    seeds = torch.eye(mlp.P, dtype=y.dtype, device=y.device).expand(x.shape[0], -1, -1)
    cotangents: list[Tensor] = [seeds] * len(steps)
    for index, C_l, _ in pull(steps, seeds):
        cotangents[index] = C_l
    return ParameterJacobian(tuple(cotangents), tuple(step.entering for step in steps), tuple(mlp.biased))

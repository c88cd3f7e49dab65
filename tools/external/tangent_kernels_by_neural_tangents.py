"""Tangent kernels by neural-tangents 0.6.5, which needs an older JAX than the suite: run this file alone, in an environment of its own.

    python3.11 -m venv nt
    nt/bin/pip install 'neural-tangents==0.6.5' 'jax==0.4.20' 'jaxlib==0.4.20' 'numpy<2' 'scipy<1.12'
    nt/bin/python tools/external/tangent_kernels_by_neural_tangents.py

The networks are those of the sweep `tangent-kernels`, with weights of the same distribution. Per kernel: the library's structured
derivatives with `vmap_axes=0` under `jit`, all pairs of outputs (`trace_axes=()`), the median of 15 calls after two that compile
and warm up.
"""

# pyright: basic
from __future__ import annotations

import math
import statistics
import time
from itertools import pairwise
from typing import Any

SHAPES = [
    ((784, 256, 128, 10), "relu", 64),
    ((784, 256, 128, 10), "relu", 256),
    ((3, 64, 64, 64, 64, 1), "tanh", 1024),
]
CALLS = 15


def measure(widths: tuple[int, ...], activation: str, N: int) -> float:
    """Time a kernel."""
    import jax  # pyright: ignore[reportMissingImports]
    import neural_tangents as nt  # pyright: ignore[reportMissingImports]
    import numpy as np

    draw = np.random.default_rng(0)
    parameters = [
        (draw.normal(0, math.sqrt(2 / (i + o)), (i, o)).astype("float32"), draw.uniform(-1, 1, o).astype("float32") / math.sqrt(i))
        for i, o in pairwise(widths)
    ]
    phi = getattr(jax.nn, activation) if activation != "tanh" else jax.numpy.tanh

    def f(parameters: Any, x: Any) -> Any:
        for W, b in parameters[:-1]:
            x = phi(x @ W + b)
        W, b = parameters[-1]
        return x @ W + b

    implementation = nt.NtkImplementation.STRUCTURED_DERIVATIVES
    kernel = jax.jit(nt.empirical_ntk_fn(f, trace_axes=(), vmap_axes=0, implementation=implementation))
    x = jax.numpy.asarray(draw.standard_normal((N, widths[0])).astype("float32"))
    times = []
    for _ in range(CALLS + 2):
        start = time.perf_counter()
        jax.block_until_ready(kernel(x, None, parameters))
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def main() -> None:
    """Measure all shapes and print a table."""
    for widths, activation, N in SHAPES:
        seconds = measure(widths, activation, N)
        print(f"{'-'.join(map(str, widths))} {activation} N={N}: {seconds * 1e3:.2f} ms")


if __name__ == "__main__":
    main()

"""The figures, one a file: its data and its drawing. Importing this registers them."""

from plots.charts import (
    devices,
    dots,
    isometry,
    least_squares,
    lines,
    memory,
    mixed_gain,
    pinn,
    published,
    quantities,
    regret,
    representation,
    roofline,
    saturation,
    speedups,
    winners,
)

__all__ = [
    "devices",
    "dots",
    "isometry",
    "least_squares",
    "lines",
    "memory",
    "mixed_gain",
    "pinn",
    "published",
    "quantities",
    "regret",
    "representation",
    "roofline",
    "saturation",
    "speedups",
    "winners",
]

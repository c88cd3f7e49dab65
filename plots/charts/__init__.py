"""The figures, one a file: its data and its drawing. Importing this registers them."""

from plots.charts import devices, dots, lines, memory, mixed_gain, published, quantities, regret, roofline, saturation, speedups, winners

__all__ = [
    "devices",
    "dots",
    "lines",
    "memory",
    "mixed_gain",
    "published",
    "quantities",
    "regret",
    "roofline",
    "saturation",
    "speedups",
    "winners",
]

"""One look for every figure: a colour and a marker per implementation, a line style per mode, fixed by name.

The colours are Okabe and Ito's, which colour-blind readers can tell apart; markers and line styles carry the same
distinction in greyscale.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

BLUE, VERMILION, GREEN, SKY, ORANGE, PURPLE, YELLOW, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#56B4E9",
    "#E69F00",
    "#CC79A7",
    "#B8A900",
    "#000000",
)
GREY = "#8C8C8C"

# Ours: the mode has the strong colour, so that forward against reverse is what the eye sees first.
_MODE_COLOUR = {"forward": BLUE, "reverse": VERMILION, "mixed": GREEN}
_MODE_LINE = {"forward": "--", "reverse": "-", "mixed": "-."}
_PEERS = {
    #                       colour  marker
    "torch.func": (SKY, "s"),
    "autograd-vectorized": (PURPLE, "D"),
    "autograd-loop": (GREY, "v"),
    "jax": (ORANGE, "^"),
    "dense": (BLACK, "X"),
    "torch.compile": (YELLOW, "P"),
    "sum-trick": ("#6A51A3", "*"),
    "best": (BLACK, "s"),
    "peers": (GREY, "."),
    "operations": (GREY, "x"),
}
_OUR_MARKERS = {"native": "o", "eager": "h", "cuda-graph": "8"}
_OUR_WEIGHT = {"eager": (1.3, 4.5, 0.75)}  # line, marker, opacity: thinner than the kernels, of which it is the readable form
INITS = {"normal": (VERMILION, "-"), "xavier": (BLUE, "--"), "orthogonal": (GREEN, "-.")}
_MORE_MARKERS = ("h", "p", "<", ">", "d", "8")


@dataclass(frozen=True, slots=True)
class Style:
    """How a method is drawn."""

    colour: str
    marker: str
    line: str
    width: float
    size: float
    alpha: float
    layer: int
    filled: bool


def style_of(method: str, hand_written: bool, published: bool = False) -> Style:
    """Return the look of a method; the same in every figure. Forward mode is dashed with open markers.

    Args:
        method: Full name.
        hand_written: Ours stand out.
        published: Somebody else's measurement: the colour of its mode, thin.

    Returns:
        The style.

    Example:
        >>> style_of("reverse:eager", True).colour == style_of("reverse:dense", False).colour
        False
    """
    mode, _, implementation = method.partition(":")
    line = _MODE_LINE.get(mode, ":")
    spare = _MORE_MARKERS[zlib.crc32(implementation.encode()) % len(_MORE_MARKERS)]
    filled = mode != "forward"
    if published:
        return Style(_MODE_COLOUR.get(mode, BLACK), "X", line, 1.0, 5.0, 0.9, 2, filled)
    if hand_written:
        width, size, alpha = _OUR_WEIGHT.get(implementation, (2.2, 6.0, 1.0))
        return Style(_MODE_COLOUR.get(mode, BLACK), _OUR_MARKERS.get(implementation, spare), line, width, size, alpha, 3, filled)
    colour, marker = _PEERS.get(implementation, (GREY, spare))
    return Style(colour, marker, line, 1.0, 4.0, 0.9, 2, filled)


def mode_colour(method: str) -> str:
    """Return the colour of a method's mode.

    Args:
        method: Full name.

    Returns:
        A colour.
    """
    return _MODE_COLOUR.get(method.partition(":")[0], GREY)


def device_line(index: int) -> str:
    """Return the line style of the n-th device where devices share a chart.

    Args:
        index: 0 for the first device.

    Returns:
        A matplotlib line style.
    """
    return ("-", "--", "-.", ":")[index % 4]


RC = {
    "svg.hashsalt": "jacobians",  # element ids depend on the drawing alone, so equal data gives equal bytes
    "svg.fonttype": "path",
    "pdf.compression": 6,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,  # names come from files: a dollar sign in one is a dollar sign
}

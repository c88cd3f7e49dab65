"""One look for every figure: a colour, a marker and a line per mode and library, fixed by name, light and dark.

The colours are Okabe and Ito's, which colour-blind readers can tell apart; markers and line styles carry the same distinction in
greyscale. An SVG carries the light colours as plain attributes, right in every viewer; a style sheet on top changes ink, paper and
grid where a browser asks for dark pages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

BLUE, VERMILION, GREEN, SKY, ORANGE, PURPLE, YELLOW = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#E69F00", "#CC79A7", "#B8A900"
GREY = "#8C8C8C"
INK, MUTED, GRID, PAPER = "#1b1f23", "#4a5056", "#e3e5e8", "#ffffff"
DARK = {INK: "#e8eaed", MUTED: "#aab1b8", GRID: "#363c43", PAPER: "#15181c"}


@dataclass(frozen=True, slots=True)
class Look:
    """Look of a trace."""

    colour: str
    marker: str
    line: str
    width: float = 2.0
    size: float = 5.5
    layer: int = 3
    filled: bool = True


# fmt: off
_MODES = {
    "forward": Look(BLUE,      "o", "--", filled=False),
    "reverse": Look(VERMILION, "o", "-"),
    "mixed":   Look(GREEN,     "D", "-.", size=5.0),
}
_LIBRARIES = {
    "best":           Look(INK,    "s", ":", 1.4, 4.5, 2),
    "JAX jit":        Look(ORANGE, "^", ":", 1.4, 4.5, 2),
    "torch.compile":  Look(YELLOW, "P", ":", 1.4, 4.5, 2),
    "torch.func":     Look(SKY,    "s", ":", 1.4, 4.5, 2),
    "torch.autograd": Look(PURPLE, "v", ":", 1.4, 4.5, 2),
    "NumPy":          Look(BLUE,   "X", ":", 1.4, 4.5, 2),
    "BackPACK":       Look(GREEN,  "<", ":", 1.4, 4.5, 2),
    "Opacus":         Look(VERMILION, "p", ":", 1.4, 4.5, 2),
    "curvlinops":     Look(GREEN,  ">", ":", 1.4, 4.5, 2),
    "folx":           Look(GREEN, "d", ":", 1.4, 4.5, 2),
    "operations":     Look(GREY,   "x", ":", 1.4, 4.5, 2),
}
# fmt: on
# Colour and opacity of a cell: light, middle and dark in grey as well.
CELL = {"forward": (SKY, 0.35), "reverse": (ORANGE, 0.75), "mixed": (GREEN, 0.85)}


def of_trace(method: str) -> Look:
    """Return the look of a trace; the same in every figure.

    Example:
        >>> of_trace("reverse:native").colour == of_trace("reverse:eager").colour
        True
    """
    kind, _, name = method.partition(":")
    if kind == "library":
        return _LIBRARIES.get(name, _LIBRARIES["best"])
    look = _MODES.get(kind, Look(GREY, "h", ":"))
    if name == "eager":
        return Look(look.colour, "h", ":", 1.2, 4.0, 2, look.filled)
    return look


# Laid over the attributes of a drawing, by a style sheet of its own or that of a page.
DARK_SHEET = "@media screen and (prefers-color-scheme: dark) {{ {} }}".format(
    " ".join(f'[{part}="{light}"] {{ {part}: {dark} }}' for light, dark in DARK.items() for part in ("fill", "stroke"))
)


def themed(svg: str, title: str) -> str:
    """Make an SVG right in every viewer, light and dark, and the same whatever processor draws it."""
    svg = re.sub(r"<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)  # a rule for * would outdo attributes
    svg = re.sub(r'\bstyle="([^"]*)"', _attributes, svg)
    svg = re.sub(r"<[^!?][^>]*>", lambda tag: re.sub(r"scale\([^)]*\)|-?\d+\.\d{3,}", _rounded, tag[0]), svg)
    # Matplotlib makes ids of hashes of what it draws, in all digits.
    for number, name in enumerate(dict.fromkeys(re.findall(r'\bid="([a-z]+[0-9a-f]{10})"', svg)), start=1):
        svg = svg.replace(name, f"shared-{number}")
    escaped = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    head = f' stroke-linejoin="round">\n <title>{escaped}</title><style>{DARK_SHEET}</style>'
    return re.sub(r"(<svg\b[^>]*)>", lambda tag: tag[1] + head, svg, count=1)


def _attributes(style: re.Match[str]) -> str:
    """Write declarations as attributes; only the shorthand `font` has none."""
    declarations = dict(re.split(r":\s*", one, maxsplit=1) for one in re.split(r";\s*", style[1]) if one)
    font = declarations.pop("font", None)
    found = [f'{name}="{value}"' for name, value in declarations.items()]
    return " ".join([*found, f'style="font: {font}"'] if font else found)


def _rounded(number: re.Match[str]) -> str:
    return number[0] if number[0].startswith("scale") else f"{round(float(number[0]), 2) + 0.0:g}"  # no -0


RC = {
    "svg.hashsalt": "jacobians",  # element ids depend on the drawing alone, so equal data gives equal bytes
    "svg.fonttype": "path",
    "pdf.compression": 6,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "text.parse_math": False,  # names come from files: a dollar sign in one is a dollar sign
}

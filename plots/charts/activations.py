"""The study of activations: their derivatives, gradients over depth, and the time of a Jacobian."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from plots import style
from plots.axes import WIDTH, seconds, titles
from plots.chart import Chart, StudyTables, brief, draw, study_figure
from plots.panels import Panel, PanelsChart, Series, line_of
from studies import activations
from studies.study import column, distinct, where

LABELS = {"value": "φ", "slope": "φ'", "second": "φ''", "third": "φ'''"}
LEAST, MOST = 1e-9, 1e4  # of gradients shown


@dataclass(frozen=True, kw_only=True)
class TimesChart(Chart):
    """Bars of times, a panel a network: what the network takes without an activation, what each takes more, and exponentials."""

    panels: tuple[tuple[str, dict[str, float], float], ...]  # title, name to seconds, those of torch.exp
    without: str


@study_figure(80, "activations")
def derivatives(tables: StudyTables) -> PanelsChart:
    """Make the chart of value and derivatives."""

    def panel(name: str) -> Panel:
        own = where(tables["activations"], activation=name)
        lines = tuple(line_of(label, own, "z", key) for key, label in LABELS.items())
        return Panel(name, "", lines, limits=(-2.2, 3.2))

    names, worst = distinct(tables["activations"], "activation"), max(column(tables["activations"], "worst_difference"))
    return PanelsChart(
        stem="activations",
        title=f"{len(names)} activations and their first three derivatives, autograd's within {worst:.0e}",
        topic="Activations and their derivatives against z",
        caption="Against z. At a kink a derivative is that of the piece on the left.",
        panels=tuple(map(panel, names)),
        columns=4,
        shared=True,
    )


@study_figure(80, "activations")
def depth(tables: StudyTables) -> PanelsChart:
    """Make the chart of singular values and gradients over depth."""
    rows = tables["activations-depth"]

    def line(name: str, key: str, weights: str, label: str) -> Series:
        own = where(rows, activation=name, weights=weights)
        shown = tuple(min(max(value, LEAST / 10), MOST * 10) for value in column(own, key))  # beyond the limits: out of sight
        return Series(f"{label}, {weights}", tuple(column(own, "depth")), shown)

    def panel(name: str) -> Panel:
        kinds = {"gradient_norm": "‖∂L/∂W_1‖", "largest_singular_value": "σ of J"}
        lines = tuple(line(name, key, weights, label) for key, label in kinds.items() for weights in activations.WEIGHTS)
        return Panel(name, "", lines, logarithmic=True, limits=(LEAST, MOST))

    told = []
    for weights in activations.WEIGHTS:
        fate, layers = activations.survival(rows, "relu", weights)
        told.append(f"{'keeps them up to' if fate == 'kept' else 'loses them at'} {layers:g} layers with {weights}'s weights")
    fate, layers = activations.survival(rows, "sigmoid", "Xavier")
    networks = float(rows[0]["networks"])
    return PanelsChart(
        stem="activations-depth",
        title=f"Gradients: ReLU {' and '.join(told)}; sigmoid loses them at {layers:g}",
        topic="Largest singular value of J, and gradient of the first weights, against the number of hidden layers",
        caption=brief(
            f"Against the number of hidden layers, {activations.WIDTH} wide; lost: below {activations.VANISHED:g} of one hidden layer's. "
            f"Mean of {networks:g} networks."
        ),
        panels=tuple(map(panel, distinct(rows, "activation"))),
        columns=4,
        shared=True,
    )


@study_figure(80, "activations")
def times(tables: StudyTables) -> TimesChart:
    """Make the chart of the times of Jacobians."""
    found = activations.least_times(tables["activations-times"])
    names = distinct(tables["activations"], "activation")
    panels, most = [], []
    for widths, least in found.items():
        shown = dict(sorted(((name, least[name]) for name in names), key=lambda item: item[1]))
        panels.append((_short(widths), shown, least["torch.exp"]))
        most.append(f"{max(shown.values()) / least['identity']:.3g} times as long for {_short(widths)}")
    return TimesChart(
        stem="activations-times",
        title=f"With an activation a Jacobian takes at most {' and '.join(most)}",
        topic="Time of a Jacobian by activation, on one thread",
        caption=brief(
            f"Least of {float(tables['activations-times'][0]['rounds']):g} rounds, on one thread, "
            f"{float(tables['activations-times'][0]['samples']):g} samples.",
            "Grey: without an activation.",
            "Dotted: torch.exp of as many numbers as there are units.",
        ),
        panels=tuple(panels),
        without="identity",
    )


def _short(widths: str) -> str:
    """Write equal hidden widths once.

    Example:
        >>> _short("2-30-30-30-10")
        '2-30×3-10'
    """
    first, *hidden, last = widths.split("-")
    return f"{first}-{hidden[0]}×{len(hidden)}-{last}" if len({*hidden}) == 1 and len(hidden) > 1 else widths


@draw.register
def _(chart: TimesChart) -> Figure:
    drawing = Figure(figsize=(WIDTH, 0.24 * len(chart.panels[0][1]) + 1.6), layout="constrained")
    titles(drawing, chart)
    grid = drawing.subplots(1, len(chart.panels), squeeze=False)
    for axes, (title, shown, exponentials) in zip(grid.flat, chart.panels, strict=True):
        names, values, base = list(shown), list(shown.values()), shown[chart.without]
        axes.barh(names, [min(base, value) for value in values], color=style.GREY)
        axes.barh(names, [max(0.0, value - base) for value in values], left=base, color=style.VERMILION)
        axes.axvline(exponentials, color=style.BLUE, linestyle=":", linewidth=1.6)
        axes.set_title(title, fontsize=8.5, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: seconds(value) if value else "0")
        axes.grid(visible=False, axis="y")
    return drawing

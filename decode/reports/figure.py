"""How the pictures look: size, colours and axes, the same in all of them.

Roles keep their colour everywhere (Okabe and Ito's palette, told apart without red or green
vision): grey for the base, blues for the small pair, orange for the proxy, green for the ceiling.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "antiexpert": "#A6CFE8",
    "expert": "#0072B2",
    "base": "#8C8C8C",
    "proxy": "#E69F00",
    "tuned": "#009E73",
}
INK = "#333333"
FAINT = "#DDDDDD"
WIDTH_INCHES, DPI = 7.5, 160  # 1,200 pixels: sharp at a README's 900


def new_axes(height: float) -> "tuple[Axes, Figure]":
    """One plot of the house's width and this height in inches, without a frame, and its figure."""
    from matplotlib.figure import Figure  # no pyplot: a Figure alone draws with Agg, globals aside

    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return axes, figure


def in_percent(axis: Any) -> None:
    """Label an axis of fractions in percent."""
    axis.set_major_formatter(lambda value, _: f"{value * 100:g}")
    axis.set_tick_params(length=0)


def words(metric: str) -> str:
    """`exact match` for `exact_match`."""
    return metric.replace("_", " ")


def save(figure: "Figure", path: Path) -> None:
    """Writes the whole picture or none: a viewer never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    figure.savefig(partial, format="png", facecolor="white")
    partial.replace(path)

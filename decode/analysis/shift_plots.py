"""The pictures of an analysis: where the base was overruled, on which tokens, and the trade-off."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..reports.figure import COLOURS, FAINT, INK, in_percent, new_axes, save, words
from .trade_off import TradeOff

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUM_TOKENS_SHOWN = 15
LETTER_POINTS = 6.5  # width of a bold letter at size 9
OFFSETS = [(7, 1), (-7, 1), (7, -12), (-7, -12), (7, 12), (-7, 12)]  # of a name from its point


def plot_by_position(summary: dict[str, Any], path: Path) -> None:
    """Draws the share of changed top-1 tokens at each place of a completion into `path`."""
    from matplotlib.ticker import MaxNLocator  # half a second to import

    places = summary["top1_changed_by_position"]
    axes, figure = new_axes(height=3.4)
    positions = [place["position"] for place in places]
    shares = [place["top1_changed"] for place in places]
    marker = "o" if len(places) <= 60 else None
    axes.plot(positions, shares, color=COLOURS["proxy"], linewidth=2, marker=marker, markersize=4)
    overall = summary["top1_changed"]["value"]
    axes.axhline(overall, color=COLOURS["base"], linewidth=1.5, linestyle=(0, (4, 2)), zorder=1)
    axes.annotate(
        f"all tokens: {overall * 100:.1f}%", (1.0, overall), xycoords=("axes fraction", "data"),
        xytext=(0, 5), textcoords="offset points", ha="right", fontsize=9, color=INK,
    )  # fmt: skip
    axes.set_ylim(-0.02, 1.04)
    axes.set_xlim(0.5, max(positions, default=1) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["left", "bottom"]].set_visible(True)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    in_percent(axes.yaxis)
    axes.set_ylabel("base preferred another token, percent")
    axes.set_xlabel(f"token of the completion ({summary['num_rows']:,} completions)")
    save(figure, path)


def plot_most_shifted(summary: dict[str, Any], path: Path) -> bool:
    """Draws the tokens that the expert raised most, with their counts, into `path`.

    Returns:
        Whether there was anything to draw: some token was emitted often enough.
    """
    kinds = summary["most_shifted"][:NUM_TOKENS_SHOWN]
    if not kinds:
        return False
    axes, figure = new_axes(height=0.9 + 0.27 * len(kinds))
    values = [kind["mean_delta_probability"] for kind in kinds]
    axes.barh(range(len(kinds)), values, height=0.7, color=COLOURS["proxy"], zorder=2)
    for place, kind in enumerate(kinds):
        axes.annotate(
            f"{kind['count']:,} times", (max(kind["mean_delta_probability"], 0), place),
            xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK,
        )  # fmt: skip
    labels = [shown(kind["text"]) + (", the end" if kind["is_end"] else "") for kind in kinds]
    axes.set_yticks(range(len(kinds)), labels, fontfamily="monospace", parse_math=False)
    axes.tick_params(axis="y", length=0, pad=6)
    axes.set_ylim(len(kinds) - 0.4, -0.6)
    axes.set_xlim(min(0, *values, -1e-9), max(*values, 1e-9) * 1.16)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.spines["left"].set_visible(True)
    axes.spines["left"].set_color(INK)
    in_percent(axes.xaxis)
    axes.set_xlabel("mean probability, proxy minus base, points")
    save(figure, path)
    return True


def plot_trade_off(curves: Sequence[TradeOff], path: Path) -> bool:
    """Draws two columns against each other over alpha, one line a base, into `path`.

    Returns:
        Whether there was anything to draw.
    """
    if not curves:
        return False
    axes, figure = new_axes(height=4.2)
    named: list[tuple[str, float, float, str]] = []  # name, x, y, colour
    styles = ["-", "--", ":", "-."]
    for number, curve in enumerate(curves):
        _, xs, ys = zip(*curve.points, strict=True)
        style = styles[number % len(styles)]
        axes.plot(
            xs, ys, color=COLOURS["proxy"], linewidth=2, linestyle=style, marker="o", markersize=5,
            label=curve.base,
        )  # fmt: skip
        for alpha, x, y in curve.points:
            is_base = alpha == 0
            named.append(("base" if is_base else f"{alpha:g}", x, y, _colour(is_base)))
        for role, (x, y) in curve.marks.items():
            axes.plot([x], [y], color=COLOURS[role], marker="D", markersize=6, linestyle="none")
            named.append((role, x, y, COLOURS[role]))
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=9)
    axes.margins(0.09)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.spines[["left", "bottom"]].set_visible(True)
    for axis, name in ((axes.xaxis, curves[0].x), (axes.yaxis, curves[0].y)):
        is_share = all(0 <= value <= 1 for curve in curves for value in _values(curve, name))
        if is_share:
            in_percent(axis)
        axis.set_label_text(f"{words(name)}, {'percent' if is_share else 'mean'}")
    _name_points(axes, figure, named)
    axes.set_title(
        f"{curves[0].base if len(curves) == 1 else 'each base'}, by alpha",
        fontsize=10, fontweight="bold", color=INK, loc="left",
    )  # fmt: skip
    save(figure, path)
    return True


def shown(text: str) -> str:
    """A token in quotes, with spaces, line ends and what cannot be printed made visible."""
    for character, sign in (("\n", "\u21b5"), ("\r", "\u240d"), ("\t", "\u21e5")):
        text = text.replace(character, sign)
    signs = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"'{''.join(signs)}'"


def _values(curve: TradeOff, name: str) -> list[float]:
    place = 0 if name == curve.x else 1
    return [point[place + 1] for point in curve.points] + [
        mark[place] for mark in curve.marks.values()
    ]


def _name_points(
    axes: "Axes", figure: "Figure", named: Sequence[tuple[str, float, float, str]]
) -> None:
    """Writes each name beside its point, on the first side where it covers nothing."""
    figure.draw_without_rendering()  # settles where points are
    places = [axes.transData.transform((x, y)) * 72 / figure.dpi for _, x, y, _ in named]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]  # in points, 1/72 inch
    for (name, x, y, colour), (left, bottom) in zip(named, places, strict=True):
        width = LETTER_POINTS * len(name)
        boxes = {
            (right, up): (left + right - width * (right < 0), bottom + up) for right, up in OFFSETS
        }
        free = [
            offset
            for offset, (start, low) in boxes.items()
            if not any(
                start < box[2] and box[0] < start + width and low < box[3] and box[1] < low + 10
                for box in taken
            )
        ]
        offset = (free or OFFSETS)[0]
        start, low = boxes[offset]
        taken.append((start, low, start + width, low + 10))
        axes.annotate(
            name, (x, y), xytext=offset, textcoords="offset points", fontsize=9, color=colour,
            fontweight="bold", ha="left" if offset[0] > 0 else "right", va="bottom",
        )  # fmt: skip


def _colour(is_base: bool) -> str:
    return COLOURS["base"] if is_base else INK

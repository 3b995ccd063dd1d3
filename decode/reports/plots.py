"""The two pictures of a run: every system with its interval, and the metric against alpha."""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.metric import Metric
from ..evaluation.metrics import MeasuredBase, MeasuredSystem, Metrics
from .figure import COLOURS, DPI, FAINT, INK, WIDTH_INCHES, in_percent, new_axes, save
from .tables import system_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_ALPHAS = 3  # bars a base; with more of them alpha.png tells the story


def plot_systems(metrics: Metrics, path: Path) -> None:
    """Draws one bar a system with its 95% interval, and the gap each proxy closes, into `path`."""
    groups = _groups(metrics)
    num_rows = sum(len(systems) for _, systems in groups) + len(groups)
    axes, figure = new_axes(height=0.9 + 0.31 * num_rows)
    furthest = max(system.high for _, systems in groups for system in systems)
    position, positions, labels = 0.0, [], []
    for title, systems in groups:
        axes.text(
            -0.012, position, title, transform=axes.get_yaxis_transform(), ha="right", va="center",
            fontsize=10, fontweight="bold", color=INK,
        )  # fmt: skip
        for system in systems:
            position += 1
            positions.append(position)
            labels.append(_label(system))
            _bar(axes, system, position, note_at=furthest)
        position += 1.15
    axes.set_yticks(positions, labels)
    axes.tick_params(axis="y", length=0, pad=6)
    axes.set_ylim(position - 0.3, -0.7)
    axes.set_xlim(0, furthest * 1.04 + 1e-9)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.spines["left"].set_visible(True)
    axes.spines["left"].set_color(INK)
    in_percent(axes.xaxis)
    axes.set_xlabel(
        f"{metrics.task}: {_words(metrics.metric)}, percent of {metrics.num_examples:,} "
        "rows (whiskers: 95% intervals)"
    )
    save(figure, path)


def plot_alpha(metrics: Metrics, path: Path) -> bool:
    """Draws the proxy's metric against alpha into `path`, one panel a base.

    Returns:
        Whether there was anything to draw: some base was measured at two alphas or more.
    """
    bases = [base for base in metrics.bases if len(base.over_alpha) > 1]
    if not bases:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, 3.6), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(bases), sharey=True, squeeze=False)[0]
    ends = [
        _alpha_panel(axes, base, metrics.expert.value)
        for axes, base in zip(panels, bases, strict=True)
    ]
    for axes, values in zip(panels, ends, strict=True):  # once the shared scale is settled
        name_lines(axes, values)
    panels[0].set_ylabel(f"{metrics.task}: {_words(metrics.metric)} (percent)")
    in_percent(panels[0].yaxis)
    save(figure, path)
    return True


def _alpha_panel(axes: "Axes", base: MeasuredBase, expert: float) -> dict[str, float]:
    """Draws one base; returns the height at which each role's line meets the right edge."""
    proxies = base.over_alpha
    alphas = [proxy.alpha for proxy in proxies]
    values = [proxy.value for proxy in proxies]
    lows, highs = zip(*(proxy.ci95 for proxy in proxies), strict=True)
    axes.fill_between(alphas, lows, highs, color=COLOURS["proxy"], alpha=0.25, linewidth=0)
    axes.plot(alphas, values, color=COLOURS["proxy"], linewidth=2, marker="o", markersize=5)
    levels = {"base": base.base.value, "expert": expert}
    if base.tuned is not None:
        levels["tuned"] = base.tuned.value
    for role, value in levels.items():
        axes.axhline(value, color=COLOURS[role], linewidth=1.5, linestyle=(0, (4, 2)), zorder=1)
    axes.set_title(base.slug, fontsize=10, fontweight="bold", color=INK, loc="left")
    axes.set_xlabel("alpha (band: 95% interval)")
    axes.set_xticks(alphas if len(alphas) <= 8 else alphas[:: len(alphas) // 6])
    axes.xaxis.set_major_formatter(lambda alpha, _: f"{alpha:g}")
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return {"proxy": values[-1], **levels}


def name_lines(axes: "Axes", ends: dict[str, float]) -> None:
    """Writes each role beside the end of its line, instead of a legend."""
    bottom, top = axes.get_ylim()
    places = _spread(list(ends.values()), (top - bottom) * 0.07)
    for role, place in zip(ends, places, strict=True):
        axes.annotate(
            role, (1.0, place), xycoords=("axes fraction", "data"), xytext=(5, 0),
            textcoords="offset points", va="center", fontsize=9, color=COLOURS[role],
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def _spread(values: list[float], distance: float) -> list[float]:
    """Places near `values`, in the same vertical order, no two closer than `distance`."""
    places = list(values)
    ordered = sorted(range(len(values)), key=lambda index: values[index])
    for below, above in pairwise(ordered):
        places[above] = max(places[above], places[below] + distance)
    # Labels were only pushed up: let the stack down by half of the largest push.
    drift = max(place - value for place, value in zip(places, values, strict=True)) / 2
    return [place - drift for place in places]


def _groups(metrics: Metrics) -> list[tuple[str, list[MeasuredSystem]]]:
    """Systems under the heading they are drawn below; the alphas thinned out to `MAX_ALPHAS`."""
    systems = metrics.systems
    groups = [("small model", [system for system in systems if system.slug is None])]
    for base in metrics.bases:
        shown = list(base.proxy)
        if len(shown) > MAX_ALPHAS:
            shown = [base.headline, base.best(metrics.metric)]
        own = [system for system in systems if system.slug == base.slug]
        groups.append((base.slug, [s for s in own if s.proxy is None or s.proxy in shown]))
    return groups


def _label(system: MeasuredSystem) -> str:
    words = {
        "antiexpert": "anti-expert (untuned)",
        "expert": "expert (tuned)",
        "base": "base (untuned)",
        "proxy": system_label(system),
        "tuned": "tuned directly",
    }
    return words[system.role]


def _bar(axes: "Axes", system: MeasuredSystem, position: float, note_at: float) -> None:
    axes.barh(position, system.value, height=0.72, color=COLOURS[system.role], zorder=2)
    axes.plot([system.low, system.high], [position] * 2, color=INK, linewidth=1.3, zorder=3)
    weight = "bold" if system.role == "proxy" else "normal"
    notes = [(f"{system.value * 100:.1f}", 34, "right")]
    if system.proxy is not None and system.proxy.gap_closed is not None:
        closed = system.proxy.gap_closed.value
        notes.append((f"closes {closed * 100:.0f}% of the gap", 44, "left"))
    for note, offset_points, side in notes:
        axes.annotate(
            note, (note_at * 1.04, position), xytext=(offset_points, 0), ha=side, va="center",
            textcoords="offset points", fontsize=9, color=INK, fontweight=weight,
            annotation_clip=False,
        )  # fmt: skip


def _words(metric: Metric) -> str:
    return metric.words if metric.higher_is_better else f"{metric.words}, lower is better"

"""Runs side by side as a picture: every system of every run, with its interval."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.metrics import MeasuredSystem
from .figure import DPI, FAINT, INK, WIDTH_INCHES, in_percent, save
from .finished_run import FinishedRun
from .tables import system_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A run keeps its colour and its mark in all panels (Okabe and Ito's palette).
LOOKS = (
    ("#0072B2", "o"),
    ("#E69F00", "s"),
    ("#009E73", "D"),
    ("#CC79A7", "^"),
    ("#56B4E9", "v"),
    ("#D55E00", "P"),
    ("#8C8C8C", "X"),
)
ORDER = ("antiexpert", "expert", "base", "proxy", "tuned")

Key = tuple[str, int, str, float]  # base, place in the order of reading, rule, alpha


def plot_runs(runs: list[FinishedRun], tasks: list[str], path: Path) -> None:
    """Draws a panel a task into `path`: a line a system, a mark and a whisker a run."""
    from matplotlib.figure import Figure

    panels = [_systems(runs, task) for task in tasks]
    lane = 0.1 + 0.13 * len(runs)  # inches a system takes
    heights = [0.9 + lane * (len(names) + len({key[0] for key in names})) for names, _ in panels]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + 0.4), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(tasks), 1, squeeze=False, height_ratios=heights)[:, 0]
    for own, task, (names, found) in zip(axes, tasks, panels, strict=True):
        _panel(own, runs, task, names, found)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(3, len(runs)),
        frameon=False,
        fontsize=9,
    )
    save(figure, path)


def metric_words(runs: list[FinishedRun], task: str) -> str:
    """What the runs measured on a task; all of it where they differ."""
    metrics = dict.fromkeys(run.tasks[task].metric for run in runs if task in run.tasks)
    return " or ".join(
        metric.words + ("" if metric.higher_is_better else " (lower is better)")
        for metric in metrics
    )


def reading_key(system: MeasuredSystem) -> Key:
    """Sorts systems as tables are read."""
    return system.slug or "", ORDER.index(system.role), system.rule, system.alpha or 0.0


def _systems(
    runs: list[FinishedRun], task: str
) -> tuple[dict[Key, str], list[dict[Key, MeasuredSystem]]]:
    """All systems' names in reading order, and each run's own systems."""
    found = [
        {reading_key(s): s for s in (run.tasks[task].systems if task in run.tasks else ())}
        for run in runs
    ]
    names = {key: system_label(system) for own in found for key, system in own.items()}
    bases = list(dict.fromkeys(base for base, *_ in names))
    return {key: names[key] for base in bases for key in sorted(names) if key[0] == base}, found


def _panel(
    axes: "Axes",
    runs: list[FinishedRun],
    task: str,
    names: dict[Key, str],
    found: list[dict[Key, MeasuredSystem]],
) -> None:
    places: dict[Key, float] = {}
    position, base = 0.0, ""
    for key in names:
        if key[0] != base:
            base = key[0]
            axes.text(
                -0.012, position, base, transform=axes.get_yaxis_transform(), ha="right",
                va="center", fontsize=10, fontweight="bold", color=INK,
            )  # fmt: skip
            position += 1
        places[key] = position
        position += 1
    step = 0.8 / len(runs)
    for number, (run, own) in enumerate(zip(runs, found, strict=True)):
        colour, mark = LOOKS[number % len(LOOKS)]
        shift = (number - (len(runs) - 1) / 2) * step
        heights = [places[key] + shift for key in own]
        values = [system.value for system in own.values()]
        below = [system.value - system.low for system in own.values()]
        above = [system.high - system.value for system in own.values()]
        axes.errorbar(
            values, heights, xerr=[below, above], fmt=mark, color=colour, markersize=4.5,
            elinewidth=1.2, capsize=0, label=run.label,
        )  # fmt: skip
    for place in places.values():
        axes.axhspan(place - 0.46, place + 0.46, color=FAINT, alpha=0.28, linewidth=0)
    axes.set_yticks(list(places.values()), list(names.values()))
    axes.set_ylim(position - 0.4, -0.6)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.tick_params(axis="y", length=0, pad=6)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    in_percent(axes.xaxis)
    axes.set_xlabel(f"{task}: {metric_words(runs, task)}, percent (whiskers: 95% intervals)")

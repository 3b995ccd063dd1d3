"""What an analysis leaves in a task's folder: a page and pictures of each proxy, then the whole.

analysis/<proxy>/tokens.html, top1_changed.png, most_shifted.png
analysis/analysis.json, analysis.md, trade_off.png
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..evaluation.experiment import Experiment
from ..jobs.files import write_json, write_text
from ..jobs.folder import RunFolder
from .analysis_report import analysis_text
from .shift_plots import plot_by_position, plot_most_shifted, plot_trade_off
from .token_page import token_page
from .trade_off import TradeOff, read_sweeps

Rows = list[dict[str, Any]]

MEANS = ("mean_delta_probability", "mean_delta_logprob", "mean_total_variation")


def write_proxy(title: str, rows: Rows, summary: dict[str, Any], place: Path) -> dict[str, Path]:
    """The pictures of one proxy by name; they and its page are in `place`."""
    facts = (
        f"{len(rows):,} completions of the proxy-tuned base, coloured by what the expert moved. "
        f"The base alone would have preferred another token at "
        f"{summary['top1_changed']['value']:.1%} of {summary['num_tokens']:,} tokens."
    )
    write_text(place / "tokens.html", token_page(title, facts, rows))
    found = {"top1_changed": place / "top1_changed.png"}
    plot_by_position(summary, found["top1_changed"])
    if plot_most_shifted(summary, place / "most_shifted.png"):
        found["most_shifted"] = place / "most_shifted.png"
    return found


def dashboard_numbers(summary: dict[str, Any]) -> dict[str, float]:
    """The few numbers of one proxy that a dashboard shows."""
    values = {name: summary[name] for name in MEANS}
    return {**values, "top1_changed": summary["top1_changed"]["value"]}


def write_analysis(
    name: str,
    experiment: Experiment,
    folder: RunFolder,
    summaries: dict[str, Any],
    curves: Sequence[TradeOff],
) -> tuple[dict[str, Any], dict[str, Path]]:
    """The contents of one task's analysis.json, and its pictures by name; all are in its folder.

    Args:
        name: the run's.
        summaries: of each proxy, by its name.
    """
    analysis = {
        "name": name,
        "task": experiment.task,
        "num_predictions": len(experiment.row_ids),
        "is_greedy": experiment.sampling.is_greedy,
        "systems": summaries,
        "trade_offs": [asdict(curve) for curve in curves],
        "sweeps": {
            base: {**{f"{a:g}": values for a, values in sweep.by_alpha.items()}, **sweep.marks}
            for base, sweep in read_sweeps(folder).items()
        },
    }
    picture = folder.analysis / "trade_off.png"
    is_drawn = plot_trade_off(list(curves), picture)
    write_json(folder.analysis / "analysis.json", analysis)
    write_text(folder.analysis / "analysis.md", analysis_text(analysis))
    return analysis, {"trade_off": picture} if is_drawn else {}

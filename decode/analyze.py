"""What an expert moved, token by token: a finished run in, pages, figures and pictures out.

    python decode/analyze.py recipes/gsm7b.yaml [section.key=value ...]

Base, expert and anti-expert read the proxy's own completions again, those of each base at one alpha
(`analyze.alpha`), the first `analyze.num_rows` of them. Everything goes to the run's `analysis/`
folder, that of a further task to the one in its own folder. What was read once is not read again.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from decode.analysis.analysis_report import analysis_text, closing_lines
from decode.analysis.shift_plots import plot_by_position, plot_most_shifted, plot_trade_off
from decode.analysis.shift_summary import summarize_shifts, token_table
from decode.analysis.token_page import token_page
from decode.analysis.token_rows import check_models, token_rows
from decode.analysis.trade_off import TradeOff, read_sweeps, trade_offs
from decode.evaluation.experiment import Experiment, System, check
from decode.evaluation.loaded import Cast
from decode.jobs.files import read_rows, write_json, write_text
from decode.jobs.folder import RunFolder
from decode.jobs.interruption import interruptible
from decode.stage.planning import plan
from decode.stage.stage import recipe_from_command_line, start_logging, track
from decode.tracking.job import NullTracker
from recipes.schema.recipe import Recipe

Rows = list[dict[str, Any]]


def main() -> None:
    """Recipe, predictions, models, run, save and report."""
    recipe = recipe_from_command_line(__doc__)
    start_logging()

    try:
        alpha = chosen_alpha(recipe)
        tasks = plan(recipe)
        first, _ = tasks[0]
        systems = [System("proxy", contender, alpha) for contender in first.contenders]
        for experiment, folder in tasks:
            check(experiment)
            for system in systems:
                read_predictions(experiment, system, folder)
                check_models(experiment, system, folder)
        curves = [trade_offs(folder, recipe.analyze.trade_off) for _, folder in tasks]
    except ValueError as error:
        sys.exit(f"error: {error}")

    tracker = track(recipe, "analyze")
    cast = Cast(first)
    summaries: list[dict[str, Any]] = [{} for _ in tasks]
    for system in systems:
        for (experiment, folder), own in zip(tasks, summaries, strict=True):
            try:
                rows = read_tokens(recipe, cast, experiment, system, folder)
                own[system.name] = summarize_shifts(rows)
            except ValueError as error:
                sys.exit(f"error: {error}")
            key = f"analysis/{experiment.task}/{system.name}"
            title = f"{recipe.name}, {experiment.task}: {system.name}"
            show(title, rows, own[system.name], folder.tokens(system.name).parent, tracker, key)
    for (experiment, folder), own, found in zip(tasks, summaries, curves, strict=True):
        analysis = collect(recipe, experiment, folder, alpha, own, found)
        picture = folder.analysis / "trade_off.png"
        if plot_trade_off(found, picture):
            tracker.images({f"analysis/{experiment.task}/trade_off": picture})
        write_json(folder.analysis / "analysis.json", analysis)
        write_text(folder.analysis / "analysis.md", analysis_text(analysis))
        print(f"{closing_lines(analysis)}\n\nanalysis: {folder.analysis / 'analysis.md'}")
    tracker.finish()


def chosen_alpha(recipe: Recipe) -> float:
    """The alpha whose completions are read: the one asked for, or 1 or the nearest to it.

    Raises:
        ValueError: the run has no such alpha.
    """
    alphas, wanted = recipe.decode.alphas, recipe.analyze.alpha
    if wanted is not None and wanted not in alphas:
        known = ", ".join(f"{alpha:g}" for alpha in alphas)
        raise ValueError(f"analyze.alpha: found {wanted:g}, and the run's decode.alpha is {known}")
    return min(alphas, key=lambda alpha: abs(alpha - 1)) if wanted is None else wanted


def read_predictions(experiment: Experiment, system: System, folder: RunFolder) -> Rows:
    """A proxy's finished predictions, each with its score.

    Raises:
        ValueError: the run is not finished, or its rows are not those of the recipe.
    """
    path = folder.predictions(system.name)
    if not folder.metrics.exists():
        raise ValueError(f"{folder.path}: no finished run (no metrics.json); run train/sft.py")
    rows = read_rows(path)
    if [row["id"] for row in rows] != experiment.row_ids:
        raise ValueError(
            f"{path}: found {len(rows)} rows, not the {len(experiment.row_ids)} of this recipe; "
            "run decode/run.py to the end"
        )
    grades = {row["id"]: row["score"] for row in read_rows(folder.grades(system.name))}
    return [{**row, "score": grades.get(row["id"], row.get("score"))} for row in rows]


def read_tokens(
    recipe: Recipe, cast: Cast, experiment: Experiment, system: System, folder: RunFolder
) -> Rows:
    """The rows of `tokens.jsonl`, read by the models where they are not there yet."""
    predictions = read_predictions(experiment, system, folder)
    num_rows = recipe.analyze.num_rows or len(predictions)
    return token_rows(cast, experiment, system, predictions, num_rows, folder)


def show(
    title: str, rows: Rows, summary: dict[str, Any], place: Path, tracker: NullTracker, key: str
) -> None:
    """One proxy's page and pictures into `place`, and all of it to W&B under `key`."""
    changed = summary["top1_changed"]["value"]
    facts = (
        f"{len(rows):,} completions of the proxy-tuned base, coloured by what the expert moved. "
        f"The base alone would have preferred another token at {changed:.1%} of "
        f"{summary['num_tokens']:,} tokens."
    )
    write_text(place / "tokens.html", token_page(title, facts, rows))
    tracker.images({f"{key}/{path.stem}": path for path in pictures(summary, place)})
    tracker.table(f"{key}/tokens", *token_table(rows))
    means = ("mean_delta_probability", "mean_delta_logprob", "mean_total_variation")
    values = {f"{key}/{name}": summary[name] for name in means} | {f"{key}/top1_changed": changed}
    tracker.log(values)
    tracker.summary(values)


def pictures(summary: dict[str, Any], place: Path) -> Iterator[Path]:
    """Draws one proxy's pictures, naming each when it is there."""
    plot_by_position(summary, place / "top1_changed.png")
    yield place / "top1_changed.png"
    if plot_most_shifted(summary, place / "most_shifted.png"):
        yield place / "most_shifted.png"


def collect(
    recipe: Recipe,
    experiment: Experiment,
    folder: RunFolder,
    alpha: float,
    summaries: dict[str, Any],
    curves: list[TradeOff],
) -> dict[str, Any]:
    """The contents of one task's `analysis.json`."""
    return {
        "name": recipe.name,
        "task": experiment.task,
        "alpha": alpha,
        "num_predictions": len(experiment.row_ids),
        "is_greedy": experiment.sampling.is_greedy,
        "systems": summaries,
        "trade_offs": [asdict(curve) for curve in curves],
        "sweeps": {
            base: {**{f"{a:g}": values for a, values in sweep.by_alpha.items()}, **sweep.marks}
            for base, sweep in read_sweeps(folder).items()
        },
    }


if __name__ == "__main__":
    if code := interruptible(main):
        sys.exit(code)

"""The decode stage of a run: a recipe's experiments in, results and report out.

A training entry ends with it, and `decode/run.py` is nothing else.
"""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from recipes.schema.recipe import Recipe

from ..evaluation.metrics_file import write_metrics
from ..evaluation.predict import Predictions, run_all
from ..evaluation.summary import measure, with_further_tasks
from ..jobs.environment import describe_environment
from ..jobs.faults import doing
from ..jobs.files import write_json
from ..jobs.folder import RunFolder
from ..reports.overview import closing_lines
from ..reports.report import write_report
from ..reports.tables import closing_table
from ..tracking.job import NullTracker, given_run_id, start_tracking
from .artifacts import evaluation, evaluation_inputs, tags
from .command import command_line
from .validation import Plan


def decode_stage(recipe: Recipe, plan: Plan, tracker: NullTracker) -> str:
    """Every system's predictions, metrics.json, plots and report.md, and all of it to W&B.

    A task after the first has all of these in its own folder, and a section in the run's report.

    Returns:
        What to print at the end: a short table, where the report is, and what to try next.
    """
    predictions = run_all(plan)
    with doing(f"measuring and reporting what is in {recipe.output_dir}"):
        return _report(recipe, plan, predictions, tracker)


def _report(
    recipe: Recipe, plan: Plan, predictions: list[Predictions], tracker: NullTracker
) -> str:
    measured = [measure(e, p, folder) for (e, folder), p in zip(plan, predictions, strict=True)]
    environment, settings = describe_environment(), recipe.model_dump(mode="json")
    run = RunFolder(recipe.output_dir)
    folders = [folder.path.relative_to(run.path).as_posix() for _, folder in plan[1:]]
    metrics = with_further_tasks(measured, folders)
    sources = [_sources(folder, p) for (_, folder), p in zip(plan, predictions, strict=True)]
    for (_, folder), own, rows, files in zip(
        plan,
        [metrics, *measured[1:]],
        predictions,
        [list(chain(*sources)), *sources[1:]],
        strict=True,
    ):
        write_metrics(folder.metrics, own)
        folder.keep(folder.metrics, files)
        write_report(folder.path, own, rows, settings, environment)
        of_task = "" if own is metrics else f"/{own.task}"
        tracker.predictions(rows, f"predictions{of_task}")
        pictures = sorted(folder.plots.glob("*.png"))
        tracker.images({f"plots{of_task}/{path.stem}": path for path in pictures})
    write_json(RunFolder(recipe.output_dir).environment, environment)
    tracker.results(metrics)
    for used in evaluation_inputs(recipe, plan):
        tracker.uses(used)
    tracker.makes(evaluation(recipe, metrics))
    tracker.finish()
    ending = f"report: {run.path / 'report.md'}"
    if recipe.decode.vocabulary != "bytes":
        analyze = command_line("decode/analyze.py", run.recipe)
        ending += f"\nnext, what moved token by token:\n  {analyze}"
    return "\n\n".join([*map(closing_table, measured), *closing_lines(metrics), ending])


def _sources(folder: RunFolder, systems: Iterable[str]) -> list[Path]:
    """The files that a task's metrics are made from."""
    files = (file for name in systems for file in (folder.predictions(name), folder.grades(name)))
    return [file for file in files if file.exists()]


def track(recipe: Recipe, job_type: str, is_main_process: bool = True) -> NullTracker:
    """The tracker of the recipe's run, with the recipe and the environment as its config."""
    return start_tracking(
        {**recipe.wandb.model_dump(), "tags": tags(recipe)},
        Path(recipe.output_dir),
        recipe.name,
        job_type,
        {**recipe.model_dump(mode="json"), "environment": describe_environment()},
        is_main_process=is_main_process,
    )


def next_job(
    recipe: Recipe, tracker: NullTracker, job_type: str, is_main_process: bool
) -> NullTracker:
    """The tracker of the recipe's next job, after that of `tracker` has ended with its uploads.

    Where the environment names the W&B run, as a sweep's agent does, all jobs are that one run.
    """
    if given_run_id() and tracker.is_on:
        return tracker
    tracker.finish()
    return track(recipe, job_type, is_main_process)

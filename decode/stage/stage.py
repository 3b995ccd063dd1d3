"""The decode stage of a run: a recipe's experiments in, results and report out.

Both entries end with it: `train/sft.py` after training, `decode/run.py` alone. It, `planning.py`
and `provenance.py` are the library modules here that know recipes; the rest does not.
"""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

from data.judges.client import EndpointError
from recipes.schema.recipe import Recipe, RecipeError, load_recipe

from ..evaluation.grading import NothingCountsError
from ..evaluation.predict import measure, run_all
from ..jobs.environment import describe_environment
from ..jobs.files import write_json
from ..jobs.folder import RunFolder, SettingsChanged
from ..reports.overview import closing_lines, with_further_tasks
from ..reports.report import write_report
from ..reports.tables import closing_table
from ..tracking.job import NullTracker, given_run_id, start_tracking
from .artifacts import evaluation, evaluation_inputs, tags
from .planning import Plan


def decode_stage(recipe: Recipe, plan: Plan, tracker: NullTracker) -> str:
    """Every system's predictions, metrics.json, plots and report.md, and all of it to W&B.

    A task after the first has all of these in its own folder, and a section in the run's report.

    Returns:
        What to print at the end: a short table, and where the report is.
    """
    try:
        predictions = run_all(plan)
        measured = [measure(e, p, folder) for (e, folder), p in zip(plan, predictions, strict=True)]
    except (SettingsChanged, EndpointError, NothingCountsError) as error:
        sys.exit(f"error: {error}")
    environment, settings = describe_environment(), recipe.model_dump(mode="json")
    metrics = with_further_tasks(measured)
    for (_, folder), own, rows in zip(plan, [metrics, *measured[1:]], predictions, strict=True):
        write_json(folder.metrics, own)
        write_report(folder.path, own, rows, settings, environment)
        of_task = "" if own is metrics else f"/{own['task']}"
        tracker.predictions(rows, f"predictions{of_task}")
        pictures = sorted(folder.plots.glob("*.png"))
        tracker.images({f"plots{of_task}/{path.stem}": path for path in pictures})
    write_json(RunFolder(recipe.output_dir).environment, environment)
    tracker.results(metrics)
    for used in evaluation_inputs(recipe, plan):
        tracker.uses(used)
    tracker.makes(evaluation(recipe, metrics))
    tracker.finish()
    report = f"report: {RunFolder(recipe.output_dir).path / 'report.md'}"
    return "\n\n".join([*map(closing_table, measured), *closing_lines(metrics), report])


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
    """The tracker of the recipe's next job; `tracker`'s own, uploads included, is over with it.

    Where the environment names the W&B run, as a sweep's agent does, all jobs are that one run.
    """
    if given_run_id() and tracker.is_on:
        return tracker
    tracker.finish()
    return track(recipe, job_type, is_main_process)


def recipe_from_command_line(description: str | None) -> Recipe:
    """The recipe and overrides an entry was called with; exits with one line if they are wrong."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="a YAML file, such as recipes/mini/facts.yaml")
    parser.add_argument("overrides", nargs="*", help="section.key=value, applied in order")
    arguments = parser.parse_args()
    try:
        return load_recipe(arguments.recipe, arguments.overrides)
    except RecipeError as error:
        sys.exit(f"error: {error}")


def start_logging() -> bool:
    """Configure logging, on the main process only; returns whether this is it (rank zero)."""
    is_main_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Deprecations inside the libraries are nothing a user of a recipe can act on.
    warnings.filterwarnings("ignore", category=FutureWarning)
    for package in ("train", "decode", "data"):
        logging.getLogger(package).setLevel(logging.INFO if is_main_process else logging.ERROR)
    return is_main_process

"""Recipe -> expert -> proxy-tuned bases -> report, in one run.

    accelerate launch train/sft.py recipes/gsm7b.yaml [section.key=value ...]

SIGTERM and Ctrl-C save a checkpoint and end it unfinished, with exit code 75 or 130. Run it again
after an interruption of any kind, and it goes on where it stopped.
"""

import logging
import shutil
import sys
from collections.abc import Sequence

from transformers import TrainerCallback

from data import TASKS, TrainRow
from decode.environment import describe_environment
from decode.experiment import check
from decode.folder import RunFolder, write_json
from decode.interruption import interruptible
from decode.launch import check_devices, check_group, check_launch
from decode.lock import occupy
from decode.planning import plan
from decode.provenance import expert, training_rows
from decode.shares import decode_shares
from decode.stage import decode_stage, next_job, recipe_from_command_line, start_logging, track
from decode.tracking import NullTracker
from recipes.schema import Recipe, save_recipe
from train import zero
from train.callbacks import TrackingCallback
from train.check_rows import CheckRows, check_rows, claim_checks, rows_to_train_on
from train.proxy_check import proxy_checks
from train.proxy_loss import check_proxy_loss
from train.trainer import sft_config, train, uses_cpu
from train.training import claim, trainings

logger = logging.getLogger("train.sft")


def train_all(
    recipe: Recipe, rows: Sequence[TrainRow], checks: CheckRows | None, tracker: NullTracker
) -> None:
    """Every training that is not finished yet; of the expert's, `checks` are made on the way."""
    folder = RunFolder(recipe.output_dir)
    for training in trainings(recipe):
        if training.is_complete:
            logger.info("%s is complete: not trained again", training.target)
            continue
        logger.info("training %s on %d rows", training.target, len(rows))
        config = sft_config(training, recipe.seed, recipe.name)
        callbacks: list[TrainerCallback] = [TrackingCallback(tracker.log, training.prefix)]
        if training.target == folder.expert:
            callbacks += proxy_checks(recipe, checks, folder, tracker.log)
        train(training, rows, config, callbacks)
        zero.empty_memory()
    checkpoints = folder.path / "checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)  # all trainings are complete


def main() -> None:
    """Recipe, logging, data, models, run, report."""
    recipe = recipe_from_command_line(__doc__)
    is_main_process = start_logging()
    folder = RunFolder(recipe.output_dir)

    try:  # everything a user can have wrong, before any weights load
        check_launch()
        check_devices(uses_cpu(recipe.sft or {}))
        task, rows = TASKS[recipe.task.name], []
        if recipe.trains:
            rows = task.train_rows(recipe.task.train, recipe.task.train_limit)
        experiments = plan(recipe)
        for experiment, _ in experiments:
            check(experiment)
        checks = None
        for training in trainings(recipe):
            config = sft_config(training, recipe.seed, recipe.name)
            if training.proxy_aware is not None:
                check_proxy_loss(training.proxy_aware, experiments[0][0].antiexpert, config)
            check_group()
            checks = checks or check_rows(recipe, experiments[0][0], config)
        rows = rows_to_train_on(rows, checks)
        if is_main_process:
            occupy(folder.path)
        claim(recipe, rows)
        if checks is not None:
            claim_checks(recipe, checks, folder)
    except ValueError as error:
        sys.exit(f"error: {error}")

    if is_main_process:
        save_recipe(recipe, folder.recipe)
        write_json(folder.environment, describe_environment())
    with track(recipe, "train", is_main_process and recipe.trains) as tracker:
        if rows and tracker.is_on:
            tracker.uses(training_rows(recipe, len(rows)))
        train_all(recipe, rows, checks, tracker)
        if recipe.expert.trained is None and tracker.is_on:
            tracker.makes(expert(recipe))
    zero.leave_group()
    with next_job(recipe, tracker, "decode", is_main_process) as tracker:
        if decode_shares(experiments):
            print(decode_stage(recipe, experiments, tracker))


if __name__ == "__main__":
    sys.exit(interruptible(main))

"""Recipe -> expert -> proxy-tuned bases -> report, in one run.

    accelerate launch train/sft.py recipes/gsm7b.yaml [section.key=value ...]

SIGTERM and Ctrl-C save a checkpoint and end it unfinished, with exit code 75 or 130. Run it again
after an interruption of any kind, and it goes on where it stopped.
"""

import logging
import shutil
import sys

from transformers import TrainerCallback

from decode.evaluation.experiment import check
from decode.evaluation.shares import decode_shares, meet
from decode.jobs.environment import describe_environment
from decode.jobs.files import write_json
from decode.jobs.folder import RunFolder
from decode.jobs.interruption import interruptible
from decode.jobs.lock import occupy
from decode.jobs.processes import check_devices, check_group, check_launch
from decode.stage import artifacts
from decode.stage.planning import plan
from decode.stage.stage import (
    decode_stage,
    next_job,
    recipe_from_command_line,
    start_logging,
    track,
)
from decode.tracking.job import NullTracker
from recipes.schema.recipe import Recipe, save_recipe
from train import zero
from train.callbacks import TrackingCallback
from train.claims import claim
from train.proxy_check.callback import proxy_checks
from train.proxy_check.rows import CheckRows, check_rows, claim_checks
from train.proxy_loss import check_proxy_loss
from train.rows.report import say_what_is_trained_on
from train.rows.training_rows import TrainingRows, training_rows
from train.trainer import sft_config, train, uses_cpu
from train.training import trainings

logger = logging.getLogger("train.sft")


def train_all(
    recipe: Recipe, rows: TrainingRows, checks: CheckRows | None, tracker: NullTracker
) -> None:
    """Every training that is not finished yet; of the expert's, `checks` are made on the way."""
    folder = RunFolder(recipe.output_dir)
    for training in trainings(recipe):
        if training.is_complete:
            logger.info("%s is complete: not trained again", training.target)
            continue
        logger.info("training %s on %s", training.target, rows)
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
        experiments = plan(recipe)
        for experiment, _ in experiments:
            check(experiment)
        rows, checks, configs = None, None, []
        for training in trainings(recipe):
            configs.append(config := sft_config(training, recipe.seed, recipe.name))
            check_group()
            if training.proxy_aware is not None:
                check_proxy_loss(training.proxy_aware, experiments[0][0].antiexpert, config)
            checks = checks or check_rows(recipe, experiments[0][0], config)
        if recipe.trains:
            num_held_out = 0 if checks is None else checks.num_held_out
            rows = training_rows(recipe, [own for own, _ in experiments], num_held_out)
        if is_main_process:
            occupy(folder.path)
        if rows is not None:
            claim(recipe, rows.digest)
        if checks is not None:
            claim_checks(recipe, checks, folder)
    except ValueError as error:
        sys.exit(f"error: {error}")

    if is_main_process:
        save_recipe(recipe, folder.recipe)
        write_json(folder.environment, describe_environment())
    with track(recipe, "train", is_main_process and recipe.trains) as tracker:
        if rows is not None:
            if is_main_process:
                say_what_is_trained_on(rows, trainings(recipe)[0], configs[0], folder, tracker)
                tracker.uses(artifacts.training_rows(recipe, rows.sources, rows.digest))
            train_all(recipe, rows, checks, tracker)
        if recipe.expert.trained is None and tracker.is_on:
            tracker.makes(artifacts.expert(recipe))
    zero.leave()
    meet()  # before the first one uploads, which can take longer than a group that trains waits
    with next_job(recipe, tracker, "decode", is_main_process) as tracker:
        if decode_shares(experiments):
            print(decode_stage(recipe, experiments, tracker))


if __name__ == "__main__":
    if code := interruptible(main):
        sys.exit(code)

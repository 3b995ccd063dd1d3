"""Recipe -> expert -> proxy-tuned bases -> report, in one run.

    accelerate launch train/sft.py recipes/gsm7b.yaml [section.key=value ...]

Run it again after an interruption and it goes on where it stopped.
"""

import gc
import logging
import shutil
import sys

import torch

from decode.environment import describe_environment
from decode.experiment import check
from decode.folder import RunFolder, write_json
from decode.planning import plan
from decode.stage import decode_stage, recipe_from_command_line, start_logging, track
from decode.tracking import NullTracker
from recipes.schema import Recipe, save_recipe
from train.callbacks import TrackingCallback
from train.rows_report import say_what_is_trained_on
from train.trainer import sft_config, train
from train.training import claim, trainings
from train.training_rows import TrainingRows, training_rows

logger = logging.getLogger("train.sft")


def train_all(recipe: Recipe, rows: TrainingRows, tracker: NullTracker) -> None:
    """Every training that is not finished yet."""
    for training in trainings(recipe):
        if training.is_complete:
            logger.info("%s is complete: not trained again", training.target)
            continue
        logger.info("training %s on %s", training.target, rows)
        config = sft_config(training, recipe.seed, recipe.name)
        train(training, rows, config, [TrackingCallback(tracker.log, training.prefix)])
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    checkpoints = RunFolder(recipe.output_dir).path / "checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)  # all trainings are complete


def main() -> None:
    """Recipe, logging, data, models, run, report."""
    recipe = recipe_from_command_line(__doc__)
    is_main_process = start_logging()
    folder = RunFolder(recipe.output_dir)

    try:  # everything a user can have wrong, before any weights load
        experiments = plan(recipe)
        rows = training_rows(recipe, [e for e, _ in experiments]) if recipe.trains else None
        for experiment, _ in experiments:
            check(experiment)
        configs = [sft_config(each, recipe.seed, recipe.name) for each in trainings(recipe)]
        claim(recipe, "" if rows is None else rows.digest)
    except ValueError as error:
        sys.exit(f"error: {error}")

    if is_main_process:
        folder.path.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, folder.recipe)
        write_json(folder.environment, describe_environment())
    tracker = track(recipe, "train", is_main_process)

    if rows is not None:
        if is_main_process:
            say_what_is_trained_on(rows, trainings(recipe)[0], configs[0], folder, tracker)
        train_all(recipe, rows, tracker)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if not is_main_process:
        return  # one process decodes, with all the memory there is
    if recipe.expert.trained is None:
        tracker.artifact(folder.expert, f"{recipe.name}-expert")
    print(decode_stage(recipe, experiments, tracker))


if __name__ == "__main__":
    main()

"""What `train/sft.py` does to train the expert, with a clock among the callbacks.

    python benchmarks/our_training.py RECIPE.yaml CLOCK.json [section.key=value ...]

`train.py` starts it.
"""

import sys
from pathlib import Path

# A script's own folder comes first on the path, where train.py would be taken for the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.step_clock import StepClock
from decode.stage.command import start_logging
from decode.stage.planning import plan
from decode.tracking.job import NullTracker
from recipes.schema.recipe import load_recipe
from train.claims import claim
from train.rows.training_rows import training_rows
from train.trainer import TrackingCallback, train, trainer_config
from train.training import trainings


def main() -> None:
    recipe_file, clock_file, *overrides = sys.argv[1:]
    start_logging()
    recipe = load_recipe(recipe_file, overrides)
    rows = training_rows(recipe, [experiment for experiment, _ in plan(recipe)])
    expert = trainings(recipe)[0]
    config = trainer_config(expert, recipe.seed, recipe.name)
    claim(recipe, [expert], rows.digest)
    curves = TrackingCallback(NullTracker().log, expert.prefix)
    train(expert, rows, config, [curves, StepClock(clock_file)])


if __name__ == "__main__":
    main()

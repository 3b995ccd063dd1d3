"""Recipe with preferences -> expert -> proxy-tuned bases -> report, in one run.

    accelerate launch train/dpo.py recipes/mini/refusals.yaml [section.key=value ...]

SIGTERM and Ctrl-C save a checkpoint and end it unfinished, with exit code 75 or 130. Run it again
after an interruption of any kind, and it goes on where it stopped.
"""

import sys

from decode.jobs.interruption import interruptible
from decode.stage.command import entry, recipe_from_command_line, start_logging, user_errors
from train.divergence import Diverged
from train.job import Job
from train.rows.report import report_rows
from train.rows.training_rows import training_rows
from train.trainer import train, trainer_config


@entry(Diverged)
def main() -> None:
    """Recipe, logging, models, data, run, save and report."""
    job = Job(recipe_from_command_line(__doc__), start_logging(), "dpo")
    with user_errors(ValueError):  # before any weights load
        models = job.models(trainer_config)
        data = job.data(models, training_rows)
        job.claim(models, data)
    tracker = job.train(models, data, report_rows, train)
    if (report := job.decode(models, tracker)) is not None:
        print(report)


if __name__ == "__main__":
    if code := interruptible(main):
        sys.exit(code)

"""The decode stage alone: a recipe and its finished expert -> predictions, metrics, report.

    python decode/run.py recipes/gsm7b.yaml [section.key=value ...]

    accelerate launch --num_processes 4 decode/run.py recipes/gsm7b.yaml  # each a share of the rows

The expert is the finished one that the recipe names (`expert.trained`), or that of the run folder
(`output_dir`), as train/sft.py left it; references are likewise.
"""

import sys

from decode.evaluation.check_record import finished_checks
from decode.evaluation.experiment import check
from decode.evaluation.shares import decode_shares
from decode.jobs.disk import check_writable
from decode.jobs.faults import doing
from decode.jobs.folder import RunFolder
from decode.jobs.interruption import interruptible
from decode.jobs.lock import occupy
from decode.jobs.processes import check_launch
from decode.stage.command import entry, recipe_from_command_line, start_logging, user_errors
from decode.stage.planning import plan
from decode.stage.stage import decode_stage, track
from decode.stage.validation import with_choices
from recipes.schema.recipe import save_recipe


@entry()
def main() -> None:
    """Recipe, data, models, run, report."""
    recipe = recipe_from_command_line(__doc__)
    is_main_process = start_logging()
    folder = RunFolder(recipe.output_dir)

    with user_errors(ValueError):  # before any weights load
        check_launch()
        if is_main_process:
            check_writable("output_dir", folder.recipe)
        with doing("reading the models' configs, tokenizers and questions"):
            experiments = plan(recipe)
            for experiment, _ in experiments:
                check(experiment)
        needs = [folder.expert] if recipe.expert.trained is None else []
        needs += [folder.reference(b.slug) for b in recipe.decode.bases if b.tune_reference]
        for needed in needs:
            if not needed.is_dir():
                raise ValueError(f"{needed}: not there yet; train it with train/{recipe.method}.py")
        finished_checks(folder)
        if is_main_process:
            occupy(folder.path)

    with track(recipe, "decode", is_main_process) as tracker:
        experiments = with_choices(experiments)
        if decode_shares(experiments):
            save_recipe(recipe, folder.recipe)
            print(decode_stage(recipe, experiments, tracker))


if __name__ == "__main__":
    if code := interruptible(main):
        sys.exit(code)

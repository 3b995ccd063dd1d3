"""The decode stage alone: a recipe and its finished expert -> predictions, metrics, report.

    python decode/run.py recipes/gsm7b.yaml [section.key=value ...]

The expert and the references are those of the run folder (`output_dir`), as train/sft.py left them.
"""

import sys

from data import TASKS
from decode.experiment import check
from decode.folder import RunFolder
from decode.stage import decode_stage, plan, recipe_from_command_line, start_logging, track
from recipes.schema import save_recipe


def main() -> None:
    """Recipe, data, models, run, report."""
    recipe = recipe_from_command_line(__doc__)
    start_logging()
    folder = RunFolder(recipe.output_dir)

    try:
        task = TASKS[recipe.task.name]
        questions = task.eval_rows(recipe.task.eval, recipe.task.eval_limit)
        experiment = plan(recipe, task, questions)
        check(experiment)
        references = [folder.reference(b.slug) for b in recipe.decode.bases if b.tune_reference]
        for needed in (folder.expert, *references):
            if not needed.is_dir():
                raise ValueError(f"{needed}: not there yet; train it with train/sft.py")
    except ValueError as error:
        sys.exit(f"error: {error}")

    save_recipe(recipe, folder.recipe)
    tracker = track(recipe, "decode")
    print(decode_stage(recipe, experiment, tracker))


if __name__ == "__main__":
    main()

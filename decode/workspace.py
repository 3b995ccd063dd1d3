"""A recipe's W&B workspace, created by script: results, curves over alpha, training, speed.

    pip install wandb-workspaces
    python decode/workspace.py recipes/gsm7b.yaml wandb.entity=my-team [section.key=value ...]

The view belongs to the project (`wandb.entity`, `wandb.project`), is called after the recipe, and
shows its tasks and bases in all runs of the project, grouped by experiment. Each call makes a new
view. Where that is not possible, docs/wandb.md says how to lay it out by hand.
"""

from decode.engine.rule import Alpha
from decode.stage.command import entry, recipe_from_command_line, start_logging, user_errors
from decode.stage.validation import rule_of
from decode.tracking.panels import Section, ShownBase, sections
from decode.tracking.workspace import save_workspace
from recipes.schema.recipe import Recipe


@entry()
def main() -> None:
    """Recipe, layout, W&B."""
    recipe = recipe_from_command_line(__doc__)
    start_logging()
    place, shown = recipe.wandb, layout(recipe)
    with user_errors(ValueError):
        print(f"workspace: {save_workspace(recipe.name, place.entity, place.project, shown)}")


def layout(recipe: Recipe) -> list[Section]:
    """The sections of a recipe's workspace."""
    bases = [
        ShownBase(base.slug, base.tune_reference or base.tuned is not None, base.tune_reference)
        for base in recipe.decode.bases
    ]
    tasks = [evaluation.label for evaluation in recipe.evaluations]
    decode, trains = recipe.decode, recipe.expert.trained is None
    alphas = [Alpha(alpha, rule_of(decode.rule)) for alpha in decode.alphas]
    return sections(tasks, bases, alphas, trains, decode.choose is not None)


if __name__ == "__main__":
    main()

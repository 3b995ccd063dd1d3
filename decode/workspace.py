"""A recipe's W&B workspace, created by script: results, curves over alpha, training, speed.

    pip install wandb-workspaces
    python decode/workspace.py recipes/gsm7b.yaml wandb.entity=my-team [section.key=value ...]

The view belongs to the project (`wandb.entity`, `wandb.project`), is called after the recipe, and
shows its tasks and bases in all runs of the project, grouped by experiment. Each call makes a new
view. Where that is not possible, docs/wandb.md says how to lay it out by hand.
"""

import sys
from typing import Any

from decode.stage.stage import recipe_from_command_line, start_logging
from decode.tracking.connection import find_obstacle
from decode.tracking.panels import Panel, Section, ShownBase, sections
from recipes.schema.recipe import Recipe

BY_HAND = "docs/wandb.md says how to lay the workspace out by hand"


def main() -> None:
    """Recipe, layout, W&B."""
    recipe = recipe_from_command_line(__doc__)
    start_logging()
    try:
        print(f"workspace: {save(recipe)}")
    except ValueError as error:
        sys.exit(f"error: {error}")


def layout(recipe: Recipe) -> list[Section]:
    """The sections of a recipe's workspace."""
    bases = [
        ShownBase(base.slug, base.tune_reference or base.tuned is not None, base.tune_reference)
        for base in recipe.decode.bases
    ]
    tasks = [evaluation.label for evaluation in recipe.evaluations]
    return sections(tasks, bases, recipe.decode.alphas, recipe.expert.trained is None)


def save(recipe: Recipe) -> str:
    """Create the view on the server; returns where it is.

    Raises:
        ValueError: in one line what is missing, or what the server said.
    """
    place = recipe.wandb
    if place.project is None or place.entity is None:
        key = "project" if place.project is None else "entity"
        raise ValueError(f"wandb.{key}: a workspace belongs to one; give wandb.{key}=...")
    import wandb  # a second to import

    found = wandb.setup().settings
    if obstacle := find_obstacle(found.base_url, found.api_key):
        raise ValueError(f"W&B cannot be reached ({obstacle}); {BY_HAND}")
    view = build(recipe.name, place.entity, place.project, layout(recipe))
    try:
        view.save()
        return view.url
    except Exception as error:  # many kinds: no such project, no permission, a server too old
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"W&B did not take the workspace ({said:.200}); {BY_HAND}") from None


def build(name: str, entity: str, project: str, shown: list[Section]) -> Any:
    """A `wandb_workspaces.workspaces.Workspace`, not yet on any server.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as reports  # pyright: ignore[reportMissingImports]
        import wandb_workspaces.workspaces as workspaces  # pyright: ignore[reportMissingImports]
        from wandb_workspaces import expr  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        if not (error.name or "").startswith("wandb_workspaces"):
            raise
        raise ValueError("this needs `pip install wandb-workspaces`") from None

    def drawn(panel: Panel) -> Any:
        if panel.kind == "bars":
            return reports.BarPlot(title=panel.title, metrics=list(panel.keys))
        return reports.LinePlot(title=panel.title, x=panel.x, y=list(panel.keys))

    return workspaces.Workspace(
        name=name,
        entity=entity,
        project=project,
        sections=[
            workspaces.Section(
                name=section.name, panels=[drawn(panel) for panel in section.panels], is_open=True
            )
            for section in shown
        ],
        runset_settings=workspaces.RunsetSettings(
            groupby=[expr.Metric("Group")],
            pinned_columns=["run:displayName", "run:jobType", "run:tags"],
        ),
    )


if __name__ == "__main__":
    main()

"""A view of a W&B project, made through `wandb-workspaces`: sections of panels, runs in groups."""

from collections.abc import Sequence
from typing import Any

from .connection import find_obstacle
from .panels import Panel, Section

BY_HAND = "docs/wandb.md says how to lay the workspace out by hand"


def save_workspace(
    name: str, entity: str | None, project: str | None, shown: Sequence[Section]
) -> str:
    """The address of a new view on the server.

    Raises:
        ValueError: in one line what is missing, or what the server said.
    """
    if project is None or entity is None:
        key = "project" if project is None else "entity"
        raise ValueError(f"wandb.{key}: a workspace belongs to one; give wandb.{key}=...")
    import wandb  # a second to import

    found = wandb.setup().settings
    if obstacle := find_obstacle(found.base_url, found.api_key):
        raise ValueError(f"W&B cannot be reached ({obstacle}); {BY_HAND}")
    view = build_workspace(name, entity, project, shown)
    try:
        view.save()
        return view.url
    except Exception as error:  # many kinds: no such project, no permission, a server too old
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"W&B did not take the workspace ({said:.200}); {BY_HAND}") from None


def build_workspace(name: str, entity: str, project: str, shown: Sequence[Section]) -> Any:
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

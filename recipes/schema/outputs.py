"""The sections of a run's outputs: its analysis and its logging."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from .section import Section

NOT_IN_A_NAME = "/\\#?%:"  # of a W&B project


class Analyze(Section):
    """What decode/analyze.py looks at, in a finished run."""

    num_rows: int | None = Field(default=100, ge=1)
    """The first so many completions of each proxy are read token by token; null is all."""
    alpha: float | None = None
    """Whose completions: one of decode.alpha; null is 1, or the nearest to it."""
    trade_off: tuple[str, str] | None = None
    """Two columns to draw against each other over alpha: the metric, a part of a judged score, or a
    number in the prediction rows; `FOLDER:column` is another run's. null is num_tokens and the
    metric."""


class Wandb(Section):
    """Where the run is logged; without a key or a network it goes on offline."""

    project: str | None = None
    """W&B project; null switches W&B off."""
    entity: str | None = None
    """User or team."""
    group: str | None = None
    """Runs to show together; null is the recipe's name: all jobs of one experiment."""
    tags: tuple[str, ...] = ()
    """Labels to filter by, beside those of the task, the bases, the expert and the adapter."""
    mode: Literal["online", "offline", "disabled"] = "online"
    """online falls back to offline where there is no key or network."""

    @field_validator("project", "entity", "group")
    @classmethod
    def _of_wandb(cls, value: str | None, found: ValidationInfo) -> str | None:
        refused = "" if found.field_name == "group" else NOT_IN_A_NAME
        if value is None:
            return None
        if not 1 <= len(value) <= 128 or value != value.strip() or not value.isprintable():
            raise ValueError("W&B takes 1 to 128 printable characters, with no space at an end")
        if any(character in refused for character in value):
            raise ValueError(
                f"W&B takes none of {' '.join(refused)} here; wandb.entity is the team, "
                "wandb.project the project in it"
            )
        return value

    @field_validator("tags")
    @classmethod
    def _short(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not 1 <= len(tag) <= 64 for tag in value):
            raise ValueError("a tag has 1 to 64 characters on W&B")
        return value

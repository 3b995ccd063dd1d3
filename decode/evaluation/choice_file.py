"""`choice.json`: what validation rows chose for each base of one task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..engine.rule import Alpha, Rule
from ..jobs.files import FileChanged, read_json, write_json
from ..jobs.folder import MAKE_AGAIN
from .metrics import Choice


def write_choices(path: Path, choices: Mapping[str, Choice]) -> None:
    """Replace the file at once; choices are by base's slug."""
    write_json(path, {slug: choice.model_dump(mode="json") for slug, choice in choices.items()})


def read_choices(path: Path) -> dict[str, Choice]:
    """The choices by base's slug.

    Raises:
        FileChanged: the file is not one that a run wrote.
    """
    found: Any = read_json(path, MAKE_AGAIN)
    try:
        return {slug: Choice.model_validate(one, strict=False) for slug, one in found.items()}
    except (ValueError, AttributeError):
        raise FileChanged(f"{path}: not what a run wrote; {MAKE_AGAIN}") from None


def alpha_of(choice: Choice) -> Alpha:
    """The chosen alpha with its rule."""
    return Alpha(choice.alpha, Rule(**choice.settings))  # pyright: ignore[reportArgumentType]

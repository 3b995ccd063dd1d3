"""DeepSpeed's files by name: `sft.deepspeed: zero3` is `recipes/deepspeed/zero3.json`."""

import json
import os
from pathlib import Path
from typing import Any

from .keys import KeyProblem

DEEPSPEED = Path(__file__).parents[1] / "deepspeed"


def deepspeed_settings(key: str, choice: Any) -> dict[str, Any] | None:
    """What DeepSpeed is to be told: a name or a path as the file's contents; None is no DeepSpeed.

    A name is one of `recipes/deepspeed/` wherever the run is started; anything with a slash or an
    ending is a path.

    Args:
        key: the dotted key that holds the choice.
        choice: a name, a path, DeepSpeed's own keys, or None.

    Raises:
        KeyProblem: no such name or file, or one that does not say which ZeRO stage.
    """
    if choice is None:
        return None
    settings = choice if isinstance(choice, dict) else _read(key, str(choice))
    stage = (settings.get("zero_optimization") or {}).get("stage")
    if stage not in (0, 1, 2, 3):
        raise KeyProblem(key, f"found zero_optimization.stage {stage!r}, expected 0, 1, 2 or 3")
    return settings


def _read(key: str, choice: str) -> dict[str, Any]:
    path = Path(choice)
    if path.name == choice and not path.suffix:
        path = DEEPSPEED / f"{choice}.json"
    if not os.path.isfile(path):
        names = ", ".join(sorted(file.stem for file in DEEPSPEED.glob("*.json")))
        raise KeyProblem(
            key,
            f"found {choice!r:.200}, which is neither a file in {Path.cwd()} nor one of {names}",
        )
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise KeyProblem(key, f"found {choice!r}, not valid JSON: {error}") from None
    if not isinstance(settings, dict):
        raise KeyProblem(key, f"found {choice!r}, expected a JSON object in it")
    return settings

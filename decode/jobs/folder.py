"""A run's folder: where each result is kept, and the settings it was made with.

`claim` records the settings of a result and refuses to continue it with others, so that no result
mixes two settings.
"""

import json
from collections.abc import Collection
from glob import escape
from pathlib import Path
from typing import Any

from .files import write_json


class SettingsChanged(ValueError):
    """A result in a run folder was begun with other settings."""


class RunFolder:
    """`runs/<name>/`: the paths of everything a run writes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def expert(self) -> Path:
        return self.path / "expert"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def checks(self) -> Path:
        """The proxy checks made while the expert was trained."""
        return self.path / "proxy_check" / "checks.jsonl"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def training_rows(self) -> Path:
        """The report of the expert's training rows."""
        return self.path / "training_rows.json"

    def reference(self, slug: str) -> Path:
        """Where the directly tuned base of that name is kept."""
        return self.path / "references" / slug

    def checkpoints(self, model: Path) -> Path:
        """Where the unfinished training of `model` (the expert or a reference) is kept."""
        return self.path / "checkpoints" / model.relative_to(self.path)

    def task(self, name: str) -> "RunFolder":
        """The folder of a further task that the run's models are evaluated on."""
        return RunFolder(self.path / "tasks" / name)

    def predictions(self, system: str) -> Path:
        """The finished rows of one system."""
        return self.path / "predictions" / f"{system}.jsonl"

    def grades(self, system: str) -> Path:
        """The verdicts on one system's rows, if they are judged after decoding."""
        return self.path / "grades" / f"{system}.jsonl"

    def judgements(self, judge: str) -> Path:
        """Every answer of one judge, about all systems."""
        return self.path / "judgements" / f"{judge}.jsonl"

    def decoding(self, system: str) -> Path:
        """The statistics of one system's decoding."""
        return self.path / "decoding" / f"{system}.json"

    @property
    def analysis(self) -> Path:
        return self.path / "analysis"

    def tokens(self, system: str) -> Path:
        """A proxy's completions, token by token."""
        return self.analysis / system / "tokens.jsonl"

    def settings(self, result: Path) -> Path:
        """The settings a result was made with."""
        place = result.relative_to(self.path)
        name = place.name.removesuffix(".jsonl") + ".json"  # a model's name may hold dots
        return self.path / "settings" / place.with_name(name)

    def claim(
        self, result: Path, settings: dict[str, Any], free: Collection[str] = frozenset()
    ) -> None:
        """Record the settings of `result`; once it is begun, check that they are the same.

        Args:
            settings: all that decide the result, in sections if need be.
            free: dotted keys that may change all the same.

        Raises:
            SettingsChanged: the result exists, or has checkpoints, from other settings; names them.
        """
        record = self.settings(result)
        wanted = json.loads(json.dumps(settings))
        is_begun = result.exists() or bool(early_files(result))
        is_begun = is_begun or any(self.checkpoints(result).glob("*"))
        if not (record.exists() and is_begun):
            write_json(record, wanted)
            return
        found, wanted = _dotted(json.loads(record.read_text("utf-8"))), _dotted(wanted)
        changed = [
            key
            for key in {**found, **wanted}
            if found.get(key) != wanted.get(key) and key not in free
        ]
        if changed:
            key = changed[0]
            more = f" (and {', '.join(changed[1:])})" if changed[1:] else ""
            raise SettingsChanged(
                f"{result} was made with {key} {_brief(found.get(key))}, and this recipe has "
                f"{_brief(wanted.get(key))}{more}; choose another output_dir, or delete "
                f"{result} and {record} to make it again"
            )


def early_files(path: Path) -> list[Path]:
    """The files of rows that were finished before earlier rows of a JSON-lines file."""
    stem = path.name.removesuffix(".jsonl")
    return sorted(path.parent.glob(f"{escape(stem)}.early*.jsonl"))


def _dotted(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without sections, each under its dotted key."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": deep for inner, deep in _dotted(value).items()}
        else:
            flat[key] = value
    return flat


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."

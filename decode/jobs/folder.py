"""A run's folder: where each result is kept, and the settings it was made with.

`claim` records the settings of a result and refuses to continue it with others, so that no result
mixes two settings. A folder may be moved: models are compared by the digest of their weights where
there is one, and paths inside the run are recorded relative to it.
"""

import json
import os
from collections.abc import Collection, Iterable
from glob import escape
from pathlib import Path
from typing import Any

from .files import FileChanged, file_digest, json_digest, read_json, read_rows, write_json
from .seals import Seals

MAKE_AGAIN = "run decode/run.py again, which takes finished rows as they are"
MODEL_NAMES = ("name", "model")  # keys that "weights" beside them says more than


class SettingsChanged(FileChanged):
    """A result in a run folder was begun with other settings."""


class RunFolder:
    """`runs/<name>/`: the paths of everything a run writes.

    Args:
        run: the folder of the whole run, where this is a further task's.
        whole: the folder that is made anew as a whole, where this is a part of it.
    """

    def __init__(
        self, path: str | Path, run: Path | None = None, whole: Path | None = None
    ) -> None:
        self.path = Path(path)
        self._run = run or self.path
        self._whole = whole

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
    def choice(self) -> Path:
        """What validation rows chose for each base."""
        return self.path / "choice.json"

    def rung(self, slug: str, number: int) -> "RunFolder":
        """The folder of the validation rows that a base's candidates complete at one rung."""
        whole = self.path / "choice"
        return RunFolder(whole / slug / f"rung{number}", self._run, whole)

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def chat_date(self) -> Path:
        """What chat templates that ask for today's date are told."""
        return self.path / "chat_date.txt"

    @property
    def training_rows(self) -> Path:
        """The report of the expert's training rows."""
        return self.path / "training_rows.json"

    @property
    def training_log(self) -> Path:
        """What the expert's training logged."""
        return self.expert / "training_log.json"

    def reference(self, slug: str) -> Path:
        """Where the directly tuned base of that name is kept."""
        return self.path / "references" / slug

    def checkpoints(self, model: Path) -> Path:
        """Where the unfinished training of `model` (the expert or a reference) is kept."""
        return self.path / "checkpoints" / model.relative_to(self.path)

    def task(self, name: str) -> "RunFolder":
        """The folder of a further task that the run's models are evaluated on."""
        return RunFolder(self.path / "tasks" / name, self._run)

    def predictions(self, system: str) -> Path:
        """The finished rows of one system."""
        return self.path / "predictions" / f"{system}.jsonl"

    def grades(self, system: str) -> Path:
        """The verdicts on one system's rows, if they are judged after decoding."""
        return self.path / "grades" / f"{system}.jsonl"

    def judgements(self, judge: str) -> Path:
        """Every answer of one judge, about all systems."""
        return self.path / "judgements" / f"{judge}.jsonl"

    def shown(self, base: str) -> Path:
        """Every answer of a base behind an endpoint, about all tasks."""
        return self._run / "endpoints" / f"{base}.jsonl"

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
            SettingsChanged: the result exists, or has checkpoints, from other settings (names
                them), or from settings that are no longer on record.
        """
        record = self.settings(result)
        wanted = json.loads(json.dumps(_inside(settings, self._run)))
        early = early_files(result)
        is_begun = result.exists() or bool(early) or any(self.checkpoints(result).glob("*"))
        if is_begun and not record.exists():
            seals = Seals(self._key(result, wanted), is_needed=True)
            files = [result, *early] if result.is_file() or early else []
            rows = [row for file in files for row in read_rows(file, is_own=False)]
            if not files or not all(map(seals.fits, rows)):
                raise SettingsChanged(
                    f"{record}: missing, and {result} does not show that it was made with this "
                    f"recipe's settings; put the record back, choose another output_dir, or delete "
                    f"{result} to make it again"
                )
        if not (record.exists() and is_begun):
            write_json(record, wanted)
            return
        found = _inside(self._record(result), self._run)
        found, wanted = _dotted(found), _dotted(wanted)
        changed = [
            key
            for key in {**found, **wanted}
            if found.get(key) != wanted.get(key)
            and key not in free
            and not _is_the_same(key, found, wanted)
        ]
        if changed:
            key = changed[0]
            more = f" (and {', '.join(changed[1:])})" if changed[1:] else ""
            raise SettingsChanged(
                f"{result} was made with {key} {_brief(found.get(key))}, and this recipe has "
                f"{_brief(wanted.get(key))}{more}; choose another output_dir, or delete "
                f"{self._whole or f'{result} and {record}'} to make it again"
            )

    def seals(self, result: Path, *made_with: Path, key: str = "rows") -> Seals:
        """The seals of a result's rows, by the settings on record.

        Args:
            made_with: the results on whose records they are; none is its own.
            key: of the first record, there if what is sealed needs its seal.
        """
        found = [self._record(one) for one in made_with or (result,) if self.settings(one).exists()]
        if not found:
            return Seals()
        return Seals(self._key(result, *found), is_needed=key in found[0])

    def read(self, result: Path) -> list[dict[str, Any]]:
        """The rows of a result, for reading only.

        Raises:
            FileChanged: one of them is not what the run wrote; names it.
        """
        rows = read_rows(result, is_own=False)
        self.seals(result).check(result, rows)
        return rows

    def keep(self, result: Path, made_from: Iterable[Path] = ()) -> None:
        """Record the content of a file that is written at once, and that of its sources."""
        sources = {path.relative_to(self.path).as_posix(): file_digest(path) for path in made_from}
        write_json(self.settings(result), {"content": file_digest(result), "made_from": sources})

    def check_kept(self, result: Path, remedy: str = MAKE_AGAIN) -> None:
        """Raises FileChanged if the file is not the one that was kept, made from what is there."""
        if not self.settings(result).exists():
            if (self.path / "settings" / "predictions").exists():
                raise FileChanged(f"{result}: {self.settings(result)} is missing; {MAKE_AGAIN}")
            return  # of an earlier version, or copied without its predictions
        found = self._record(result)
        made_from = found.get("made_from", {})
        if found.get("content") != file_digest(result) or not isinstance(made_from, dict):
            raise FileChanged(
                f"{result}: not what the run wrote, by {self.settings(result)} (one of them "
                f"edited, or from another run); {remedy}"
            )
        for place, digest in made_from.items():
            source = self.path / place
            if not source.exists() or file_digest(source) != digest:
                raise FileChanged(
                    f"{result}: not made from {source} as it is, by {self.settings(result)} (one "
                    f"of them edited, gone, or from another run); {remedy}"
                )

    def check_extra(self, result: Path) -> None:
        """Raises FileChanged if a file that no result needs is there, and not as it was kept."""
        if result.exists() and self.settings(result).exists():  # not of an earlier version
            self.check_kept(result, "put it back, or delete it: results do not need it")

    def _record(self, result: Path) -> dict[str, Any]:
        return read_json(self.settings(result))

    def _key(self, result: Path, *settings: dict[str, Any]) -> str:
        place = result.relative_to(self.path).as_posix()
        return json_digest([place, *map(_by_weights, settings)])


def early_files(path: Path) -> list[Path]:
    """The files of rows that were finished before earlier rows of a JSON-lines file."""
    stem = path.name.removesuffix(".jsonl")
    return sorted(path.parent.glob(f"{escape(stem)}.early*.jsonl"))


def _inside(value: Any, run: Path) -> Any:
    """Settings whose paths inside the run are relative to it."""
    if isinstance(value, dict):
        return {key: _inside(item, run) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_inside(item, run) for item in value]
    if isinstance(value, str):
        for place in (str(run), os.path.abspath(run)):
            if value.startswith(place + os.sep):
                return value.removeprefix(place + os.sep)
    return value


def _by_weights(value: Any) -> Any:
    """Settings without the names of models whose weights have a digest."""
    if isinstance(value, list):
        return [_by_weights(item) for item in value]
    if not isinstance(value, dict):
        return value
    left_out = MODEL_NAMES if value.get("weights") else ()
    return {key: _by_weights(item) for key, item in value.items() if key not in left_out}


def _dotted(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without sections, each under its dotted key; a list's index is a key as well."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": deep for inner, deep in _dotted(value).items()}
        else:
            flat[key] = value
    return flat


def _is_the_same(key: str, found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether values differ in words only: a model's name beside its weights, or what is new."""
    section, _, name = key.rpartition(".")
    if name in MODEL_NAMES:
        weights = f"{section}.weights"
        return found.get(weights) is not None and found.get(weights) == wanted.get(weights)
    # Earlier records do not have these.
    return key not in found and name in ("weights", "rows", "decoding")


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."

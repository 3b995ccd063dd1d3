"""A run's folder: what is on disk is always whole, and never mixes two settings.

Files are written under a temporary name and renamed; predictions are appended row by row, so a
killed run keeps every finished row. `claim` records the settings a result was made with and
refuses to continue it with others.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable
from glob import escape
from pathlib import Path
from typing import Any

EDGE_BYTES = 1 << 20


class SettingsChanged(ValueError):
    """A run folder was begun with other settings than those it is to go on with."""


class RunFolder:
    """`runs/<name>/`: where everything a run leaves behind has its place."""

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
        """What the expert was trained on, counted."""
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
        """What one system's rows were found to be worth, where that is judged afterwards."""
        return self.path / "grades" / f"{system}.jsonl"

    def judgements(self, judge: str) -> Path:
        """Everything a judge said, about all systems."""
        return self.path / "judgements" / f"{judge}.jsonl"

    def decoding(self, system: str) -> Path:
        """What one system's decoding took."""
        return self.path / "decoding" / f"{system}.json"

    @property
    def analysis(self) -> Path:
        return self.path / "analysis"

    def tokens(self, system: str) -> Path:
        """A proxy's completions, token by token."""
        return self.analysis / system / "tokens.jsonl"

    def settings(self, result: Path) -> Path:
        """What a result was made with."""
        place = result.relative_to(self.path)
        name = place.name.removesuffix(".jsonl") + ".json"  # a model's name may hold dots
        return self.path / "settings" / place.with_name(name)

    def claim(
        self, result: Path, settings: dict[str, Any], free: Collection[str] = frozenset()
    ) -> None:
        """Record what `result` is made with; once it is begun, a later run must say the same.

        Args:
            settings: what decides the result, in sections if need be.
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
    """Where rows of a JSON-lines file are kept whose turn has not come yet."""
    stem = path.name.removesuffix(".jsonl")
    return sorted(path.parent.glob(f"{escape(stem)}.early*.jsonl"))


def read_rows(path: Path, is_own: bool = True) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file that may have been cut off while its last line was written.

    A line that was cut off is removed from the file, so that rows can be appended after it; not if
    the file is another process's, which may be writing that line now.
    """
    if not path.exists():
        return []
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole) and is_own:
        with path.open("r+b") as file:
            file.truncate(end)
    return [json.loads(line) for line in whole[:end].split(b"\n") if line.strip()]


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add one row to a JSON-lines file; it is on its way to disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a JSON-lines file at once."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file at once."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a text file at once: a reader sees the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_text(text, "utf-8")
    partial.replace(path)


def weights_digest(folder: str) -> str | None:
    """A short name for the weights in a local folder, None for a hub id.

    Made from the size and both ends (1 MiB each) of every weight file: enough to tell one training
    from the next, without reading 140 GB.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(EDGE_BYTES))
            file.seek(max(0, size - EDGE_BYTES))
            digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()[:16]


def text_digest(texts: Iterable[str]) -> str:
    """A short name for a list of texts."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:16]


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

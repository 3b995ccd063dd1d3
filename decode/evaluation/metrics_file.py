"""`metrics.json` as it is written and read: by this module alone.

A file is read strictly: a key that is missing, unknown or of another type is an error that names
it. Files of earlier versions carry no slugs, no k of pass@k and no folders of further tasks; they
are completed as they are read (`_completed`), by the rules they were written with.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ..jobs.files import FileChanged, read_json, write_json
from ..jobs.seals import Seals, bare
from .metrics import Decoding, Metrics, Record

AnyRecord = TypeVar("AnyRecord", bound=Record)


def as_json(metrics: Metrics) -> dict[str, Any]:
    """The contents of metrics.json."""
    return metrics.model_dump(mode="json", by_alias=True, exclude_unset=True)


def write_metrics(path: Path, metrics: Metrics) -> None:
    """Replace a metrics.json at once."""
    write_json(path, as_json(metrics))


def read_metrics(path: Path) -> Metrics:
    """The metrics in the file at `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: in one line the file, the key and what is wrong with it.
    """
    remedy = "decode/run.py writes metrics.json again from the run's predictions"
    return _read(Metrics, path, remedy, _completed)


def read_decoding(path: Path, seals: Seals = Seals()) -> Decoding:  # noqa: B008  (frozen)
    """What one system's decoding took, as the file at `path` says.

    Raises:
        FileChanged: it is not what the run wrote there.
        ValueError: in one line the file, the key and what is wrong with it.
    """
    remedy = "delete it: results do not need it"
    found = _read(
        Decoding, path, remedy, lambda tree: bare(tree) if isinstance(tree, dict) else tree
    )
    if not seals.fits(read_json(path, remedy)):
        raise FileChanged(f"{path}: not what the run wrote (edited, or from another run); {remedy}")
    return found


def _read(
    kind: type[AnyRecord],
    path: Path,
    remedy: str,
    complete: Callable[[Any], Any] = lambda tree: tree,
) -> AnyRecord:
    try:
        # As JSON, where strictness still lets a list become a tuple and an int a float.
        return kind.model_validate_json(json.dumps(complete(read_json(path, remedy))))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "the file"
        texts = {"missing": "missing", "extra_forbidden": "unknown key"}
        found = f"found {json.dumps(problem['input']):.60}; {problem['msg']}"
        text = texts.get(problem["type"], found)
        raise FileChanged(f"{path}: {key}: {text}; {remedy}") from None


def _completed(tree: Any) -> Any:
    """A file's contents, with the keys that files of earlier versions lack."""
    tree = _with(tree, "pass_at", "metric", _earlier_k)
    if not isinstance(tree, dict):
        return tree
    for key in ("bases", "mean_gap_closed"):
        if isinstance(entries := tree.get(key), list):
            tree[key] = [_with(entry, "slug", "model", earlier_slug) for entry in entries]
    if isinstance(further := tree.get("also"), list):
        entries = map(_completed, further)
        tree["also"] = [_with(entry, "folder", "task", _earlier_folder) for entry in entries]
    return tree


def _with(entry: Any, key: str, source: str, rule: Callable[[str], Any]) -> Any:
    """The entry, with a missing `key` made by the rule from another key's text."""
    if isinstance(entry, dict) and key not in entry and isinstance(entry.get(source), str):
        return {**entry, key: rule(entry[source])}
    return entry


def earlier_slug(model: str) -> str:
    """A base's slug by the rule of earlier versions, whose files do not hold it."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def _earlier_k(metric: str) -> int | None:
    k = metric.removeprefix("pass@")
    return int(k) if k != metric and k.isdecimal() else None


def _earlier_folder(task: str) -> str:
    return f"tasks/{task.removesuffix('-paper')}"

"""The lineage of results as W&B artifacts: rows -> expert -> evaluation.

A version of an artifact is its contents. Rows are described, not uploaded: a small JSON with their
digest and number, so that all runs on the same rows point to one version of them. A model that
others made is described likewise. Uploaded are the expert that this run made, and its evaluation.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..evaluation.training_log import training_facts
from ..jobs.files import weights_digest
from ..jobs.folder import RunFolder

MAX_NAME = 128  # W&B's limit
# Of a run, what its evaluation artifact holds; the rest is plots and W&B's own.
EVALUATION = ("metrics.json", "report.md", "recipe.yaml", "predictions/*.jsonl", "grades/*.jsonl")


@dataclass(frozen=True, slots=True)
class Artifact:
    """Files under a name, with facts about them.

    Attributes:
        files: paths by the names they get inside the artifact.
        texts: small files that are nowhere on disk, by name.
        is_final: the files never change again, so they may be uploaded from where they are; others
            are copied first.
    """

    name: str
    type: Literal["dataset", "model", "evaluation"]
    metadata: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    is_final: bool = False


def rows_artifact(task: str, use: Literal["train", "eval"], facts: Mapping[str, Any]) -> Artifact:
    """A description of the rows a task was trained or evaluated on: source, number, digest."""
    described = json.dumps({"task": task, **facts}, indent=2) + "\n"
    return Artifact(safe_name(f"{task}-{use}"), "dataset", facts, texts={"rows.json": described})


def expert_artifact(run_name: str, folder: Path, facts: Mapping[str, Any]) -> Artifact:
    """The expert that a run trained, with its last training metrics beside `facts`."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    files = {name: path for name, path in files.items() if path.is_file()}
    metadata = {**facts, **training_facts(folder)}
    return Artifact(safe_name(f"{run_name}-expert"), "model", metadata, files, is_final=True)


def finished_expert_artifact(slug: str, name: str, revision: str | None) -> Artifact:
    """A description of an expert that was there before: its name and, in a folder, its digest."""
    facts = {"model": name, "revision": revision, "weights": weights_digest(name)}
    texts = {"model.json": json.dumps(facts, indent=2) + "\n"}
    return Artifact(safe_name(f"{slug}-expert"), "model", facts, texts=texts)


def evaluation_artifact(run_name: str, folder: RunFolder, facts: Mapping[str, Any]) -> Artifact:
    """Everything a decode stage measured: metrics, predictions and verdicts, report, recipe."""
    patterns = [*EVALUATION, *(f"tasks/*/{pattern}" for pattern in EVALUATION)]
    paths = [path for pattern in patterns for path in sorted(folder.path.glob(pattern))]
    files = {path.relative_to(folder.path).as_posix(): path for path in paths}
    return Artifact(safe_name(f"{run_name}-evaluation"), "evaluation", facts, files)


def run_tags(given: Sequence[str], kinds: Mapping[str, Sequence[str]]) -> list[str]:
    """The recipe's tags, and `kind:name` for each name: `task:gsm8k`, `base:Llama-2-13b-hf`."""
    automatic = [f"{kind}:{name}" for kind, names in kinds.items() for name in names]
    return list(dict.fromkeys([*given, *map(_short, automatic)]))


def safe_name(text: str) -> str:
    """`text` as W&B allows it for an artifact or an alias."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:MAX_NAME]


def _short(tag: str) -> str:
    """At most 64 characters, W&B's limit; names differ at their ends more than in the middle."""
    return tag if len(tag) <= 64 else f"{tag[:40]}…{tag[-23:]}"

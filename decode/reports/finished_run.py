"""A finished run, read back from its folder: its metrics, its recipe, and its score on each row."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..evaluation.metrics import Metrics
from ..evaluation.metrics_file import read_metrics
from ..evaluation.training_log import training_facts
from ..jobs.folder import RunFolder

# Where a run is kept and shown, and what its name is, make no difference to its results.
NO_DIFFERENCE = ("name", "output_dir", "wandb")

# Of every sample, by the question's id, prompt and gold answers.
Scores = dict[tuple[str, ...], list[float]]


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """One run.

    Attributes:
        label: what tables call it; no two runs that were read together have the same.
        recipe: as resolved; empty if the folder has none.
        tasks: each task's metrics, the one that was learnt first.
        training: steps and losses of the expert's training; empty if it was trained elsewhere.
    """

    label: str
    folder: RunFolder
    recipe: dict[str, Any]
    tasks: dict[str, Metrics]
    training: dict[str, Any]

    def scores(self, task: str, system: str) -> Scores:
        """What each question's samples were worth in one system, but for questions left open."""
        folder = RunFolder(self.folder.path / (self.tasks[task].folder or ""))
        grades = {row["id"]: row["score"] for row in folder.read(folder.grades(system))}
        found: dict[tuple[str, ...], list[float | None]] = {}
        for row in folder.read(folder.predictions(system)):
            question = (row.get("task_id", row["id"]), row["prompt"], *row.get("answers", ()))
            found.setdefault(question, []).append(grades.get(row["id"], row.get("score")))
        counted: Scores = {}
        for question, scores in found.items():
            known = [score for score in scores if score is not None]
            if len(known) == len(scores):
                counted[question] = known
        return counted


def read_runs(folders: Sequence[str]) -> list[FinishedRun]:
    """The runs in these folders, each under the shortest end of its path that tells it apart.

    Raises:
        ValueError: a folder that holds no finished run, or is named twice.
    """
    paths = [Path(os.path.abspath(folder)) for folder in folders]
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise ValueError(f"{folders[place]}: named twice; a run does not differ from itself")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    labels = ["/".join(path.parts[-depth:]) for path in paths]
    return [_read(RunFolder(f), label) for f, label in zip(folders, labels, strict=True)]


def recipe_differences(runs: Sequence[FinishedRun]) -> dict[str, list[Any]]:
    """Each dotted recipe key the runs differ on, with every run's value; None where absent."""
    leaves = [
        _leaves({key: value for key, value in run.recipe.items() if key not in NO_DIFFERENCE})
        for run in runs
    ]
    keys = dict.fromkeys(key for own in leaves for key in own)
    found = {key: [own.get(key) for own in leaves] for key in keys}
    return {key: values for key, values in found.items() if any(v != values[0] for v in values)}


def _read(folder: RunFolder, label: str) -> FinishedRun:
    try:
        metrics = read_metrics(folder.metrics)
        folder.check_kept(folder.metrics)
        folder.check_extra(folder.training_log)
        recipe = yaml.safe_load(folder.recipe.read_text("utf-8")) if folder.recipe.exists() else {}
    except FileNotFoundError:
        raise ValueError(f"{folder.path}: no finished run (no metrics.json)") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{folder.recipe}: cannot be read ({problem:.100})") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"{folder.recipe}: found {recipe!r:.60}, expected a recipe's sections")
    tasks = {own.task: own for own in metrics.tasks}
    return FinishedRun(label, folder, recipe, tasks, training_facts(folder.expert))


def _leaves(node: Any, key: str = "") -> dict[str, Any]:
    """Values by dotted key; a list of plain values is one value."""
    if isinstance(node, dict) and node:
        parts = node.items()
    elif isinstance(node, list) and any(isinstance(item, dict | list) for item in node):
        parts = enumerate(node)
    else:
        return {key: node}
    found: dict[str, Any] = {}
    for name, value in parts:
        found |= _leaves(value, f"{key}.{name}" if key else str(name))
    return found

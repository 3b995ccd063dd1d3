"""The completions that an analysis reads: those of a finished run, with their scores."""

from typing import Any

from ..evaluation.experiment import Experiment
from ..evaluation.lineup import System
from ..jobs.folder import RunFolder


def read_completions(
    experiment: Experiment, system: System, folder: RunFolder
) -> list[dict[str, Any]]:
    """A proxy's finished predictions in the order of the rows, each with its score.

    Raises:
        ValueError: the run is not finished, or its rows are not those of the recipe, or not
            what the run wrote.
    """
    path = folder.predictions(system.name)
    if not folder.metrics.exists():
        raise ValueError(f"{folder.path}: no finished run (no metrics.json); run train/sft.py")
    rows = folder.read(path)
    if [row["id"] for row in rows] != experiment.row_ids:
        raise ValueError(
            f"{path}: found {len(rows)} rows, not the {len(experiment.row_ids)} of this recipe; "
            "run decode/run.py to the end"
        )
    grades = {row["id"]: row["score"] for row in folder.read(folder.grades(system.name))}
    return [{**row, "score": grades.get(row["id"], row.get("score"))} for row in rows]

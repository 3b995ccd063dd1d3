"""Grades: values of completions that can only be given when all of a system's are decoded.

All rows of a system are graded once they are decoded, by judges or by running them. A grade is kept
in `grades/<system>.jsonl` as soon as it is known, so that a killed run grades no row twice.
"""

from typing import Any

from ..jobs.faults import doing
from ..jobs.files import FileChanged, json_digest
from ..jobs.folder import RunFolder
from ..jobs.terminal import Progress
from .experiment import Experiment
from .prediction_file import PredictionFile

Rows = list[dict[str, Any]]


def grade_all(
    experiment: Experiment, predictions: dict[str, Rows], folder: RunFolder
) -> dict[str, Rows]:
    """The predictions, each with its grade: a "score", and what the grader says beside it."""
    if experiment.grader is None:
        return predictions
    return {
        system: [
            {**row, **grade}
            for row, grade in zip(rows, _grades(experiment, system, rows, folder), strict=True)
        ]
        for system, rows in predictions.items()
    }


def _grades(experiment: Experiment, system: str, rows: Rows, folder: RunFolder) -> Rows:
    """One system's grades, asking for those that are not in the folder yet."""
    assert experiment.grader is not None
    path = folder.grades(system)
    file = PredictionFile(path, [row["id"] for row in rows], seals=folder.seals(path))
    for row in rows:
        graded = file.rows.get(row["id"], {}).get("graded")
        if graded is not None and graded != json_digest(row["completion"]):
            raise FileChanged(
                f"{path}: row '{row['id']}' grades another completion than that in "
                f"{folder.predictions(system)}; delete {path} to grade again"
            )
    places = file.missing
    if places:
        stage, num_rows = f"grading {experiment.task}, {system}", len(rows)
        with (
            doing(stage),
            Progress(stage, num_rows, num_done=num_rows - len(places)) as progress,
        ):
            verdicts = experiment.grader.grade(
                [experiment.question(place) for place in places],
                [rows[place]["completion"] for place in places],
            )
            for place, verdict in zip(places, verdicts, strict=True):
                row = rows[place]
                grade = {key: row[key] for key in ("id", "task_id", "sample") if key in row}
                grade |= {"score": verdict.value, "graded": json_digest(row["completion"])}
                if verdict.parts:
                    grade["parts"] = verdict.parts
                file.add({**grade, **verdict.notes})
                progress.add()
    return file.finish()

"""Grades: what completions are worth, where that takes more than a look at each as it ends.

All rows of a system are graded once they are decoded, by judges or by running them. A grade is kept
in `grades/<system>.jsonl` as soon as it is known, so that a killed run grades no row twice.
"""

import logging
from collections.abc import Sequence
from typing import Any

from ..jobs.folder import RunFolder
from .experiment import Experiment
from .prediction_file import PredictionFile

logger = logging.getLogger(__name__)

Rows = list[dict[str, Any]]


class NothingCountsError(ValueError):
    """The judges left every question open in some system."""


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


def uncounted(experiment: Experiment, predictions: dict[str, Rows]) -> dict[str, Any]:
    """How many questions have no score in some system, hence count in none; and in which."""
    open_in = {
        system: sum(value is None for value in question_values(experiment, rows))
        for system, rows in predictions.items()
    }
    num_open = len(experiment.questions) - len(counted_places(experiment, predictions))
    return {"num_questions": num_open, "by_system": open_in}


def counted_places(experiment: Experiment, predictions: dict[str, Rows]) -> list[int]:
    """The places of the questions that have a score in every system.

    Raises:
        NothingCountsError: there are none.
    """
    values = [question_values(experiment, rows) for rows in predictions.values()]
    places = [
        place
        for place, scores in enumerate(zip(*values, strict=True))
        if all(score is not None for score in scores)
    ]
    if not places:
        raise NothingCountsError(
            f"{experiment.task}: no question has a score in every system, so there is nothing to "
            "compare; the run's judgements/ has what the judges said"
        )
    return places


def question_values(experiment: Experiment, rows: Sequence[dict[str, Any]]) -> list[float | None]:
    """What each question is worth, from the scores of its rows; None if one of them is open."""
    count = experiment.num_samples
    values: list[float | None] = []
    for start in range(0, len(rows), count):
        scores = [row["score"] for row in rows[start : start + count]]
        values.append(None if None in scores else experiment.combine(scores))
    return values


def part_means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean of each part of the grades; rows whose part is open do not count."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.get("parts", {}).items():
            if value is not None:
                found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def _grades(experiment: Experiment, system: str, rows: Rows, folder: RunFolder) -> Rows:
    """One system's grades, asking for those that are not in the folder yet."""
    assert experiment.grader is not None
    file = PredictionFile(folder.grades(system), [row["id"] for row in rows])
    places = file.missing
    if places:
        logger.info("%s, %s: grading %d rows", experiment.task, system, len(places))
        verdicts = experiment.grader.grade(
            [experiment.question(place) for place in places],
            [rows[place]["completion"] for place in places],
        )
        for place, verdict in zip(places, verdicts, strict=True):
            row = rows[place]
            grade = {key: row[key] for key in ("id", "task_id", "sample") if key in row}
            grade |= {"score": verdict.value}
            if verdict.parts:
                grade["parts"] = verdict.parts
            file.add({**grade, **verdict.notes})
    return file.finish()

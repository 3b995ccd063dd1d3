"""A task's training rows, read as a run reads them."""

from data import Task, TrainRow
from train.rows.sources import task_source


def train_rows(task: Task, rows: str | None = None, limit: int | None = None) -> list[TrainRow]:
    """The first `limit` training rows of `rows`, or of the task's own."""
    return task_source(task.name, task, rows, limit).read()

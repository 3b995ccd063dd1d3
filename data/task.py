"""What a task is: rows to train on, rows to evaluate on, and how a completion is scored.

A task is plain data and four functions, one file a task. It knows its prompts, its stops and its
metric, and nothing about models. `data.TASKS` lists them by name.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .rows import HubSource, Row, is_local, read_rows


@dataclass(frozen=True, slots=True)
class TrainRow:
    """A prompt and the completion to learn; the loss is taken on the completion only."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class EvalRow:
    """A prompt and the gold `answers`, any of which is right."""

    id: str
    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """What was read off a completion, and what it is worth (1.0 right, 0.0 wrong)."""

    prediction: str
    value: float


@dataclass(frozen=True, slots=True)
class Task:
    """One benchmark, as its paper runs it.

    Attributes:
        name: as a recipe's `task.name` says it.
        metric: what `score` measures, e.g. "exact_match"; the mean over rows is reported.
        stop: strings that end a completion (they are not part of it).
        max_new_tokens: the protocol's limit on a completion.
        train_source, eval_source: where rows come from unless the recipe names another place.
        train_row, eval_row: one data row to one task row; raise ValueError on a bad row.
        score: (completion, gold answers) -> Score.
    """

    name: str
    metric: str
    stop: tuple[str, ...]
    max_new_tokens: int
    train_source: str | HubSource
    eval_source: str | HubSource
    train_row: Callable[[Row], TrainRow]
    eval_row: Callable[[Row], EvalRow]
    score: Callable[[str, tuple[str, ...]], Score]

    def train_rows(self, source: str | None = None, limit: int | None = None) -> list[TrainRow]:
        """The first `limit` training rows of `source` (a .jsonl path or a hub id)."""
        rows = read_rows(_resolve(source, self.train_source), limit)
        return [self.train_row(row) for row in rows]

    def eval_rows(self, source: str | None = None, limit: int | None = None) -> list[EvalRow]:
        """The first `limit` evaluation rows of `source` (a .jsonl path or a hub id)."""
        rows = read_rows(_resolve(source, self.eval_source), limit)
        return [self.eval_row(row) for row in rows]


def _resolve(source: str | None, default: str | HubSource) -> str | HubSource:
    if source is None:
        return default
    if is_local(source):
        return source
    if isinstance(default, HubSource):
        return HubSource(source, default.config, default.split)
    raise ValueError(f"{source}: no such file, and this task has no data set on the hub")

"""What a task is: rows to train on, rows to evaluate on, and how a completion is scored.

A task is plain data and a few functions, one file a task. It knows its prompts, its stops and its
metric, and nothing about models. `data.TASKS` lists them by name.

A task scores each completion as it ends (`score`), or grades all of a system's when they are there
(`grade`): by judges that the recipe names, or by running them. Every task that scores has its
`default` rules; those the proxy-tuning paper evaluates have the paper's own rules beside them
(`paper`), quirks included, so that its tables come out again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .judges.classifier import Classifier
from .judges.judge import Judge, Verdict
from .row_files import is_local
from .rows import HubSource, Row, SourceError, read_rows

Mode = Literal["default", "paper"]
JudgeKind = Literal["endpoint", "classifier"]
Judges = Mapping[str, Judge | Classifier]  # by the names a task gives them


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
    """What was read off a completion, and what it is worth.

    Attributes:
        prediction: the answer as it was read; "" if the completion holds none (it is invalid).
        value: 1.0 right, 0.0 wrong; None if the rules leave the row out of the mean.
    """

    prediction: str
    value: float | None


Scorer = Callable[[str, tuple[str, ...]], Score]  # (completion, gold answers) -> Score
# (rows, their completions, the judges) -> a verdict each, in order; what is known is given at once
Grader = Callable[[Sequence[Any], Sequence[str], Judges], Iterable[Verdict]]


@dataclass(frozen=True, slots=True)
class Task:
    """One benchmark, as its paper runs it.

    Attributes:
        name: as a recipe's `task.name` says it.
        metric: what is measured, e.g. "exact_match"; the mean over rows is reported.
        higher_is_better: whether a large value is a good one.
        stop: strings that end a completion (they are not part of it).
        max_new_tokens: the protocol's limit on a completion.
        temperature, top_p: the protocol's sampling; 0 is greedy.
        num_samples: completions drawn for each row.
        pass_at: a row is worth pass@k of its samples, with this k; None: their mean.
        train_source, eval_source: where rows come from unless the recipe names another place; None
            if it has to.
        train_row, eval_row: one data row to one task row; raise ValueError on a bad row. A task
            without `train_row` is for evaluation only.
        read_eval: the evaluation rows of a source, where they are not simply the first so many.
        score: the default rules; raises ValueError on a gold answer that no prediction can match.
        score_as_paper: the paper's rules, likewise; None if the paper has no such task.
        paper_drops_invalid: the paper's rules leave rows without an answer out of the mean.
        grade: in place of `score`, the verdicts on all completions of a system.
        judges: what `grade` is to be given, and of which kinds each may be.
        runs_programs: `grade` runs the completions in the sandbox.
    """

    name: str
    metric: str
    stop: tuple[str, ...]
    max_new_tokens: int
    train_source: str | HubSource | None
    eval_source: str | HubSource | None
    eval_row: Callable[[Row], EvalRow]
    train_row: Callable[[Row], TrainRow] | None = None
    read_eval: Callable[[str | HubSource, int | None], Sequence[EvalRow]] | None = None
    score: Scorer | None = None
    score_as_paper: Scorer | None = None
    paper_drops_invalid: bool = False
    grade: Grader | None = None
    judges: Mapping[str, tuple[JudgeKind, ...]] = field(default_factory=dict)
    runs_programs: bool = False
    higher_is_better: bool = True
    temperature: float = 0.0
    top_p: float = 1.0
    num_samples: int = 1
    pass_at: int | None = None

    def __post_init__(self) -> None:
        assert (self.score is None) != (self.grade is None), f"{self.name}: score or grade"

    def scorer(self, mode: Mode) -> Scorer:
        """The rules of `mode`. Raises ValueError if the paper has none for this task."""
        if self.score is None:
            raise ValueError(
                f"task '{self.name}' is graded after decoding, in one way only; its completions "
                "have no scoring rules"
            )
        if mode == "default":
            return self.score
        if self.score_as_paper is None:
            raise ValueError(
                f"task '{self.name}' is not one of the paper's, so it has no paper scoring; "
                "use the default"
            )
        return self.score_as_paper

    def to_train(self, row: Row) -> TrainRow:
        """One data row as a training row; a row with `prompt` and `completion` as it is."""
        assert self.train_row is not None, "training_source refuses a task without training rows"
        return _as_it_is(row) or self.train_row(row)

    def training_source(self, source: str | None = None) -> str | HubSource:
        """Where training rows come from. Raises ValueError if the task has none."""
        if self.train_row is None:
            raise ValueError(
                f"task '{self.name}' is for evaluation only; name a finished expert in "
                "expert.trained, or train on another task and name this one in also"
            )
        return self._resolve(source, self.train_source, "train")

    def eval_rows(self, source: str | None = None, limit: int | None = None) -> list[EvalRow]:
        """The first `limit` evaluation rows of `source` (a place of files or a hub id)."""
        place = self._resolve(source, self.eval_source, "eval")
        if self.read_eval is not None:
            return list(self.read_eval(place, limit))
        return [self.eval_row(row) for row in read_rows(place, limit)]

    def validation_rows(
        self, source: str | None, num_rows: int, of_training: bool = False, limit: int | None = None
    ) -> list[tuple[EvalRow, str | None]]:
        """Rows to judge a training by, each with the completion that it teaches, if it has one.

        Args:
            source: of evaluation rows, the first `num_rows` of which are taken.
            of_training: `source` holds training rows: the last ones of the first `limit` are taken.
        """
        if not of_training:
            rows = read_rows(self._resolve(source, self.eval_source, "eval"), num_rows)
        else:
            rows = read_rows(self._resolve(source, self.train_source, "train"), limit)[-num_rows:]
        return [(self.eval_row(row), self._completion(row)) for row in rows]

    def _completion(self, row: Row) -> str | None:
        try:
            return None if self.train_row is None else self.train_row(row).completion
        except ValueError:
            return None  # a question only

    def _resolve(
        self, source: str | None, default: str | HubSource | None, use: str
    ) -> str | HubSource:
        if source is None:
            if default is None:
                verb = {"train": "train on", "eval": "be evaluated on"}[use]
                raise SourceError(
                    f"task '{self.name}' has no rows of its own to {verb}; name a file"
                )
            return default
        if is_local(source):
            return source
        if isinstance(default, HubSource):
            return HubSource(source, default.config, default.split)
        raise SourceError(f"{source}: no such file, and this task has no data set on the hub")


def _as_it_is(row: Row) -> TrainRow | None:
    """The row if it is a prompt and a completion already."""
    if not {"prompt", "completion"} <= row.fields.keys():
        return None
    return TrainRow(row.text("prompt"), row.text("completion"))

"""A file of predictions, scored: one answered row a line, ours or the proxy-tuning authors'.

Ours (`predictions/<system>.jsonl` of a run) have `id`, `completion` and `answers`. The authors call
a completion `model_output` (GSM), `mc_output` (TruthfulQA) or `output` (TriviaQA), and its gold
answer `answer`, `mc_answer_idx` or `answers`. Files of code samples and of ToxiGen completions are
scored by the verdicts they hold (`verdicts.py`), our `grades/<system>.jsonl` of other graded tasks
by their `score`, which is null where a judge left it open.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from .. import TASKS
from ..rows import Row, read_rows
from ..task import Mode, Score, Scorer, Task
from .verdicts import pass_rates, toxic_by_group, verdict

COMPLETION_FIELDS = ("completion", "model_output", "mc_output", "output")
ANSWER_FIELDS = ("answers", "answer", "mc_answer_idx")
KEY_FIELDS = ("id", "question_id", "question", "Question", "prompt")
SCORABLE = tuple(TASKS)
CODE_TASKS = tuple(name for name, task in TASKS.items() if task.runs_programs)


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """What a file of predictions is worth, row by row (problem by problem for code).

    Attributes:
        metric: what the mean of `values` is.
        values: what each row is worth; None where the rules do not count it.
        keys: what each value belongs to, so that files can be compared; None if they do not say.
        num_rows: lines in the file.
        key_field: the field that `keys` are from.
        golds: each row's gold answers, where the file has them.
        num_invalid: rows whose completion holds no answer.
        groups: the metric of each group of rows, where the file has groups.
        higher_is_better: whether a large value is a good one.
    """

    metric: str
    values: tuple[float | None, ...]
    keys: tuple[str, ...] | None
    num_rows: int
    key_field: str | None = None
    golds: tuple[tuple[str, ...], ...] | None = None
    num_invalid: int = 0
    groups: dict[str, float] = field(default_factory=dict)
    higher_is_better: bool = True


def score_file(task: str, path: str, mode: Mode = "default", k: int = 10) -> ScoredFile:
    """The predictions at `path`, a file that `read_rows` reads, scored by the task's rules.

    Args:
        task: one of `SCORABLE`.
        path: the file.
        mode: whose rules; verdicts are the same in both.
        k: samples a try, for code tasks.

    Raises:
        ValueError: in one line what is wrong: the task, or the file, line and field.
    """
    if task not in SCORABLE:
        near = difflib.get_close_matches(task, SCORABLE, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(SCORABLE)}"
        raise ValueError(f"unknown task '{task}'; {hint}")
    if task in CODE_TASKS:
        return _code(path, k)
    if task == "toxigen":
        return _toxigen(path)
    if TASKS[task].grade is not None:
        return _graded(path, TASKS[task])
    return _texts(path, TASKS[task], mode)


def _texts(path: str, task: Task, mode: Mode) -> ScoredFile:
    scorer = task.scorer(mode)
    rows = read_rows(path, has_completions=True)
    _check_ids(rows)
    scores = [_score(row, scorer) for row in rows]
    key_field, keys = _keys(rows)
    return ScoredFile(
        metric=task.metric,
        values=tuple(score.value for score in scores),
        keys=keys,
        num_rows=len(rows),
        key_field=key_field,
        golds=tuple(map(_golds, rows)),
        num_invalid=sum(not score.prediction for score in scores),
    )


def _code(path: str, k: int) -> ScoredFile:
    rows = read_rows(path, has_completions=True)
    rates = pass_rates(rows, k)
    return ScoredFile(f"pass@{k}", tuple(rates.values()), tuple(rates), len(rows), "task_id")


def _toxigen(path: str) -> ScoredFile:
    rows = read_rows(path, has_completions=True)
    has_groups = any("target_groups" in row.fields for row in rows)
    key_field, keys = _keys(rows)
    return ScoredFile(
        metric="share_toxic",
        values=tuple(float(verdict(row, "is_toxic")) for row in rows),
        keys=keys,
        num_rows=len(rows),
        key_field=key_field,
        groups=toxic_by_group(rows) if has_groups else {},
        higher_is_better=False,
    )


def _graded(path: str, task: Task) -> ScoredFile:
    rows = read_rows(path, has_completions=True)
    _check_ids(rows)
    values = tuple(map(_grade, rows))
    key_field, keys = _keys(rows)
    return ScoredFile(
        metric=task.metric,
        values=values,
        keys=keys,
        num_rows=len(rows),
        key_field=key_field,
        num_invalid=values.count(None),
        higher_is_better=task.higher_is_better,
    )


def _grade(row: Row) -> float | None:
    """The row's score as a judge gave it."""
    value = row.fields[row.first("score")]
    if value is None or (isinstance(value, int | float) and 0 <= value <= 1):
        return value
    raise ValueError(
        f"{row.where}: field 'score' must be a number from 0 to 1 or null, found {value!r:.80}"
    )


def _score(row: Row, scorer: Scorer) -> Score:
    completion = row.text(row.first(*COMPLETION_FIELDS))
    golds = _golds(row)
    try:
        return scorer(completion, golds)
    except ValueError as error:
        raise ValueError(f"{row.where}: {error}") from None


def _golds(row: Row) -> tuple[str, ...]:
    """The gold answers: a list of text, or one text or number."""
    field_name = row.first(*ANSWER_FIELDS)
    value = row.fields[field_name]
    if isinstance(value, list):
        return row.texts(field_name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (str(value),)
    return (row.text(field_name),)


def _check_ids(rows: Sequence[Row]) -> None:
    """Raises ValueError if an id occurs twice; it names the second row."""
    first: dict[str, str] = {}
    for row in rows:
        if "id" in row.fields:
            row_id = str(row.fields["id"])
            if row_id in first:
                raise ValueError(f"{row.where}: id '{row_id}' occurs before, at {first[row_id]}")
            first[row_id] = row.where


def _keys(rows: Sequence[Row]) -> tuple[str | None, tuple[str, ...] | None]:
    """The field that names the rows, and their names."""
    for name in KEY_FIELDS:
        if all(name in row.fields for row in rows):
            return name, tuple(str(row.fields[name]) for row in rows)
    return None, None

"""A task of lm-eval as an experiment of a run: its questions, its metric, its settings."""

# pyright: reportMissingImports=false

import contextlib
import difflib
import functools
import io
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.tasks import TaskManager

from recipes.schema.recipe import HarnessTask

from ..engine.sampling import Sampling
from ..evaluation.experiment import Experiment
from ..evaluation.lineup import Lineup
from ..evaluation.metric import Metric
from .harness_rows import HarnessQuestion, HarnessRows

FEWSHOT_SEED = 1234  # lm-eval's own, so that its command asks the same


def harness_experiment(choice: HarnessTask, section: str, lineup: Lineup, seed: int) -> Experiment:
    """The lineup on a task of lm-eval; `section` is where the recipe chooses it.

    Raises:
        ValueError: in one line, with the recipe's key, why the task cannot be measured.
    """
    with _lm_evals_draws():
        task = _task(choice, section)
        metric, higher_is_better = _metric(task, choice, section)
        filter_name = _filter(task, choice, section)
        _set_fewshot(task, choice, section)
        with _one_line(f"{section}.lm_eval: '{choice.lm_eval}' cannot be asked"):
            task.build_all_requests(limit=choice.eval_limit)
            by_row: dict[Any, list[Instance]] = defaultdict(list)
            for one in task.instances:
                by_row[one.doc_id].append(one)
            asked = [sorted(own, key=lambda one: one.idx) for own in by_row.values()]
            questions = [
                HarnessQuestion(str(row), _prompt(task, own), _answers(task, own[0].doc))
                for row, own in zip(by_row, asked, strict=True)
            ]
    return Experiment(
        lineup=lineup,
        task=choice.label,
        metric=Metric(metric, higher_is_better),
        questions=questions,
        score=None,
        stop=(),
        max_new_tokens=0,
        sampling=Sampling(seed=seed),
        harness=HarnessRows(task, questions, asked, metric, filter_name, seed),
    )


@functools.cache
def _index(include_path: str | None, has_defaults: bool) -> TaskManager:
    return TaskManager(include_path=include_path, include_defaults=has_defaults)


def _task(choice: HarnessTask, section: str) -> Any:
    name, folder = choice.lm_eval, choice.include_path
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"{section}.include_path: found '{folder}'; there is no such folder")
    with _one_line(f"{section}.include_path: '{folder}' cannot be read"):
        index = None if folder is None else _index(folder, False)
        if index is None or name not in index.all_tasks:  # lm-eval's own take seconds to list
            index = _index(folder, True)
    if name not in index.all_subtasks:
        if name in index.all_tasks:
            problem = "is a group of tasks; name one of them, each as an entry of also"
        else:
            near = difflib.get_close_matches(name, index.all_subtasks, 3)
            known = f"; did you mean {', '.join(near)}?" if near else ""
            problem = f"is no task of lm-eval {version('lm_eval')}{known}"
        raise ValueError(f"{section}.lm_eval: '{name}' {problem}")
    with _one_line(f"{section}.lm_eval: '{name}' cannot be loaded"):
        task = index.load([name])["tasks"][name]
    for claim, problem in (
        ("UNSAFE_CODE", "runs code that models write, unconfined; data.TASKS has tasks of code"),
        ("MULTIMODAL", "asks about more than text, which these models cannot read"),
    ):
        if getattr(task, claim, False):
            raise ValueError(f"{section}.lm_eval: '{name}' {problem}; leave it out")
    return task


def _metric(task: Any, choice: HarnessTask, section: str) -> tuple[str, bool]:
    """The metric, and whether a large value is a good one."""
    by_metric = task.aggregation()
    means = [name for name, aggregate in by_metric.items() if aggregate is mean]
    if choice.metric not in means:
        others = [name for name in by_metric if name not in means]
        reason = f" ({', '.join(others)}: of all rows at once, so no row has a value)"
        raise ValueError(
            f"{section}.metric: found '{choice.metric}'; the means over rows of "
            f"'{choice.lm_eval}' are {', '.join(means) or 'none'}{reason if others else ''}"
            + ("" if means else "; measure it with decode/harness.py")
        )
    return choice.metric, bool(task.higher_is_better().get(choice.metric, True))


def _filter(task: Any, choice: HarnessTask, section: str) -> str:
    names = [one.name for one in task._filters]
    wanted = names[0] if choice.filter is None and len(names) == 1 else choice.filter
    if wanted is None or wanted not in names:
        found = "missing" if wanted is None else f"found '{wanted}'"
        raise ValueError(
            f"{section}.filter: {found}; those of '{choice.lm_eval}' are {', '.join(names)}"
        )
    return wanted


def _set_fewshot(task: Any, choice: HarnessTask, section: str) -> None:
    own = task.get_config("num_fewshot")
    if choice.num_fewshot and own == 0:
        raise ValueError(
            f"{section}.num_fewshot: found {choice.num_fewshot}, and '{choice.lm_eval}' is always "
            "asked without examples; leave it out"
        )
    task.set_config("num_fewshot", (own or 0) if choice.num_fewshot is None else choice.num_fewshot)
    task.set_fewshot_seed(FEWSHOT_SEED)


def _prompt(task: Any, asked: Sequence[Instance]) -> str:
    """The question without examples; where it has no text of its own, all that is read first."""
    text = task.doc_to_text(asked[0].doc)
    if isinstance(text, str) and text:
        return text
    return "\n".join(dict.fromkeys(str(one.args[0]) for one in asked))


def _answers(task: Any, doc: Any) -> tuple[str, ...]:
    """What the task holds for right: a choice's text where it names one by its place."""
    targets = task.doc_to_target(doc)
    has_choices = task.get_config("doc_to_choice") is not None
    choices = task.doc_to_choice(doc) if has_choices else []
    return tuple(
        str(choices[one] if isinstance(one, int) and 0 <= one < len(choices) else one)
        for one in (targets if isinstance(targets, list) else [targets])
    )


@contextlib.contextmanager
def _lm_evals_draws() -> Iterator[None]:
    """A block whose draws are those of lm-eval's command, and change none outside.

    Some tasks shuffle their choices as they are read.
    """
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(FEWSHOT_SEED)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def _one_line(problem: str) -> Iterator[None]:
    """A block in which whatever a task's files or rows have wrong is one line; without bars."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{problem} ({reason:.300})") from error

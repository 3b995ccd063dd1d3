"""The rows of a task of lm-eval: each system's answers, and what one metric gives them.

lm-eval says what is asked, filters the answers and scores them; `HarnessModel` answers. A row's
value is that of one metric, so that gains and gap closed come as they do for every other task.
"""

# pyright: reportMissingImports=false

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import groupby
from math import isfinite
from typing import Any

from lm_eval.api.instance import Instance

from ..backends.completer import Continuation, ModelCompleter, NotFinite, Scored
from ..backends.harness_model import HarnessModel
from ..backends.harness_tokens import common_length
from ..engine.request import Completion, Request
from ..evaluation.experiment import OutOfRange
from ..evaluation.lineup import Lineup, System
from ..jobs.files import text_digest
from ..models.model_source import ModelSource
from ..models.prompts import RoleTokenizers
from .chosen_system import models_of

BATCHES_AT_ONCE = 16  # of rows; a killed run loses no more than these


@dataclass(frozen=True, slots=True)
class HarnessQuestion:
    """One row of a task."""

    id: str
    prompt: str
    answers: tuple[str, ...]


class HarnessRows:
    """The rows of one task and one metric; see `Harness`.

    Args:
        task: as lm-eval built it.
        asked: the requests of each question.
        seed: of draws, where the task samples.
    """

    def __init__(
        self,
        task: Any,
        questions: Sequence[HarnessQuestion],
        asked: Sequence[Sequence[Instance]],
        metric: str,
        filter_name: str,
        seed: int,
    ) -> None:
        self._task, self._questions, self._asked = task, questions, asked
        self._metric, self._filter, self._seed = metric, filter_name, seed
        self.settings = {
            "version": version("lm_eval"),
            "task": task.task_name,
            "task_version": str(task.VERSION),
            "metric": metric,
            "filter": filter_name,
            "num_fewshot": task.get_config("num_fewshot"),
            "config": _digest([_rules(task)]),
            "requests": _digest((one.doc, one.args) for own in asked for one in own),
        }

    def check(
        self,
        lineup: Lineup,
        system: System,
        tokenizers: RoleTokenizers,
        sources: Sequence[ModelSource],
    ) -> None:
        as_asked, length = partial(lineup.prompt, system), common_length(sources)
        model = HarnessModel(_NoModel(), tokenizers, length, as_asked, self._seed)
        try:
            _answer(model, [_unanswered(one) for own in self._asked for one in own])
        except ValueError as error:
            raise ValueError(f"lm-eval's task '{self._task.task_name}': {error}") from None

    def rows(
        self, lineup: Lineup, system: System, completer: ModelCompleter, places: Sequence[int]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        model = HarnessModel(
            completer,
            completer.tokenizers,
            common_length(models_of(lineup, system)),
            partial(lineup.prompt, system),
            self._seed,
        )
        step = BATCHES_AT_ONCE * lineup.batch_size
        for start in range(0, len(places), step):
            own = places[start : start + step]
            asked = [[_unanswered(one) for one in self._asked[place]] for place in own]
            flat = [one for ones in asked for one in ones]
            try:
                _answer(model, flat)
            except NotFinite as error:
                ids = f"{self._questions[own[0]].id} to {self._questions[own[-1]].id}"
                raise NotFinite(ids, error.problem) from None
            for each in self._task._filters:
                each.apply(flat)
            for place, ones in zip(own, asked, strict=True):
                yield place, self._row(self._questions[place], ones)

    def _row(self, question: HarnessQuestion, asked: Sequence[Instance]) -> dict[str, Any]:
        filtered = [one.filtered_resps[self._filter] for one in asked]
        value = self._task.process_results(asked[0].doc, filtered).get(self._metric)
        score = None if value is None else float(value)
        if score is not None and not (isfinite(score) and 0 <= score <= 1):
            raise OutOfRange(
                f"lm-eval's task '{self._task.task_name}', row {question.id}: {self._metric} is "
                f"{score:g}, and a run compares metrics from 0 to 1; choose another metric, or "
                "measure this one with decode/harness.py"
            )
        return {
            "prompt": question.prompt,
            "completion": "\n".join(_said(one) for one in asked),
            "answers": list(question.answers),
            "score": score,
            "responses": [one.resps for one in asked],
        }


class _NoModel:
    """A completer whose answers take no model: what is asked is checked on the way to it."""

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return (Completion(one.name, "", (), "length") for one in requests)

    def score(self, continuations: Iterable[Continuation]) -> Iterator[Scored]:
        return (Scored(one.name, (0.0,), (False,)) for one in continuations)

    def taken(self) -> dict[str, Any]:
        return {}


def _unanswered(one: Instance) -> Instance:
    return replace(one, resps=[], filtered_resps={})


def _answer(model: HarnessModel, asked: Sequence[Instance]) -> None:
    """Ask every request as often as its task wants it, and leave the answers in it."""
    by_kind = sorted(asked, key=lambda one: one.request_type)
    for kind, own in groupby(by_kind, key=lambda one: one.request_type):
        repeated = [one for one in own for _ in range(one.repeats or 1)]
        answers = getattr(model, kind)(repeated, disable_tqdm=True)
        for one, answer in zip(repeated, answers, strict=True):
            one.resps.append(answer)


def _said(one: Instance) -> str:
    """An answer for people: a text, or how likely a continuation is."""
    first = one.resps[0]
    if isinstance(first, str):
        return first
    logprob = first[0] if isinstance(first, tuple) else first
    return f"{logprob:.2f} {one.args[1] if len(one.args) > 1 else 'the text'}"


def _rules(task: Any) -> dict[str, Any]:
    """A task's settings but for where its rows are; what they hold is among the requests."""
    found = task.dump_config()
    return {key: value for key, value in found.items() if not key.startswith("dataset_")}


def _digest(values: Iterable[Any]) -> str:
    # A function that has no source to show is written with its address.
    return text_digest(
        re.sub(r" at 0x[0-9a-f]+", "", json.dumps(value, default=str, sort_keys=True))
        for value in values
    )

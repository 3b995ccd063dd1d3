"""The experiments of a recipe: one for each task, all of the same models.

Everything a user can have wrong outside the models is found here, before any of them loads: rows,
judges and their keys, a sandbox that this machine does not permit.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from statistics import fmean
from typing import Any, TypeVar

from data import TASKS, Judges, Task
from data.judges.classifier import Classifier
from data.judges.endpoint import Endpoint
from data.judges.judge import Judge, Verdict
from data.rows import SourceError
from data.sandbox import best_confinement
from data.scoring.pass_at_k import pass_at_k
from data.task import Scorer
from data.tasks.fences import of_fences
from recipes.schema.recipe import (
    Decode,
    EndpointBase,
    Evaluation,
    HarnessTask,
    JudgeChoice,
    Recipe,
)

from ..backends.thinking import Thinking
from ..engine.sampling import Sampling
from ..evaluation.experiment import Experiment, Grader, Question
from ..evaluation.lineup import Lineup
from ..evaluation.metric import Metric
from ..jobs.files import weights_digest
from ..jobs.folder import RunFolder
from ..jobs.terminal import Progress
from ..models.chat_date import keep_date
from .recipe_models import lineup_of
from .validation import Plan, repeated_ids, set_apart

T = TypeVar("T")


def plan(recipe: Recipe) -> Plan:
    """An experiment and a folder for each of the recipe's tasks, first the task that is learnt.

    Raises:
        ValueError: in one line what a row, a judge or a setting has wrong.
    """
    folder, lineup = RunFolder(recipe.output_dir), lineup_of(recipe)
    keep_date(folder.chat_date)
    folders = [folder, *(folder.task(also.name) for also in recipe.also)]
    sections = ["task", *(f"also.{index}" for index in range(len(recipe.also)))]
    planned = [
        (_planned(recipe, choice, section, lineup, own), own)
        for choice, section, own in zip(recipe.evaluations, sections, folders, strict=True)
    ]
    _check_is_sampled(recipe.decode, [experiment for experiment, _ in planned])
    return planned


def _planned(
    recipe: Recipe,
    choice: Evaluation | HarnessTask,
    section: str,
    lineup: Lineup,
    folder: RunFolder,
) -> Experiment:
    """The lineup on one task, ours or lm-eval's."""
    if isinstance(choice, Evaluation):
        return _experiment(recipe, choice, section, lineup, folder)
    if recipe.decode.choose is not None:
        raise ValueError(
            f"{section}.lm_eval: decode.choose needs validation rows, which tasks of lm-eval have "
            "none of; leave one of the two out"
        )
    if any(isinstance(base, EndpointBase) for base in recipe.decode.bases):
        raise ValueError(
            f"{section}.lm_eval: tasks of lm-eval need bases that are loaded, and decode.bases has "
            "one behind an endpoint; leave one of the two out"
        )
    if recipe.decode.thinking is not None:
        raise ValueError(
            f"{section}.lm_eval: tasks of lm-eval score all that is said, and decode.thinking "
            "keeps a part of it out; leave one of the two out"
        )
    if find_spec("lm_eval") is None:
        raise ValueError(f'{section}.lm_eval: this needs lm-eval: pip install -e ".[eval]"')
    from .harness_task import harness_experiment  # lm-eval is optional, and slow to import

    return harness_experiment(choice, section, lineup, recipe.seed)


def _experiment(
    recipe: Recipe, choice: Evaluation, section: str, lineup: Lineup, folder: RunFolder
) -> Experiment:
    """The lineup on one task's rows; `section` is where the recipe chooses them."""
    task, mode = _extracting(TASKS[choice.name], choice, section), choice.scoring
    if mode == "paper" and task.paper_drops_invalid:
        raise ValueError(
            f"{section}.scoring: the paper's rules for '{task.name}' leave invalid answers out, "
            "and a run compares systems on the same rows; use default here, then score the "
            "predictions with decode/score.py --mode paper"
        )
    is_graded = task.grade is not None and mode == "default"
    if not task.judges:
        _check_judges(task, choice.judges, section)
    decode = recipe.decode
    try:
        questions = task.eval_rows(choice.eval, choice.eval_limit)
    except SourceError as error:
        raise ValueError(f"{section}.eval: {error}") from error
    if repeated := repeated_ids(questions):
        raise ValueError(f"{section}.eval: row id {repeated} is there twice; ids must differ")
    try:
        scorer = None if is_graded else task.scorer(mode)
    except ValueError as error:
        raise ValueError(f"{section}.scoring: {error}") from None
    sampling = Sampling(
        task.temperature if decode.temperature is None else decode.temperature,
        decode.top_k,
        task.top_p if decode.top_p is None else decode.top_p,
        recipe.seed,
    )
    num_samples, pass_at = _samples(task, decode, sampling)
    questions, choosing = set_apart(recipe, task, section, questions)

    return Experiment(
        lineup=lineup,
        task=choice.label,
        metric=Metric(
            task.metric if pass_at is None else f"pass@{pass_at}", task.higher_is_better, pass_at
        ),
        questions=questions,
        score=scorer and _pair_score(scorer),
        grader=_grader(task, choice, section, folder, decode.device) if is_graded else None,
        stop=task.stop,
        max_new_tokens=decode.max_new_tokens or task.max_new_tokens,
        sampling=sampling,
        num_samples=num_samples,
        choosing=choosing,
        thinking=decode.thinking and Thinking(**decode.thinking.model_dump()),
        combine=fmean if pass_at is None else _passes(pass_at),
    )


def _extracting(task: Task, choice: Evaluation, section: str) -> Task:
    """The task, with its grades given on the code in fences if the recipe says so.

    A stop would end an answer before its code, so it has none then.
    """
    if choice.extract is None:
        return task
    if not task.runs_programs or task.grade is None:
        raise ValueError(
            f"{section}.extract: '{task.name}' runs no programs, so there is no code to extract; "
            "leave it out"
        )
    return replace(task, grade=of_fences(task.grade), stop=())


def _check_is_sampled(decode: Decode, experiments: Sequence[Experiment]) -> None:
    for key, value in (("top_k", decode.top_k), ("top_p", decode.top_p)):
        is_given = value is not None and value != 1
        if is_given and all(experiment.sampling.is_greedy for experiment in experiments):
            raise ValueError(
                f"decode.{key}: found {value:g}, which has no effect on greedy decoding; set "
                "decode.temperature, or leave it out"
            )


def _samples(task: Task, decode: Decode, sampling: Sampling) -> tuple[int, int | None]:
    """How many completions a row gets, and the k of pass@k."""
    num_samples = decode.num_samples or task.num_samples
    pass_at = decode.pass_at or task.pass_at
    if num_samples > 1 and sampling.is_greedy:
        raise ValueError(
            f"decode.num_samples: {num_samples} greedy completions of a row are all the same; "
            "set decode.temperature, or one sample"
        )
    if pass_at is not None and pass_at > num_samples:
        raise ValueError(
            f"decode.pass_at: pass@{pass_at} on '{task.name}' needs at least {pass_at} samples a "
            f"row, found {num_samples}; set decode.num_samples or decode.pass_at"
        )
    return num_samples, pass_at


def _pair_score(scorer: Scorer) -> Callable[[str, tuple[str, ...]], tuple[str, float]]:
    def score(completion: str, answers: tuple[str, ...]) -> tuple[str, float]:
        found = scorer(completion, answers)
        assert found.value is not None, "these rules count every row"
        return found.prediction, found.value

    return score


def _passes(k: int) -> Callable[[Sequence[float]], float]:
    def combine(scores: Sequence[float]) -> float:
        return pass_at_k(len(scores), sum(score == 1 for score in scores), k)

    return combine


def _grader(task: Task, choice: Evaluation, section: str, folder: RunFolder, device: str) -> Grader:
    grade, choices = task.grade, choice.judges
    assert grade is not None
    if task.runs_programs:
        _check_sandbox(task)
    _check_judges(task, choices, section)
    judges: Judges = {
        name: _judge(name, judge, f"{section}.judges.{name}", folder, device)
        for name, judge in choices.items()
    }

    def with_judges(questions: Sequence[Question], completions: Sequence[str]) -> Iterable[Verdict]:
        return grade(questions, completions, judges)

    settings = {"judges": {name: _identity(choices[name]) for name in choices}}
    return Grader(with_judges, settings | ({"extract": choice.extract} if choice.extract else {}))


def _check_sandbox(task: Task) -> None:
    try:
        best_confinement()
    except RuntimeError as error:
        raise ValueError(f"task '{task.name}': {error}") from None


def _check_judges(task: Task, choices: dict[str, JudgeChoice], section: str) -> None:
    for name in choices:
        if name not in task.judges:
            raise ValueError(
                f"{section}.judges.{name}: '{task.name}' has no such judge; it has "
                f"{', '.join(task.judges) or 'none'}"
            )
    for name, kinds in task.judges.items():
        choice = choices.get(name)
        kind = None if choice is None else ("endpoint" if choice.endpoint else "classifier")
        if kind not in kinds:
            found = "is missing" if kind is None else f"cannot be a {kind}"
            raise ValueError(
                f"{section}.judges.{name}: {found}; '{task.name}' is judged by {' or '.join(kinds)}"
            )


def _judge(
    name: str, choice: JudgeChoice, key: str, folder: RunFolder, device: str
) -> Judge | Classifier:
    if choice.endpoint is not None:
        given = choice.endpoint.model_dump(exclude_none=True)
        try:
            return Judge(Endpoint(**given), folder.judgements(name), _follow)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
    assert choice.classifier is not None
    return Classifier(**choice.classifier.model_dump(), device=_one_device(device))


def _follow(items: Iterable[T], doing: str, total: int) -> Iterator[T]:
    """The items, with their progress shown below that of the grading."""
    return Progress(doing, total, "answers", is_part=True).follow(items)


def _one_device(device: str) -> str:
    """Where a classifier runs: the first of several GPUs."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _identity(choice: JudgeChoice) -> dict[str, Any]:
    """The settings that decide a judge's verdicts; its address is not among them."""
    if choice.endpoint is not None:
        settings = choice.endpoint.model_dump(exclude_none=True)
        endpoint = Endpoint(**settings)
        return {
            "model": endpoint.model,
            "api": endpoint.api,
            "parameters": dict(endpoint.parameters),
        }
    assert choice.classifier is not None
    classifier = choice.classifier.model_dump(exclude={"batch_size"})
    return {**classifier, "weights": weights_digest(choice.classifier.model)}

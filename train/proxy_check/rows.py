"""The questions of a proxy check, planned before any weights load: rows, one base, one alpha."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data import TASKS
from decode.engine.rule import Alpha
from decode.evaluation.check_record import Checks, finished_checks
from decode.evaluation.experiment import Experiment, check
from decode.evaluation.lineup import Contender
from decode.evaluation.metric import Metric
from decode.evaluation.settings import steering_settings
from decode.jobs.files import text_digest, weights_digest
from decode.jobs.folder import RunFolder
from decode.jobs.seals import SEALED
from recipes.schema.recipe import ProxyCheck, Recipe

from ..preferences import TrainerConfig
from ..zero import uses_fsdp

ZERO_3 = 3


@dataclass(frozen=True, slots=True)
class CheckRows:
    """The questions of a check with the models that answer them.

    Attributes:
        experiment: its questions are the validation rows; one base, one alpha, greedy.
        completions: the answers that training would teach, None where a row has none.
        num_held_out: number of training rows at the end that are left out of training.
    """

    experiment: Experiment
    completions: Sequence[str | None]
    num_held_out: int

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide a given expert's scores; they must not change half-way."""
        experiment, lineup = self.experiment, self.experiment.lineup
        base = lineup.contenders[0].loaded_base
        forms = {"base": lineup.contenders[0].prompt, "antiexpert": lineup.antiexpert_prompt}
        texts = [text for q in experiment.questions for text in (q.prompt, *q.answers)]
        return {
            "base": {k: v for k, v in base.identity.items() if k != "trust_remote_code"},
            "weights": weights_digest(base.name),
            **{k: v for k, v in steering_settings(experiment.lineup.alphas[0]).items() if v},
            **{f"{role}_chat": form.settings for role, form in forms.items() if form.is_chat},
            "task": experiment.task,
            "max_new_tokens": experiment.max_new_tokens,
            "validation rows": text_digest(texts),
        }


def check_rows(recipe: Recipe, experiment: Experiment, config: TrainerConfig) -> CheckRows | None:
    """The questions of the recipe's proxy check, None if it has no check.

    Args:
        experiment: the evaluation of the task that is learnt.
        config: of the expert's training.

    Raises:
        ValueError: in one line why this recipe cannot be checked.
    """
    section = recipe.proxy_check
    if section is None:
        return None
    _refuse(recipe, config)
    task, source = TASKS[recipe.task.name], recipe.task
    is_held_out = section.rows is None
    try:
        pairs = task.validation_rows(
            source.train if is_held_out else section.rows,
            section.num_rows,
            of_training=is_held_out,
            limit=source.train_limit,
        )
    except ValueError as error:
        remedy = "; name validation rows in proxy_check.rows" if is_held_out else ""
        raise ValueError(f"proxy_check: {error}{remedy}") from None
    questions = [question for question, _ in pairs]
    completions = [completion for _, completion in pairs]
    if section.select_by == "loss" and not any(completions):
        raise ValueError(
            "proxy_check.select_by: these rows hold no completions to take a loss on; select by "
            "proxy, or give rows like the training rows"
        )
    asked = {question.prompt for question in experiment.questions}
    num_shared = sum(question.prompt in asked for question in questions)
    if num_shared:
        raise ValueError(
            f"proxy_check.rows: {num_shared} of {len(questions)} are evaluation rows as well; a "
            "training that is steered by them would flatter its own results: name other rows"
        )
    planned = replace(
        experiment,
        questions=questions,
        metric=experiment.metric if experiment.num_samples == 1 else Metric("pass@1", pass_at=1),
        num_samples=1,
        choosing=None,
        lineup=replace(
            experiment.lineup,
            contenders=(_with_ceiling_if_there(recipe, experiment.lineup.contenders[0]),),
            alphas=(_alpha(section, experiment),),
        ),
    )
    check(planned)
    return CheckRows(planned, completions, len(questions) if is_held_out else 0)


def claim_checks(recipe: Recipe, rows: CheckRows, folder: RunFolder) -> None:
    """Check that a record of checks was begun with the same settings, and record them.

    Raises:
        SettingsChanged: names the keys that differ.
        FileChanged: the record is not that of the training that is finished or goes on.
    """
    section = recipe.proxy_check
    assert section is not None
    chosen = section.model_dump(include={"every_steps", "select_by", "patience"})
    folder.claim(folder.checks, {**rows.settings, **chosen, **SEALED})
    if folder.expert.exists():
        finished_checks(folder)
    elif any(folder.checkpoints(folder.expert).glob("*")):
        Checks(folder)


def _refuse(recipe: Recipe, config: TrainerConfig) -> None:
    task = TASKS[recipe.task.name]
    plugin = config.deepspeed_plugin
    reasons = {
        f"'{task.name}' is graded by judges, who would be asked again at every check": (
            bool(task.judges) and recipe.task.scoring == "default"
        ),
        "further experts (decode.experts) are not checked; leave out one of the two": (
            bool(recipe.decode.experts)
        ),
        "weights that are sharded (ZeRO-3, FSDP) cannot be decoded with between two steps; "
        "train with ZeRO-2, or leave proxy_check out": (
            uses_fsdp(config) or (plugin is not None and plugin.zero_stage == ZERO_3)
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"proxy_check: {reason}")


def _with_ceiling_if_there(recipe: Recipe, contender: Contender) -> Contender:
    """The contender without its reference if this run has yet to train that one."""
    tuned = contender.tuned
    if tuned is None or not recipe.decode.bases[0].tune_reference or Path(tuned.name).is_dir():
        return contender
    return replace(contender, tuned=None)


def _alpha(section: ProxyCheck, experiment: Experiment) -> Alpha:
    """The run's rule, at the check's alpha or the headline one."""
    lineup = experiment.lineup
    own = replace(lineup, chosen={}).headline(lineup.contenders[0])
    return own if section.alpha is None else replace(own, value=section.alpha)

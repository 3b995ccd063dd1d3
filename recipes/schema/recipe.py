"""The recipe: one experiment, typed.

`load_recipe` reads a YAML file with dotted overrides (see `source.py`) into a frozen model, whose
sections are in `tasks.py`, `experts.py`, `decoding.py` and `outputs.py`. Unknown keys are
forbidden; `sft` and `expert.adapter` hold the libraries' own keys under the libraries' own names,
checked against `trl.SFTConfig` and `peft.LoraConfig`; `dpo` in place of `sft` holds those of
`trl.DPOConfig`.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from .by_bytes import check_bytes
from .decoding import Base, Decode, MoreExpert
from .effects import check_alphas, check_effects, check_first_base, check_prompts
from .endpoint_base import EndpointBase
from .engines import check_engine
from .experts import Expert, ProxyAware, ProxyCheck
from .folders import check_model
from .hardware import deepspeed_settings
from .home import expand_home
from .keys import (
    KeyProblem,
    check_section,
    dpo_class,
    lora_class,
    settable,
    sft_class,
    suggestion,
    trl_class,
    without_nulls,
)
from .method import check_method, check_start
from .outputs import Analyze, Wandb
from .plain_yaml import write_yaml
from .problems import first_problem
from .prompts import ChatPrompt, Thinking
from .section import Section
from .source import RecipeError, override_key, read_tree
from .steering import with_earlier_keys
from .tasks import (
    FURTHER,
    ClassifierChoice,
    EndpointChoice,
    Evaluation,
    Further,
    HarnessTask,
    JudgeChoice,
    TaskChoice,
    TrainSource,
)

PROMPTS = ("expert.prompt", "expert.antiexpert_prompt")
PROMPTS += ("decode.bases.0.prompt", "decode.bases.0.tuned_prompt")
WEIGHTS_OR_ADAPTER = ("config.json", "adapter_config.json")

__all__ = ["Analyze", "Base", "Decode", "Evaluation", "Expert", "HarnessTask", "JudgeChoice"]
__all__ += [
    "EndpointBase",
    "MoreExpert",
    "ProxyCheck",
    "Recipe",
    "RecipeError",
    "TaskChoice",
    "TrainSource",
    "Wandb",
    "load_recipe",
    "save_recipe",
]


class Recipe(Section):
    """One experiment: train the expert, proxy-tune every base with it, report."""

    name: str = Field(min_length=1)
    """The run's name, on W&B too."""
    seed: int = Field(ge=0, le=2**32 - 1)
    """Seeds training and sampling."""
    output_dir: str = Field(min_length=1)
    """The run's folder."""
    task: TaskChoice
    also: tuple[Further, ...] = ()
    """Further tasks, ours or lm-eval's, that the same models are evaluated on, each with results of
    its own."""
    mixture: tuple[TrainSource, ...] = ()
    """Further training rows, which follow the task's own in this order."""
    expert: Expert
    sft: dict[str, Any] | None = None
    """`trl.SFTConfig` keys, passed through; null only where nothing is trained by it."""
    dpo: dict[str, Any] | None = None
    """`trl.DPOConfig` keys, in place of sft: train/dpo.py learns from preferred answers
    (docs/preferences.md)."""
    proxy_check: ProxyCheck | None = None
    """Checks during the expert's training; null is none."""
    decode: Decode
    analyze: Analyze = Analyze()
    wandb: Wandb = Wandb()

    @property
    def evaluations(self) -> tuple[Evaluation | HarnessTask, ...]:
        """Everything that is measured, the task that is learnt first."""
        return (self.task, *self.also)

    @property
    def trains(self) -> bool:
        """Whether any model is to be trained: the expert, or a ceiling."""
        return self.expert.trained is None or any(base.tune_reference for base in self.decode.bases)

    @property
    def method(self) -> Literal["sft", "dpo"]:
        """How models are trained: the section that says so, and the entry in train/."""
        return "sft" if self.dpo is None else "dpo"

    @property
    def trainer(self) -> dict[str, Any]:
        """The keys of TRL's trainer, in the section of the method."""
        return getattr(self, self.method) or {}

    @field_validator("sft", "dpo")
    @classmethod
    def _left_to_trl(cls, value: dict[str, Any] | None, found: ValidationInfo) -> Any:
        return value and without_nulls(value, trl_class(found.field_name))

    @field_validator("proxy_check")
    @classmethod
    def _something_to_check(cls, value: Any, found: ValidationInfo) -> Any:
        expert = found.data.get("expert")
        if value is not None and expert is not None and expert.trained is not None:
            raise ValueError("expert.trained is finished, so there is no training to check")
        return value

    @field_validator("also")
    @classmethod
    def _distinct(cls, value: tuple[Further, ...], found: ValidationInfo) -> tuple[Any, ...]:
        names = [evaluation.name for evaluation in value]
        if "task" in found.data:
            names.insert(0, found.data["task"].name)
        if len(set(names)) < len(names):
            raise ValueError(f"found {', '.join(names)}; each task may be evaluated once in a run")
        return value


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path`, with `section.key=value` overrides applied in order.

    Raises:
        RecipeError: anything a recipe can have wrong, in one line that names the file, the dotted
            key, what was found and, for a misspelt key, the nearest valid one.
    """
    path = Path(path)
    tree = read_tree(path, overrides)
    try:
        # As JSON, where strictness still lets a list become a tuple and an int a float.
        recipe = Recipe.model_validate_json(json.dumps(with_earlier_keys(expand_home(tree))))
        if recipe.sft is None and recipe.dpo is None and recipe.trains:
            given = "found null; expected a section of keys" if "sft" in tree else "missing"
            raise KeyProblem("sft", f"{given}; this recipe trains, so it needs this section or dpo")
        if recipe.sft is not None and recipe.dpo is not None:
            raise KeyProblem("dpo", "found sft as well; a recipe trains by one: leave one out")
        if recipe.trains:
            check_method(
                *(recipe.task, recipe.mixture, recipe.expert),
                *(recipe.decode, recipe.proxy_check, recipe.method),
            )
        _check_libraries(recipe)
        _check_folders(recipe)
        check_effects(
            *(recipe.task, recipe.mixture, recipe.expert),
            *(recipe.method, recipe.trainer, recipe.decode, recipe.wandb),
        )
        check_alphas(recipe.decode, recipe.analyze, recipe.proxy_check)
        check_first_base(recipe.expert, recipe.decode, recipe.proxy_check)
        check_prompts(recipe.expert, recipe.decode, recipe.proxy_check)
        check_engine(recipe.expert, recipe.decode)
        check_bytes(recipe.evaluations, recipe.decode, recipe.proxy_check)
    except ValidationError as error:
        problem = first_problem(error)
    except KeyProblem as error:
        problem = error
    else:
        return recipe
    key, text = problem.key, problem.problem
    if text == "unknown key":
        text += suggestion(key, _keys_by_section())
    for tag in FURTHER.values():
        key, text = key.replace(f".{tag}", ""), text.replace(f".{tag}", "")
    overridden = (override_key(override) for override in overrides)
    mark = " (override)" if any(f"{key}.".startswith(f"{k}.") for k in overridden) else ""
    raise RecipeError(f"{path}: {key}{mark}: {text}")


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write the resolved recipe as YAML that `load_recipe` reads back to an equal one."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_text(write_yaml(recipe.model_dump(mode="json")), "utf-8")
    partial.replace(path)  # a reader sees the old file or the whole new one


def _check_libraries(recipe: Recipe) -> None:
    sections = (
        ("sft", recipe.sft, sft_class, None),
        ("dpo", recipe.dpo, dpo_class, None),
        ("decode.reference_sft", recipe.decode.reference_sft, sft_class, recipe.sft),
        ("decode.reference_dpo", recipe.decode.reference_dpo, dpo_class, recipe.dpo),
        ("expert.adapter", recipe.expert.adapter, lora_class, None),
    )
    for section, values, config, beneath in sections:
        if values:
            try:
                check_section(values, config(), beneath)
            except KeyProblem as problem:
                text = problem.problem.replace("sft.", f"{recipe.method}.")
                raise KeyProblem(f"{section}.{problem.key}", text) from None
            deepspeed_settings(f"{section}.deepspeed", values.get("deepspeed"))


def _check_folders(recipe: Recipe) -> None:
    expert, config = recipe.expert, ("config.json",)
    check_model("expert.model", expert.model, config, expert.revision)
    check_start("expert.start", expert.start)
    if expert.trained is not None:
        key, revision = "expert.trained", expert.trained_revision
        check_model(key, expert.trained, WEIGHTS_OR_ADAPTER, revision, f"{key}_revision")
    if expert.proxy_aware is not None and expert.proxy_aware.base is not None:
        key, revision = "expert.proxy_aware.base", expert.proxy_aware.revision
        check_model(key, expert.proxy_aware.base, config, revision)
    for index, base in enumerate(recipe.decode.bases):
        if isinstance(base, EndpointBase):
            continue
        check_model(f"decode.bases.{index}.model", base.model, config, base.revision)
        check_start(f"decode.bases.{index}.start", base.start)
        if base.tuned is not None:
            check_model(f"decode.bases.{index}.tuned", base.tuned, WEIGHTS_OR_ADAPTER)
    for index, more in enumerate(recipe.decode.experts):
        check_model(f"decode.experts.{index}.expert", more.expert, WEIGHTS_OR_ADAPTER)
        check_model(f"decode.experts.{index}.antiexpert", more.antiexpert, config)
    for index, evaluation in enumerate(recipe.evaluations):
        if isinstance(evaluation, HarnessTask):
            continue
        section = f"also.{index - 1}" if index else "task"
        for name, judge in evaluation.judges.items():
            if (found := judge.classifier) is not None:
                key = f"{section}.judges.{name}.classifier.model"
                check_model(key, found.model, config, found.revision)


def _keys_by_section() -> dict[str, list[str]]:
    """The keys each section may hold; a list's index is written 0."""
    return {
        "": list(Recipe.model_fields),
        "task": list(TaskChoice.model_fields),
        f"also.0.{FURTHER['name']}": list(Evaluation.model_fields),
        f"also.0.{FURTHER['lm_eval']}": list(HarnessTask.model_fields),
        "mixture.0": list(TrainSource.model_fields),
        **_judge_keys("task.judges"),
        **_judge_keys(f"also.0.{FURTHER['name']}.judges"),
        "expert": list(Expert.model_fields),
        "decode": list(Decode.model_fields),
        "decode.bases.0": [*Base.model_fields, *EndpointBase.model_fields],
        "decode.experts.0": list(MoreExpert.model_fields),
        "decode.thinking": list(Thinking.model_fields),
        **{key: list(ChatPrompt.model_fields) for key in PROMPTS},
        "analyze": list(Analyze.model_fields),
        "proxy_check": list(ProxyCheck.model_fields),
        "expert.proxy_aware": list(ProxyAware.model_fields),
        "wandb": list(Wandb.model_fields),
        "sft": list(settable(sft_class())),
        "dpo": list(settable(dpo_class())),
        "decode.reference_sft": list(settable(sft_class())),
        "decode.reference_dpo": list(settable(dpo_class())),
        "expert.adapter": list(settable(lora_class())),
    }


def _judge_keys(judges: str) -> dict[str, list[str]]:
    """The keys of a judge, whose own name is free."""
    return {
        f"{judges}.*": list(JudgeChoice.model_fields),
        f"{judges}.*.endpoint": list(EndpointChoice.model_fields),
        f"{judges}.*.classifier": list(ClassifierChoice.model_fields),
    }

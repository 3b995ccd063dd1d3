"""The models of a recipe, as the lineup that all of its tasks share."""

import itertools
from dataclasses import replace
from pathlib import Path

from recipes.schema.prompts import AnyPrompt, ChatPrompt
from recipes.schema.recipe import Base, EndpointBase, Expert, Recipe

from ..engine.rule import Alpha
from ..evaluation.lineup import Contender, Lineup
from ..jobs.folder import RunFolder
from ..models.chat import PromptForm
from ..models.loaded import ExpertSource
from ..models.model_source import ModelSource
from ..models.quantization import settings_text
from .endpoint_base import endpoint_source
from .validation import rule_of


def lineup_of(recipe: Recipe) -> Lineup:
    """The recipe's models; `expert` and `references` are where training will leave them."""
    trained, decode, small = RunFolder(recipe.output_dir), recipe.decode, recipe.expert

    def contender(index: int, base: Base | EndpointBase) -> Contender:
        section = f"decode.bases.{index}"
        if isinstance(base, EndpointBase):
            return Contender(
                base.slug, endpoint_source(base, section, trained.shown(base.slug)), None
            )
        tuned = str(trained.reference(base.slug)) if base.tune_reference else base.tuned
        untuned = untuned_model(base, f"{section}.model")
        key = "" if base.tune_reference else f"{section}.tuned"
        return Contender(
            base.slug,
            untuned,
            None if tuned is None else replace(untuned, name=tuned, revision=None, key=key),
            prompt=prompt_form(base.prompt),
            tuned_prompt=prompt_form(base.tuned_prompt),
            tuned_is_there=not base.tune_reference,
        )

    antiexpert = untuned_model(small, "expert.model")
    expert = str(trained.expert) if small.trained is None else small.trained
    key = "" if small.trained is None else "expert.trained"
    tuned = replace(antiexpert, name=expert, revision=small.trained_revision, key=key)
    more = (
        ExpertSource(
            ModelSource(more.expert, dtype=more.dtype, key=f"decode.experts.{index}.expert"),
            ModelSource(
                more.antiexpert, dtype=more.dtype, key=f"decode.experts.{index}.antiexpert"
            ),
            more.weight,
        )
        for index, more in enumerate(decode.experts)
    )
    return Lineup(
        experts=(ExpertSource(tuned, antiexpert), *more),
        contenders=tuple(itertools.starmap(contender, enumerate(decode.bases))),
        alphas=tuple(Alpha(alpha, rule_of(decode.rule)) for alpha in decode.alphas),
        expert_prompt=prompt_form(small.prompt),
        antiexpert_prompt=prompt_form(small.antiexpert_prompt),
        trained_template=trained_template(recipe),
        expert_is_there=small.trained is not None,
        vocabulary=decode.vocabulary,
        batch_size=decode.batch_size,
        num_draft_tokens=decode.num_draft_tokens,
        device=decode.device,
        engine=decode.engine,
        engine_options=decode.vllm or {},
    )


def starting_model(model: Expert | Base, section: str) -> ModelSource:
    """What a training starts from: the untuned model, unless the recipe's `start` names another."""
    untuned = untuned_model(model, f"{section}.model")
    if model.start is None:
        return untuned
    return replace(untuned, name=model.start, revision=None, key=f"{section}.start")


def untuned_model(model: Expert | Base, key: str) -> ModelSource:
    """A recipe's model as it is before any tuning; `key` is where the recipe names it."""
    source = ModelSource(model.model, model.revision, model.dtype, model.trust_remote_code, key=key)
    if isinstance(model, Expert) or model.quantization is None:
        return source
    place = f"{key.removesuffix('.model')}.quantization"
    return replace(source, quantization=settings_text(model.quantization, place))


def trained_template(recipe: Recipe) -> str | None:
    """The chat template that models trained here are given; None leaves them their own."""
    place = recipe.trainer.get("chat_template_path")
    return Path(place).read_text("utf-8") if place is not None and Path(place).is_file() else None


def prompt_form(prompt: AnyPrompt) -> PromptForm:
    """A recipe's prompt of a model, as the lineup has it."""
    if isinstance(prompt, ChatPrompt):
        return PromptForm(True, prompt.system, prompt.prefix, prompt.template or {})
    return PromptForm(prompt == "chat")

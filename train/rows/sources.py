"""Where a recipe's training rows come from: its task, then each source of its mixture."""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from data import TASKS, Task
from data.row_files import is_local
from data.rows import HubSource, SourceError
from data.training.formats import Format, Message, Render, formatted
from data.training.mixture import Source
from data.training.preferences import preference
from decode.models.chat import reads_argument, with_template
from decode.models.chat_date import dated_template
from decode.models.prompts import text_ids
from decode.models.sources import load_tokenizer
from decode.stage.recipe_models import prompt_form, starting_model, trained_template
from recipes.schema.prompts import ChatPrompt
from recipes.schema.recipe import Recipe, TrainSource

logger = logging.getLogger(__name__)


def sources_of(recipe: Recipe) -> list[Source]:
    """The task's own rows, then the mixture's; or the preferences, of which each makes two rows.

    Raises:
        ValueError: in one line what is missing or unknown.
    """
    choice, more = recipe.task, recipe.mixture
    if recipe.method == "dpo":
        return [_preferences(recipe)]
    formats = [choice.train_format, *(source.format for source in more)]
    keys = ["task.train_format", *(f"mixture.{index}.format" for index in range(len(more)))]
    is_chat = "messages" in formats
    _say_what_disagrees(recipe, is_chat)
    render = _renderer(recipe, keys[formats.index("messages")]) if is_chat else None
    if choice.train_format is None:
        try:
            own = task_source(choice.name, TASKS[choice.name], choice.train, choice.train_limit)
        except SourceError as error:
            raise ValueError(f"task.train: {error}") from None
    else:
        name = f"{choice.name} ({choice.train_format})"
        own = _of_format(name, choice.train_format, choice.train, choice.train_limit, render)
    return [own, *(_further(source, index, render) for index, source in enumerate(more))]


def _further(choice: TrainSource, index: int, render: Render | None) -> Source:
    if choice.task is None:
        assert choice.format is not None, "the recipe's schema says so"
        name = f"mixture.{index} ({choice.format})"
        source = _of_format(name, choice.format, choice.rows, choice.limit, render)
    else:
        name = f"mixture.{index} ({choice.task})"
        try:
            source = task_source(name, TASKS[choice.task], choice.rows, choice.limit)
        except ValueError as error:
            key = "rows" if isinstance(error, SourceError) else "task"
            raise ValueError(f"mixture.{index}.{key}: {error}") from None
    return replace(source, weight=choice.weight, key=f"mixture.{index}.rows")


def task_source(name: str, task: Task, rows: str | None, limit: int | None) -> Source:
    """The training rows of a task, in `rows` or its own place, under a name for reports.

    Raises:
        ValueError: the task has no training rows, or none of its own.
    """
    place = task.training_source(rows)
    return Source(name, place, lambda row: [task.to_train(row)], limit)


def _of_format(
    name: str, format: Format, rows: str | None, limit: int | None, render: Render | None
) -> Source:
    return Source(name, _place(rows), lambda row: formatted(row, format, render), limit)


def _preferences(recipe: Recipe) -> Source:
    choice, name = recipe.task, f"{recipe.task.name} (preferences)"

    @functools.cache
    def renderer() -> Render:  # where a row is messages
        _say_what_disagrees(recipe, is_chat=True)
        return _renderer(recipe, "task.train")

    place = _place(choice.train)
    return Source(name, place, lambda row: preference(row, renderer), choice.train_limit)


def _place(rows: str | None) -> str | HubSource:
    assert rows is not None, "the recipe's schema says so"
    return rows if is_local(rows) else HubSource(rows, None, "train")


def _say_what_disagrees(recipe: Recipe, is_chat: bool) -> None:
    """Warn of a model that learns from chats and is asked by raw prompts, or the reverse."""
    trained = [("the expert", "expert.prompt", recipe.expert.prompt)]
    if recipe.expert.trained is not None:
        trained.clear()
    for index, base in enumerate(recipe.decode.bases):
        if base.tune_reference:
            key = f"decode.bases.{index}.tuned_prompt"
            trained.append((f"the directly tuned {base.slug}", key, base.tuned_prompt))
    for model, key, prompt in trained:
        if is_chat and prompt == "raw":
            logger.warning(
                "%s learns from chats, and will be asked without its chat template; "
                "%s=chat asks it as it learns",
                model,
                key,
            )
        if not is_chat and prompt != "raw":
            logger.warning(
                "%s learns from raw prompts, and will be asked in its chat template; "
                "%s=raw asks it as it learns",
                model,
                key,
            )
        if isinstance(prompt, ChatPrompt) and prompt.system is not None and is_chat:
            logger.warning(
                "%s is asked with the system's message of %s, and learns from the rows' own; "
                "let both be the same",
                model,
                key,
            )


def _renderer(recipe: Recipe, key: str) -> Render:
    """The small model's chat template, with the arguments that the expert is asked with.

    Args:
        key: the recipe's, which asks for it.

    Raises:
        ValueError: the model has none, or it takes no such argument.
    """
    small = recipe.expert
    source = starting_model(small, "expert")
    tokenizer = with_template(load_tokenizer(source), trained_template(recipe))
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{key}: '{source.name}' has no chat template to write messages with; "
            + (
                ""
                if recipe.method == "dpo"
                else "name a .jinja file in sft.chat_template_path, or "
            )
            + "take a model that has one"
        )
    arguments = prompt_form(small.prompt).arguments
    for argument in arguments:
        if not reads_argument(tokenizer, argument):
            raise ValueError(
                f"expert.prompt.template: '{argument}' is no argument of the chat template of "
                f"'{tokenizer.name_or_path}'; leave it out"
            )
    return chat_renderer(tokenizer, recipe.trainer.get("eos_token"), arguments)


def chat_renderer(
    tokenizer: PreTrainedTokenizerBase,
    eos: str | None = None,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> Render:
    """Messages as the tokenizer's template writes them, for a tokenizer to encode as any text.

    The token that the tokenizer puts before every text is left out, so that it is there once. White
    space after an end-of-text token is left out as well: the row's own end-of-text token follows.

    Args:
        arguments: of the template, as the expert is asked with.
    """
    eos = eos or cast(str | None, tokenizer.eos_token)
    (encoded,) = text_ids(tokenizer, [""])
    bos = tokenizer.bos_token if encoded and encoded[0] == tokenizer.bos_token_id else None

    def render(messages: Sequence[Message], is_open: bool, tools: list[Any] | None = None) -> str:
        given = [dict(message) for message in messages]
        text = tokenizer.apply_chat_template(
            given,
            tools=tools,
            chat_template=dated_template(tokenizer),
            tokenize=False,
            add_generation_prompt=is_open,
            **arguments,
        )
        assert isinstance(text, str)
        text = text.removeprefix(bos) if isinstance(bos, str) else text
        is_closed = not is_open and eos is not None and text.rstrip().endswith(eos)
        return text.rstrip() if is_closed else text

    return render

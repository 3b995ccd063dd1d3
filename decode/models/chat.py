"""Chats as ids: what a model's own chat template writes, and the token that ends a turn in it."""

import copy
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from jinja2 import Environment, TemplateError, meta
from transformers import PreTrainedTokenizerBase

from ..engine.request import Chat, Prompt
from .chat_date import dated_template

ANSWER = "An answer."  # of a chat that shows how a turn ends
REFUSALS = TemplateError, ValueError, TypeError, KeyError  # a chat that a template does not take
GENERATION = re.compile(r"{%[-+]?\s*(end)?generation\s*[-+]?%}")  # marks answers, for training


@dataclass(frozen=True, slots=True)
class PromptForm:
    """How a role reads a question: as it is, or as a user's turn in its chat template.

    Attributes:
        system: the message before it.
        prefix: the beginning of the answer, which completions go on from.
        arguments: of the template.
    """

    is_chat: bool = False
    system: str | None = None
    prefix: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def of(self, text: str) -> Prompt:
        """The prompt that asks a question."""
        if not self.is_chat:
            return text
        if self.system is None and self.prefix is None:
            return Chat(text, arguments=self.arguments)
        turns = (("system", self.system), ("user", text), ("assistant", self.prefix))
        messages = [{"role": role, "content": said} for role, said in turns if said is not None]
        return Chat(messages, self.prefix is not None, self.arguments)

    @property
    def settings(self) -> bool | dict[str, Any]:
        """The form as records have it: whether it is a chat, or what stands in the chat."""
        said = {"system": self.system, "prefix": self.prefix, "template": dict(self.arguments)}
        return {key: value for key, value in said.items() if value} or self.is_chat


RAW = PromptForm()


def chat_ids(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> list[int]:
    """A chat as the tokenizer's template writes it, up to where the answer begins or goes on.

    Raises:
        ValueError: in one line, there is no template, or it does not take the chat, or leaves out
            what a message says.
    """
    name, messages = tokenizer.name_or_path, chat.messages
    if own_template(tokenizer) is None:
        named = ", ".join(tokenizer.chat_template or ())
        has = f"no default among its chat templates ({named})" if named else "no chat template"
        raise ValueError(f"'{name}' has {has}; its prompts can only be raw")
    for argument in chat.arguments:
        if not reads_argument(tokenizer, argument):
            raise ValueError(
                f"'{argument}' is no argument of the chat template of '{name}'; leave it out"
            )
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if chat.goes_on and (not messages or messages[-1].get("role") != "assistant"):
        raise ValueError("a completion goes on from an assistant's message; let one be the last")
    template = dated_template(tokenizer)

    def write(turns: Sequence[Mapping[str, Any]]) -> str:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in turns],
            chat_template=template,
            add_generation_prompt=not chat.goes_on,
            continue_final_message=chat.goes_on,
            tokenize=False,
            **chat.arguments,
        )
        return str(text)

    try:
        text = write(messages)
        left_out = _left_out(messages, text, write)
    except REFUSALS as error:
        said = " ".join(str(error).split())
        raise ValueError(f"the chat template of '{name}' refuses this ({said:.200})") from None
    if left_out is not None:
        raise ValueError(
            f"the chat template of '{name}' leaves out the {left_out['role']}'s message "
            f"({left_out['content']!r:.60}); ask without it"
        )
    return cast(list[int], tokenizer(text, add_special_tokens=False)["input_ids"])


def _left_out(
    messages: Sequence[Mapping[str, Any]],
    text: str,
    write: Callable[[Sequence[Mapping[str, Any]]], str],
) -> Mapping[str, Any] | None:
    """The first message whose content is the same to the template as any other; None if none is.

    What a template changes, as thinking that it takes out of earlier answers, is not left out.
    """
    for number, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, str) or content.strip() in text:
            continue
        other = {**message, "content": ANSWER}
        if write([*messages[:number], other, *messages[number + 1 :]]) == text:
            return message
    return None


def own_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template of chats, the default of several; None if there is none."""
    template: Any = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def with_template(
    tokenizer: PreTrainedTokenizerBase, template: str | None
) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer with another chat template, or the tokenizer itself for None."""
    if template is None:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def reads_argument(tokenizer: PreTrainedTokenizerBase, argument: str) -> bool:
    """Whether the chat template reads an argument, which is none of transformers' own."""
    own = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    template = own_template(tokenizer)
    if template is None or argument in {"messages", *own}:
        return False
    return argument in _variables(template)


@functools.lru_cache
def _variables(template: str) -> frozenset[str]:
    """What a template reads and does not set itself; nothing if it is none."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        parsed = environment.parse(GENERATION.sub("", template))
        return frozenset(meta.find_undeclared_variables(parsed))
    except TemplateError:  # chats are refused with its message
        return frozenset()


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template writes after an answer; None if there is none.

    It is the first of the next turn where the last answer of a chat is followed by nothing. A
    model's generation_config.json may lack it.
    """
    if own_template(tokenizer) is None:
        return None
    asked = {"role": "user", "content": "A question."}
    chat = [asked, {"role": "assistant", "content": ANSWER}]
    added: dict[str, int] = cast(Any, tokenizer).get_added_vocab()
    for turns in (chat, [*chat, asked]):
        try:
            text = str(tokenizer.apply_chat_template(turns, tokenize=False))
        except REFUSALS:
            return None
        _, is_there, rest = text.rpartition(ANSWER)
        found = [token for token in added if is_there and rest.lstrip().startswith(token)]
        if found:
            return added[max(found, key=len)]
    return None

"""Chats as ids: what a model's own chat template writes, and the token that ends a turn in it."""

import copy
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..engine.request import Chat, Prompt
from .chat_date import dated_template

ANSWER = "An answer."  # of a chat that shows how a turn ends


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
        ValueError: in one line, there is no template, or it does not take the chat.
    """
    name, messages = tokenizer.name_or_path, chat.messages
    if tokenizer.chat_template is None:
        raise ValueError(f"'{name}' has no chat template; its prompts can only be raw")
    for argument in chat.arguments:
        if not reads_argument(tokenizer, argument):
            raise ValueError(
                f"'{argument}' is no argument of the chat template of '{name}'; leave it out"
            )
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if chat.goes_on and (not messages or messages[-1].get("role") != "assistant"):
        raise ValueError("a completion goes on from an assistant's message; let one be the last")
    try:
        ids = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=dated_template(tokenizer),
            add_generation_prompt=not chat.goes_on,
            continue_final_message=chat.goes_on,
            tokenize=True,
            return_dict=False,
            **chat.arguments,
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"the chat template of '{name}' refuses this ({said:.200})") from None
    return cast(list[int], ids)


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
    """Whether the chat template knows an argument, which is none of transformers' own."""
    own = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    known = re.search(rf"\b{re.escape(argument)}\b", tokenizer.get_chat_template())
    return known is not None and argument not in {"messages", *own}


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template writes after an answer; None if there is none.

    A model's generation_config.json may lack it.
    """
    if tokenizer.chat_template is None:
        return None
    chat = [{"role": "user", "content": "A question."}, {"role": "assistant", "content": ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(chat, tokenize=False))
    except (TemplateError, ValueError, TypeError, KeyError):  # for chats of another kind
        return None
    _, is_there, rest = text.rpartition(ANSWER)
    added: dict[str, int] = cast(Any, tokenizer).get_added_vocab()
    found = [token for token in added if is_there and rest.lstrip().startswith(token)]
    return added[max(found, key=len)] if found else None

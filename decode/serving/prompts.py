"""Prompts of clients as ids for each role, within what the models can hold."""

import copy
import threading
from collections.abc import Sequence
from typing import cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..engine.request import Chat, Prompt, RolePrompt
from ..evaluation.experiment import LETTERS_A_TOKEN
from ..models.chat_date import dated_template
from ..models.prompts import RoleTokenizers
from .protocol import BadRequest, Message
from .systems import Served


class PromptReader:
    """Reads prompts for one served system; for any thread, with tokenizers of its own.

    Args:
        max_length: tokens of prompt and completion together, where the models hold more.

    Attributes:
        max_length: tokens that a request's prompt and completion have together at most.
        has_chat_template: whether a role reads chats in a template of its own.
    """

    def __init__(self, served: Served, max_length: int) -> None:
        self.tokenizers: RoleTokenizers = copy.deepcopy(served.tokenizers)
        self.max_length = min(max_length, served.num_positions or max_length)
        own = self.tokenizers
        self.has_chat_template = any(
            one.chat_template is not None for one in (own.base, own.expert, own.antiexpert)
        )
        self._served = served
        self._lock = threading.Lock()  # a tokenizer's settings change while it encodes

    def text(self, prompt: str | list[int]) -> RolePrompt:
        """A text as this system's models read it, or token ids as they are.

        Raises:
            BadRequest: in one line what is wrong.
        """
        if isinstance(prompt, str):
            self._check_size(len(prompt))
            return self._encode(self._served.prompt(prompt), "prompt")
        found = self._served.prompt("")
        reads_chats = isinstance(found, Chat) or (
            isinstance(found, RolePrompt) and isinstance(found.expert, Chat)
        )
        if reads_chats:
            raise BadRequest(
                "prompt: token ids, and this model reads prompts in a chat template; send text",
                "prompt",
            )
        if max(prompt) >= self._served.num_ids:
            raise BadRequest(
                f"prompt: token id {max(prompt)}; the models have {self._served.num_ids}", "prompt"
            )
        return self._encode(prompt, "prompt")

    def chat(self, messages: Sequence[Message]) -> RolePrompt:
        """A chat, which every role reads in its own template.

        A role without a template reads a single user's message as bare text.

        Raises:
            BadRequest: in one line what is wrong.
        """
        turns = [message.turn() for message in messages]
        self._check_size(sum(len(turn["content"]) for turn in turns))
        roles = (self.tokenizers.base, self.tokenizers.expert, self.tokenizers.antiexpert)
        with self._lock:
            ids = {id(role): _chat(role, turns) for role in roles}
        return self._encode(RolePrompt(*(ids[id(role)] for role in roles)), "messages")

    def num_tokens(self, prompts: Sequence[RolePrompt], limit: int | None, usual: int) -> int:
        """How long the completions of prompts may be.

        Args:
            limit: what the client asks; None is the usual number, or as many as fit.

        Raises:
            BadRequest: it is too long for a prompt.
        """
        roles = [(one.base, one.expert, one.antiexpert) for one in prompts]
        num_prompt_tokens = max(len(cast(list[int], ids)) for own in roles for ids in own)
        room = self.max_length - num_prompt_tokens
        num_tokens = max(1, min(usual, room)) if limit is None else limit
        if num_tokens > room:
            raise BadRequest(
                f"the prompt has {num_prompt_tokens} tokens; with max_tokens {num_tokens} it is "
                f"longer than the {self.max_length} that this server holds: shorten either",
                code="context_length_exceeded",
            )
        return num_tokens

    def _check_size(self, num_letters: int) -> None:
        if num_letters > self.max_length * LETTERS_A_TOKEN:
            raise BadRequest(
                f"the prompt has {num_letters} characters; it is longer than the "
                f"{self.max_length} tokens that this server holds",
                code="context_length_exceeded",
            )

    def _encode(self, prompt: RolePrompt | Prompt, param: str) -> RolePrompt:
        try:
            with self._lock:
                return self.tokenizers.encode(prompt)
        except (ValueError, TemplateError) as error:
            raise BadRequest(f"{param}: {' '.join(str(error).split()):.300}", param) from None


def _chat(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> Prompt:
    if tokenizer.chat_template is None:
        if len(turns) == 1 and turns[0]["role"] == "user":
            return turns[0]["content"]
        raise BadRequest(
            "messages: a model without a chat template reads a single user's message; "
            "send one, or /v1/completions",
            "messages",
        )
    try:
        ids = tokenizer.apply_chat_template(
            turns,
            chat_template=dated_template(tokenizer),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        return cast(list[int], ids)
    except TemplateError as error:
        said = " ".join(str(error).split())
        raise BadRequest(
            f"messages: the chat template refuses them ({said:.200})", "messages"
        ) from None

"""Prompts of clients as ids for each role, within what the models can hold."""

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from ..backends.thinker import Thinker, ThinkingRow
from ..backends.thinking import Thinking
from ..engine.request import Chat, Completion, Prompt, RolePrompt
from ..evaluation.experiment import LETTERS_A_TOKEN
from ..models.chat import own_template, reads_argument
from ..models.prompts import RoleTokenizers, reads_chats
from .protocol import BadRequest, ChatBody
from .systems import Served

THINKING = Thinking()  # its marks are those of the base's template, and it has no budget


class PromptReader:
    """Reads prompts for one served system; for any thread, with tokenizers of its own.

    Args:
        max_length: tokens of prompt and completion together, where the models hold more.
        thinking: of chats, unless they bring a budget of their own.

    Attributes:
        max_length: tokens that a request's prompt and completion have together at most.
        has_chat_template: whether a role reads chats in a template of its own.
    """

    def __init__(self, served: Served, max_length: int, thinking: Thinking = THINKING) -> None:
        self.tokenizers: RoleTokenizers = copy.deepcopy(served.tokenizers)
        self.max_length = min(max_length, served.num_positions or max_length)
        own = self.tokenizers
        self.has_chat_template = any(
            own_template(one) is not None for one in (own.base, own.expert, own.antiexpert)
        )
        self._served, self._thinking = served, thinking
        self._lock = threading.Lock()  # a tokenizer's settings change while it encodes

    def text(self, prompt: str | list[int]) -> RolePrompt:
        """A text as this system's models read it, or token ids as they are.

        Raises:
            BadRequest: in one line what is wrong.
        """
        if isinstance(prompt, str):
            self._check_size(len(prompt))
            return self._encode(self._served.prompt(prompt), "prompt")
        if reads_chats(self._served.prompt("")):
            raise BadRequest(
                "prompt: token ids, and this model reads prompts in a chat template; send text",
                "prompt",
            )
        if max(prompt) >= self._served.num_ids:
            raise BadRequest(
                f"prompt: token id {max(prompt)}; the models have {self._served.num_ids}", "prompt"
            )
        return self._encode(prompt, "prompt")

    def chat(self, body: ChatBody) -> RolePrompt:
        """A chat, which every role reads in its own template.

        Arguments of the templates are the recipe's own, and the client's before them. A role
        without a template reads a single user's message as bare text.

        Raises:
            BadRequest: in one line what is wrong.
        """
        turns, own = [message.turn() for message in body.messages], self.tokenizers
        self._check_size(sum(len(said) for turn in turns for said in turn.values()))
        asked, given = self._served.prompt(""), body.template_arguments
        roles = [(own.base, asked)]
        if isinstance(asked, RolePrompt):
            prompts = (asked.base, asked.expert, asked.antiexpert)
            roles = list(zip((own.base, own.expert, own.antiexpert), prompts, strict=True))
        for key in given:
            if not any(reads_argument(one, key) for one, _ in roles):
                field = "chat_template_kwargs" if key in body.own_arguments else key
                raise BadRequest(
                    f"{field}: no chat template of '{self._served.name}' has an argument "
                    f"'{key:.60}'",
                    field,
                )
        goes_on = bool(body.continue_final_message)
        chats = [_chat(one, turns, goes_on, prompt, given) for one, prompt in roles]
        whole = RolePrompt(*chats) if len(chats) > 1 else chats[0]
        return self._encode(whole, "messages")

    def thinker(self, body: ChatBody) -> tuple[Thinker | None, int]:
        """What keeps a chat's thinking apart, and how many tokens that adds to an answer's.

        It is None where the base does not show how it marks thinking.

        Raises:
            BadRequest: such a base is given a budget.
        """
        base, budget = self.tokenizers.base, body.thinking_token_budget
        marks = self._thinking.marks(base)
        if marks is None and budget is not None:
            raise BadRequest(
                f"thinking_token_budget: no chat template of '{self._served.name}' shows how it "
                "marks thinking",
                "thinking_token_budget",
            )
        if marks is None:
            return None, 0
        thinking = replace(self._thinking, max_tokens=budget or self._thinking.max_tokens)
        with self._lock:
            thinker = Thinker(self.tokenizers, marks, thinking.max_tokens)
            return thinker, thinking.num_tokens([base])

    def told(self, thinker: Thinker, row: ThinkingRow, done: Completion) -> Completion | None:
        """`Thinker.told`, for any thread."""
        with self._lock:
            return thinker.told(row, done)

    def num_tokens(
        self, prompts: Sequence[RolePrompt], limit: int | None, usual: int, num_thinking: int = 0
    ) -> int:
        """How long the completions of prompts may be.

        Args:
            limit: what the client asks; None is the usual number, or as many as fit.
            num_thinking: tokens that go before them.

        Raises:
            BadRequest: it is too long for a prompt.
        """
        roles = [(one.base, one.expert, one.antiexpert) for one in prompts]
        num_prompt_tokens = max(len(cast(list[int], ids)) for own in roles for ids in own)
        room = self.max_length - num_prompt_tokens - num_thinking
        num_tokens = max(1, min(usual, room)) if limit is None else limit
        if num_tokens > room:
            more = f" and {num_thinking} of thinking" if num_thinking else ""
            raise BadRequest(
                f"the prompt has {num_prompt_tokens} tokens; with max_tokens {num_tokens}{more} it "
                f"is longer than the {self.max_length} that this server holds: shorten either",
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
        except ValueError as error:
            raise BadRequest(f"{param}: {' '.join(str(error).split()):.300}", param) from None


def _chat(
    tokenizer: PreTrainedTokenizerBase,
    turns: list[dict[str, str]],
    goes_on: bool,
    asked: Prompt | RolePrompt,
    given: Mapping[str, Any],
) -> Prompt:
    """A role's chat; `asked` is how the recipe asks it, `given` the client's arguments."""
    if own_template(tokenizer) is None:
        if len(turns) == 1 and turns[0]["role"] == "user":
            return turns[0]["content"]
        raise BadRequest(
            "messages: a model without a chat template reads a single user's message; "
            "send one, or /v1/completions",
            "messages",
        )
    known = {key: value for key, value in given.items() if reads_argument(tokenizer, key)}
    own = asked.arguments if isinstance(asked, Chat) else {}
    return Chat(turns, goes_on, {**own, **known})

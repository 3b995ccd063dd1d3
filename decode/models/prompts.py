"""Prompts as ids: each role's own tokenizer, raw or through its chat template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from ..engine.request import Chat, Prompt, RolePrompt
from .chat import chat_ids
from .text_reader import TextReader


@dataclass(frozen=True, slots=True)
class RoleTokenizers:
    """Each role's tokenizer; prompts may differ by role, continuations are the base's tokens.

    Attributes:
        readers: of the base's tokens by expert and anti-expert, if those have tokens of their own.
    """

    base: PreTrainedTokenizerBase
    expert: PreTrainedTokenizerBase
    antiexpert: PreTrainedTokenizerBase
    readers: tuple[TextReader, TextReader] | None = None

    @classmethod
    def alone(cls, tokenizer: PreTrainedTokenizerBase) -> "RoleTokenizers":
        """The tokenizers of a model alone: one for every role."""
        return cls(tokenizer, tokenizer, tokenizer)

    def encode(self, prompt: RolePrompt | Prompt) -> RolePrompt:
        """The prompt as ids for each role. Raises ValueError as `encode` does."""
        return RolePrompt(*self.encode_all(prompt))

    def encode_all(self, prompt: RolePrompt | Prompt) -> tuple[list[int], list[int], list[int]]:
        """The ids that base, expert and anti-expert read; bare ids are the base's."""
        if not isinstance(prompt, RolePrompt):
            if self.expert is self.base is self.antiexpert:
                ids = encode(self.base, prompt)
                return ids, ids, ids
            prompt = self._by_role(prompt)
        base, expert = encode(self.base, prompt.base), encode(self.expert, prompt.expert)
        return base, expert, encode(self.antiexpert, prompt.antiexpert)

    def longer(self, prompt: RolePrompt, token_ids: Sequence[int]) -> RolePrompt:
        """A prompt as ids that goes on with tokens of the base, as each role reads them."""
        more = [token_ids] * 3
        if self.readers is not None:
            more[1:] = [reader.ids(token_ids) for reader in self.readers]
        roles = (prompt.base, prompt.expert, prompt.antiexpert)
        return RolePrompt(
            *([*cast(Sequence[int], a), *b] for a, b in zip(roles, more, strict=True))
        )

    def _by_role(self, prompt: Prompt) -> RolePrompt:
        if self.readers is None or isinstance(prompt, str | Chat):
            return RolePrompt.same(prompt)
        expert, antiexpert = self.readers
        return RolePrompt(
            prompt,
            _read(expert, self.expert, prompt),
            _read(antiexpert, self.antiexpert, prompt),
        )


def encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """A prompt as ids: text with the tokenizer's own first token, a chat by its chat template.

    Raises:
        ValueError: the prompt has no tokens, or a chat cannot be written.
    """
    if isinstance(prompt, str):
        (ids,) = text_ids(tokenizer, [prompt])
    elif isinstance(prompt, Chat):
        ids = chat_ids(tokenizer, prompt)
    else:
        ids = list(prompt)
    if not ids:
        raise ValueError("an empty prompt has no token to continue; give it at least one")
    return ids


def reads_chats(prompt: RolePrompt | Prompt) -> bool:
    """Whether any role reads a chat."""
    is_one = not isinstance(prompt, RolePrompt)
    roles = [prompt] if is_one else [prompt.base, prompt.expert, prompt.antiexpert]
    return any(isinstance(one, Chat) for one in roles)


def _read(
    reader: TextReader, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]
) -> list[int]:
    """A prompt of the base's ids as a small model reads it, after what its texts begin with."""
    own, (begin,) = reader.ids(prompt), text_ids(tokenizer, [""])
    return encode(tokenizer, own if own[: len(begin)] == begin else [*begin, *own])


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Texts as ids, after the tokens that the tokenizer puts before every text.

    Those that it puts after one (`add_eos_token`) are left out: a prompt goes on, and the end of a
    training row is written by who makes the row. A text that begins with its own bos token, as
    chat templates write it, gets no second one.
    """
    one: Any = tokenizer("a", return_special_tokens_mask=True)
    mask, bos = one["special_tokens_mask"], tokenizer.bos_token_id
    num_after = next((n for n, is_added in enumerate(reversed(mask)) if not is_added), 0)
    doubled = [bos, bos] if bos is not None and one["input_ids"][0] == bos else None
    rows: Any = tokenizer(list(texts))["input_ids"]
    return [ids[ids[:2] == doubled : len(ids) - num_after] for ids in rows]

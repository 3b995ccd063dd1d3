"""Prompts as ids: each role's own tokenizer, raw or through its chat template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from ..engine.request import Chat, Prompt, RolePrompt
from .chat_date import dated_template
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
    """A prompt as ids: text with the tokenizer's own first token, a turn by its chat template.

    Raises:
        ValueError: the prompt has no tokens, or the tokenizer has no template for a turn.
    """
    if isinstance(prompt, str):
        (ids,) = text_ids(tokenizer, [prompt])
    elif not isinstance(prompt, Chat):
        ids = list(prompt)
    elif tokenizer.chat_template is None:
        raise ValueError(
            f"'{tokenizer.name_or_path}' has no chat template; its prompts can only be raw"
        )
    else:
        turn = [{"role": "user", "content": prompt.text}]
        ids = tokenizer.apply_chat_template(
            turn,
            chat_template=dated_template(tokenizer),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
    if not ids:
        raise ValueError("an empty prompt has no token to continue; give it at least one")
    return cast(list[int], ids)


def _read(
    reader: TextReader, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]
) -> list[int]:
    """A prompt of the base's ids as a small model reads it, after what its texts begin with."""
    own, (begin,) = reader.ids(prompt), text_ids(tokenizer, [""])
    return encode(tokenizer, own if own[: len(begin)] == begin else [*begin, *own])


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Texts as ids, after the tokens that the tokenizer puts before every text.

    Those that it puts after one (`add_eos_token`) are left out: a prompt goes on, and the end of a
    training row is written by who makes the row.
    """
    mask: Any = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
    num_after = next((n for n, is_added in enumerate(reversed(mask)) if not is_added), 0)
    rows: Any = tokenizer(list(texts))["input_ids"]
    return [ids[: len(ids) - num_after] for ids in rows]

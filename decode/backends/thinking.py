"""Thinking as it is told from the answer that follows it, within a budget of tokens."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

from transformers import PreTrainedTokenizerBase

from ..engine.request import Completion
from ..models.chat import own_template

NUM_BLANKS = 2  # tokens of white space that may come before the start mark
# As published templates write them: DeepSeek-R1, Qwen3 and many more; Magistral; Gemma 4; gpt-oss.
MARKS = (
    ("<think>", "</think>\n\n"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)

Marks = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Thinking:
    """How thinking is told from the answer, and how long it may be.

    Attributes:
        start, end: the marks around it; None are those that a model's chat template shows.
        max_tokens: between the marks at most; then the end mark is put there. None is no budget of
            its own: thinking and answer share the request's max_new_tokens, and no end is put.
    """

    start: str | None = None
    end: str | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if (self.start is None) != (self.end is None):
            raise ValueError("thinking: start and end go together; give both, or leave both out")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"thinking: max_tokens must be 1 or more, found {self.max_tokens}")

    def marks(self, tokenizer: PreTrainedTokenizerBase) -> Marks | None:
        """The start and end mark of a model; None if its template shows none of those known."""
        if self.start is not None and self.end is not None:
            return self.start, self.end
        template = own_template(tokenizer) or ""
        shown = (marks for marks in MARKS if marks[0] in template or marks[1].strip() in template)
        return next(shown, None)

    def num_tokens(self, tokenizers: Iterable[PreTrainedTokenizerBase]) -> int:
        """How many tokens it may add to a completion's max_new_tokens, marks included.

        Args:
            tokenizers: of all models that may think.

        Raises:
            ValueError: the marks of none of them are known.
        """
        found = [(one, marks) for one in tokenizers if (marks := self.marks(one))]
        if not found:
            raise ValueError(
                "decode.thinking: no model's chat template shows how it marks thinking; "
                "give start and end"
            )
        if self.max_tokens is None:
            return 0
        return self.max_tokens + max(
            num_opening(one, start) + len(plain_ids(one, end)) for one, (start, end) in found
        )


@dataclass(frozen=True, slots=True)
class Thought(Completion):
    """A completion that thought first: its text is the answer, `token_ids` are of both.

    Attributes:
        thinking: the text between the marks.
        num_thinking_tokens: the start mark included where it was emitted.
        thinking_end: emitted by the model, put there when the budget was used up, or missing. Of
            thinking that never ended the answer is empty.
    """

    thinking: str
    num_thinking_tokens: int
    thinking_end: Literal["own", "budget", "never"]


def num_opening(tokenizer: PreTrainedTokenizerBase, start: str) -> int:
    """How many tokens a completion may take to emit the start mark."""
    ids = plain_ids(tokenizer, start)
    is_token = ids[0] in set(cast(Any, tokenizer).get_added_vocab().values())
    return NUM_BLANKS + (len(ids) if is_token else len(start.encode()))


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text, without those that a tokenizer puts around it."""
    return cast(list[int], tokenizer.encode(text, add_special_tokens=False))

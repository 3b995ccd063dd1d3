"""How a model is asked a question: raw, in its chat template, or in a chat of the recipe's."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from .section import Section


class ChatPrompt(Section):
    """A question as a user's turn in the model's chat template, and what stands around it."""

    system: str | None = Field(default=None, min_length=1)
    """The system's message before the question; null is none."""
    prefix: str | None = Field(default=None, min_length=1)
    """How the answer begins; completions go on from it. null is the template's own beginning."""
    template: dict[str, Any] | None = None
    """Arguments of the template, such as enable_thinking: false."""


WORD, CHAT = "(a word)", "(a chat)"  # no part of any key


def _kind(prompt: Any) -> str:
    return CHAT if isinstance(prompt, dict | ChatPrompt) else WORD


AnyPrompt = Annotated[
    Annotated[Literal["raw", "chat"], Tag(WORD)] | Annotated[ChatPrompt, Tag(CHAT)],
    Discriminator(_kind),
]


class Thinking(Section):
    """How thinking is told from the answer after it; answers alone are scored."""

    start: str | None = Field(default=None, min_length=1)
    """What it begins with; null is what each model's chat template shows."""
    end: str | None = Field(default=None, min_length=1)
    """What it ends with, likewise; given together with start."""
    max_tokens: int | None = Field(default=None, ge=1)
    """After so many tokens of thinking its end is put there, and the answer follows; null is no
    budget of its own: thinking and answer share max_new_tokens."""

    @model_validator(mode="after")
    def _both_marks(self) -> "Thinking":
        if (self.start is None) != (self.end is None):
            raise ValueError("start and end go together; give both, or leave both out")
        return self

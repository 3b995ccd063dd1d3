"""What is asked of a completer, and what comes back.

A request carries all that decides its completion, so requests of any kinds go together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .rule import Alpha
from .sampling import Sampling

Name = int | str  # of a request; with the seed it fixes the request's draws
FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Chat:
    """Turns, which the reading model's own chat template writes out."""

    messages: str | Sequence[Mapping[str, Any]]  # a user's text, or messages as templates take them
    goes_on: bool = False  # the completion goes on from the last message
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)  # of the template


Prompt = str | Chat | Sequence[int]  # text, a chat, or token ids as they are


@dataclass(frozen=True, slots=True)
class RolePrompt:
    """One prompt as each role reads it; all models then see the same continuation."""

    base: Prompt
    expert: Prompt
    antiexpert: Prompt

    @classmethod
    def same(cls, prompt: Prompt) -> "RolePrompt":
        """The prompt for every role alike."""
        return cls(prompt, prompt, prompt)


@dataclass(frozen=True, slots=True)
class Request:
    """A completion to be made.

    Attributes:
        name: unique among the requests under way.
        prompt: a bare prompt is read by every role; a model alone reads the base's.
        max_new_tokens: the completion's length at most, the end of the text included.
        stop: strings that end it, also across tokens; they are no part of its text.
        alpha: scale of the shift; None is the completer's own.
        banned_ids: tokens that are never chosen.
        stop_ids: tokens that end it, beside those that end any text.
    """

    name: Name
    prompt: RolePrompt | Prompt
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    alpha: Alpha | None = None
    banned_ids: tuple[int, ...] = ()
    stop_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or more, found {self.max_new_tokens}")


@dataclass(frozen=True, slots=True)
class Completion:
    """A request that has ended."""

    name: Name
    text: str  # without the stop that ended it and without special tokens
    token_ids: tuple[int, ...]  # everything emitted, the stop included
    finish_reason: FinishReason

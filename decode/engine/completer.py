"""The seam: what is asked of whatever decodes, here, on another engine or behind an endpoint.

Evaluation, checks during training and the Python entry know a `Completer` and nothing below it. A
request carries all that decides its completion, so requests of any kinds go together.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from .logits import Alpha
from .sampling import Sampling

Name = int | str  # of a request; with the seed it fixes the request's draws
FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True, slots=True)
class Chat:
    """A user's turn, which the reading model's own chat template writes out."""

    text: str


Prompt = str | Chat | Sequence[int]  # text, a turn, or token ids as they are


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
    """

    name: Name
    prompt: RolePrompt | Prompt
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    alpha: Alpha | None = None
    banned_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or more, found {self.max_new_tokens}")


@dataclass(frozen=True, slots=True)
class Completion:
    """A request that has ended.

    Attributes:
        text: without the stop that ended it and without special tokens.
        token_ids: everything emitted, the stop included.
    """

    name: Name
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Continuation:
    """A completion that is given, to be scored."""

    name: Name
    prompt: RolePrompt | Prompt
    token_ids: Sequence[int]
    alpha: Alpha | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """How likely a continuation is, token by token.

    Attributes:
        logprobs: natural logarithms, one a token, as the completer would draw at temperature 1.
        is_greedy: whether each token is the likeliest at its place.
        by_role: the same logarithms by base, expert and anti-expert, where they can be told.
    """

    name: Name
    logprobs: tuple[float, ...]
    is_greedy: tuple[bool, ...]
    by_role: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class Completer(Protocol):
    """Whatever completes and scores: models in memory, another engine, an endpoint.

    A completion is a function of its request alone: not of the requests beside it, their order or
    number. In float32, greedy completions of the same models are the same token for token in every
    completer.
    """

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """A completion of each request, as they end, in any order.

        Raises:
            ValueError: two requests have one name, or a prompt cannot be encoded.
        """
        ...

    def score(self, continuations: Iterable[Continuation]) -> Iterator[Scored]:
        """The scores of each continuation, in any order."""
        ...

    def taken(self) -> dict[str, Any]:
        """What completing has taken so far, for people: rates, seconds, memory."""
        ...

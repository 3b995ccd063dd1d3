"""A base behind an endpoint: what it is asked, what it shows, and how much of it was seen.

The endpoint shows the likeliest next tokens of a text and their log-probabilities. All others are
unreachable, whatever the expert thinks of them; `Coverage` measures what that hides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

NUM_UNMATCHED_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt and what was emitted so far; as ids, the one after the other."""

    prompt: str | tuple[int, ...]
    completion: str = ""


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token as the endpoint calls it; `raw` are its bytes, where it says them."""

    text: str
    logprob: float
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """What may follow, likeliest first, and what was paid for the answer.

    Attributes:
        is_end: the endpoint ends there, and shows nothing else.
        is_new: it was asked now; otherwise the answer was on record.
    """

    tokens: tuple[ShownToken, ...]
    is_end: bool = False
    is_new: bool = True
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0


class NextTokens(Protocol):
    """Shows what may follow texts."""

    def show(self, asked: Sequence[Asked]) -> list[Shown]:
        """What may follow each, in their order; how many tokens, the endpoint was told."""
        ...


@dataclass(frozen=True, slots=True)
class EndpointSource:
    """Where a base that is not loaded is asked.

    Attributes:
        name: of the model, as the server calls it.
        url: of the endpoint.
        top_logprobs: how many tokens it shows.
        prompt: as what it is asked.
        goes_on: it continues what was emitted; otherwise completions have one token.
        asked: all else that decides its answers.
        next_tokens: asks it.
        key: the recipe's, which errors name.
    """

    name: str
    url: str
    top_logprobs: int
    prompt: Literal["text", "ids"] = "text"
    goes_on: bool = True
    asked: dict[str, Any] = field(default_factory=dict, hash=False)
    next_tokens: NextTokens = field(kw_only=True, compare=False, repr=False)
    key: str = field(default="", compare=False)

    @property
    def identity(self) -> dict[str, Any]:
        """What is recorded of it beside results; of the address no more than that."""
        own = {"name": self.name, "endpoint": self.url, "top_logprobs": self.top_logprobs}
        return {**own, "prompt": self.prompt, **self.asked}


@dataclass(slots=True)
class Coverage:
    """How much of the base was seen, and what was paid for it.

    Attributes:
        num_steps: next tokens that were asked for.
        mass: sum over them of the base's probability of the tokens that could be chosen.
        num_favourites, num_hidden: steps with an expert; those where its likeliest token was not
            among them.
        num_new: answers that were paid for; the others were on record.
        unmatched: how often a token was shown that could not be chosen, by its text.
    """

    num_steps: int = 0
    mass: float = 0.0
    num_favourites: int = 0
    num_hidden: int = 0
    num_new: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    unmatched: dict[str, int] = field(default_factory=dict)

    def add(self, shown: Shown, mass: float, unmatched: Sequence[str]) -> None:
        """One step: an answer, the probability of its usable tokens, and the other tokens."""
        self.num_steps += 1
        self.mass += mass
        if shown.is_new:
            self.num_new += 1
            self.num_prompt_tokens += shown.num_prompt_tokens
            self.num_completion_tokens += shown.num_completion_tokens
        for text in unmatched:
            self.unmatched[text] = self.unmatched.get(text, 0) + 1

    def summary(self) -> dict[str, Any]:
        """Shares and counts by name; a share is None where nothing was counted."""
        steps, favourites = self.num_steps, self.num_favourites
        return {
            "num_steps": steps,
            "visible_mass": self.mass / steps if steps else None,
            "expert_hidden": self.num_hidden / favourites if favourites else None,
            "num_requests": self.num_new,
            "num_from_record": steps - self.num_new,
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_completion_tokens": self.num_completion_tokens,
            "num_unmatched": sum(self.unmatched.values()),
            "unmatched": list(self.unmatched)[:NUM_UNMATCHED_SHOWN],
        }

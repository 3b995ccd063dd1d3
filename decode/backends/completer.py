"""The seam: requests in, completions and scores out.

Models in memory, another engine or an endpoint may implement it. Evaluation, checks during training
and the Python entry call a `Completer` and nothing below it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..engine.request import Completion, Name, Prompt, Request, RolePrompt
from ..engine.rule import Alpha
from ..models.prompts import RoleTokenizers

Likeliest = tuple[tuple[tuple[int, float], ...], ...]  # at each place (token, logarithm)


@dataclass(frozen=True, slots=True)
class Continuation:
    """A completion that is given, to be scored; `token_ids` are the base's.

    Attributes:
        num_likeliest: how many of the likeliest tokens at each place are wanted as well.
    """

    name: Name
    prompt: RolePrompt | Prompt
    token_ids: Sequence[int]
    alpha: Alpha | None = None
    num_likeliest: int = 0


@dataclass(frozen=True, slots=True)
class Scored:
    """How likely a continuation is, token by token.

    Attributes:
        logprobs: natural logarithms, one a token, as the completer would draw at temperature 1.
        is_greedy: whether each token is the likeliest at its place.
        by_role: the same logarithms by base, expert and anti-expert, where the completer has them.
        likeliest: at each place as many tokens as were wanted and their logarithms, likeliest
            first.
        likeliest_by_role: the same of each role in `by_role`.
    """

    name: Name
    logprobs: tuple[float, ...]
    is_greedy: tuple[bool, ...]
    by_role: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    likeliest: Likeliest = ()
    likeliest_by_role: Mapping[str, Likeliest] = field(default_factory=dict)


class NotFinite(ValueError):
    """Logits are NaN or infinite, so that no token can be drawn from them.

    Attributes:
        name: of the request.
        problem: which model's, and where.
    """

    def __init__(self, name: Name, problem: str, system: str | None = None) -> None:
        super().__init__(f"{'' if system is None else f'{system}, '}row '{name}': {problem}")
        self.name, self.problem = name, problem


class Completer(Protocol):
    """Completes requests and scores continuations: models in memory, another engine, an endpoint.

    A completion is a function of its request alone: not of the requests beside it, their order or
    number. In float32, greedy completions of the same models are the same token for token in every
    completer.
    """

    def complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """A completion of each request, as they end, in any order.

        Raises:
            ValueError: two requests have one name, or a prompt cannot be encoded.
            NotFinite: a model says NaN or infinity of a row.
        """
        ...

    def score(self, continuations: Iterable[Continuation]) -> Iterator[Scored]:
        """The scores of each continuation, in any order; raises as `complete` does."""
        ...

    def taken(self) -> dict[str, Any]:
        """Counts and timings of all completing so far: see `metrics.Decoding`."""
        ...


class ModelCompleter(Completer, Protocol):
    """A completer of models whose tokenizers are at hand: those in memory, or on vLLM."""

    tokenizers: RoleTokenizers
    batch_size: int  # rows stepped together at most

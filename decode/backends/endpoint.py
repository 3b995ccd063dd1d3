"""The completer of a base behind an endpoint, alone or steered by small models in memory.

The base's logits are the log-probabilities that the endpoint shows, -inf for every token it does
not show:

    base_logprob + alpha * (expert - antiexpert), over the tokens that are shown

Everything else is as in memory, in the same engine: alpha of a request, stops, and draws, which a
seed fixes to the same tokens. Scores are those of this distribution, so a token that is not shown
has -inf, and the shown ones share all of the probability.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..engine.engine import Pick
from ..engine.request import Chat, Prompt, RolePrompt
from ..engine.row import Row
from ..engine.rule import Alpha
from ..engine.stops import added
from ..models.lane import Lane
from ..models.language_model import LanguageModel, ids
from ..models.pair import Logits, Pair
from ..models.prompts import RoleTokenizers
from ..models.steered import Steered, Steering
from ..models.token_bytes import TokenIds, is_text
from ..models.vocab import Vocabulary
from .completer import NotFinite
from .local import LocalCompleter
from .next_tokens import Asked, Coverage, EndpointSource, Shown


class Written(tuple[int, ...]):
    """A prompt's ids, and the text that the endpoint is sent for it."""

    text: str

    @classmethod
    def of(cls, ids: Sequence[int], text: str) -> "Written":
        made = cls(ids)
        made.text = text
        return made


class WrittenTokenizers(RoleTokenizers):
    """Tokenizers that keep the text of the base's prompt beside its ids."""

    def encode(self, prompt: RolePrompt | Prompt) -> RolePrompt:
        """The prompt as ids for each role. Raises ValueError as `RoleTokenizers.encode` does."""
        found = RoleTokenizers.encode(self, prompt)
        base = prompt.base if isinstance(prompt, RolePrompt) else prompt
        if isinstance(base, Chat):
            raise ValueError("a base behind an endpoint reads bare text; give it text or ids")
        text = base if isinstance(base, str) else str(self.base.decode(list(base)))
        return replace(found, base=Written.of(cast(Sequence[int], found.base), text))


class EndpointModel:
    """A base behind an endpoint, stepped as a `LanguageModel` without drafts.

    Shapes: B rows, V tokens of the vocabulary.

    Args:
        tokenizer: of the small untuned model; what the endpoint shows is read by it.
        eos_ids: ids that end a completion.
        device: where its logits are wanted.

    Attributes:
        coverage: how much of the base was seen so far.
    """

    can_draft = can_roll_back = False
    capture, num_recorded = None, 0

    def __init__(
        self,
        source: EndpointSource,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: frozenset[int],
        device: torch.device,
    ) -> None:
        self._source, self._tokenizer, self.device = source, tokenizer, device
        self._token_ids = TokenIds(tokenizer)
        self.eos_ids = frozenset(id_ for id_ in eos_ids if id_ < self._token_ids.size)
        self.lane, self.coverage = Lane(None), Coverage()
        self._is_shown = torch.empty(0)  # (B, V) bool, of the last step

    def reserve(self, rows: Sequence[Row], num_slots: int, num_kept: int) -> None:
        """Nothing of a row is kept."""

    def move(self, source: int, target: int) -> None:
        """Nothing of a row is kept."""

    def clear(self) -> None:
        """Nothing of a row is kept."""

    def prefill(self, rows: Sequence[Row], slots: Sequence[int]) -> Tensor:
        """(B, V) float32 log-probabilities of what follows, -inf where they are not shown."""
        shown = self._source.next_tokens.show([self._asked(row) for row in rows])
        logits = torch.full((len(rows), self._token_ids.size), -torch.inf)
        for own, row, answer in zip(logits, rows, shown, strict=True):
            for id_, logprob in self._reachable(row, answer).items():
                own[id_] = logprob
        self._is_shown = logits > -torch.inf
        return logits.to(self.device)

    def draft(self, rows: Sequence[Row], num_tokens: int, pick: Pick) -> Tensor:
        """No drafts: (B, 0) int64."""
        return torch.empty(len(rows), 0, dtype=torch.long, device=self.device)

    def read(self, rows: Sequence[Row], drafts: Tensor) -> Tensor:
        """The same after each row's newest token: (B, 1, V)."""
        assert not drafts.shape[1], "an endpoint verifies no drafts"
        return self.prefill(rows, ())[:, None]

    def compare(self, expert: Tensor) -> None:
        """Count the rows of the last step whose likeliest token, to the expert, is not shown.

        Args:
            expert: (B, any width) logits.
        """
        favourites = expert[:, : self._token_ids.size].argmax(-1, keepdim=True).cpu()
        self.coverage.num_favourites += len(favourites)
        self.coverage.num_hidden += int((~self._is_shown.gather(1, favourites)).sum())

    def _asked(self, row: Row) -> Asked:
        if self._source.prompt == "ids":
            return Asked((*ids(row), *row.token_ids))
        emitted = added(self._tokenizer, ids(row), row.token_ids) if row.token_ids else ""
        return Asked(cast(Written, row.prompt.base).text, emitted)

    def _reachable(self, row: Row, shown: Shown) -> dict[int, float]:
        """Log-probabilities of the tokens that the row can go on with, by id."""
        found: dict[int, float] = {}
        unmatched: list[str] = []
        for token in shown.tokens:
            id_ = self._token_ids.find(token.text, token.raw)
            if id_ is None or not self._can_be_sent(id_):
                unmatched.append(token.text)
            else:
                found.setdefault(id_, token.logprob)
        self.coverage.add(shown, sum(map(math.exp, found.values())), unmatched)
        if shown.is_end:  # its probability is not told, so it counts as nothing that was seen
            found |= dict.fromkeys(self.eos_ids, 0.0)
        if max(found.values(), default=-math.inf) == -math.inf:
            told = ", ".join(repr(text) for text in unmatched[:3]) or "no token"
            raise NotFinite(
                row.request.name,
                f"{self._source.name} at {self._source.url} shows {told} after "
                f"{len(row.token_ids)} tokens of the completion, and nothing that the expert's "
                "vocabulary has; take a larger top_logprobs, or an expert of the base's family",
            )
        return found

    def _can_be_sent(self, id_: int) -> bool:
        """Whether a row that ends with this token can be written out as the endpoint reads it."""
        if self._source.prompt == "ids" or id_ in self.eos_ids:
            return True
        raw = self._token_ids.bytes[id_]
        return raw is not None and is_text(raw) and id_ not in self._tokenizer.all_special_ids


class EndpointCompleter(LocalCompleter):
    """A `Completer` of a base behind an endpoint, alone or steered.

    Args:
        base: its coverage is part of what completing took.
        model: the base itself, or what steers it.
    """

    def __init__(
        self,
        base: EndpointModel,
        model: EndpointModel | Steered,
        tokenizers: RoleTokenizers,
        batch_size: int = 8,
    ) -> None:
        own = WrittenTokenizers(
            tokenizers.base, tokenizers.expert, tokenizers.antiexpert, tokenizers.readers
        )
        super().__init__(cast(Any, model), own, batch_size, 0)
        self._coverage = base.coverage

    def taken(self) -> dict[str, Any]:
        return {**super().taken(), "endpoint": self._coverage.summary()}


def steered_endpoint(
    base: EndpointModel, steering: Sequence[Steering], vocabulary: Vocabulary, alpha: Alpha
) -> Steered:
    """The base steered by experts; the first expert's likeliest tokens are compared with it."""
    first = replace(steering[0], pair=cast(Pair, _Compared(steering[0].pair, base)))
    return Steered(cast(LanguageModel, base), [first, *steering[1:]], vocabulary, alpha)


class _Compared:
    """A pair whose expert is compared, step by step, with what the base shows."""

    def __init__(self, pair: Pair, base: EndpointModel) -> None:
        self._pair, self._base = pair, base

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pair, name)

    def prefill(self, rows: Sequence[Row], slots: Sequence[int]) -> Logits:
        said = self._pair.prefill(rows, slots)
        self._base.compare(said[0])
        return said

    def read(self, rows: Sequence[Row], drafts: Tensor) -> Logits:
        said = self._pair.read(rows, drafts)
        self._base.compare(said[0][:, 0])
        return said

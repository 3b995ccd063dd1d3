"""The small models side by side: an expert and the anti-expert it was tuned from.

A LoRA expert is its anti-expert plus a few low-rank matrices, so both run as one forward of
twice the rows over one copy of the weights: even rows are the expert's and get the adapter, odd
rows are the anti-expert's. Anything else is two models.
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Self, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..engine.engine import Pick
from ..engine.row import Row, Rows
from .adapted import AdaptedModel, AdaptedRows, adapted_network, share_weights
from .adapters import adapter_base, brings_embeddings, is_adapter, load_adapted
from .architectures import is_positional
from .lane import side_by_side
from .language_model import LanguageModel, ids
from .mapped import MappedModel
from .model_source import ModelSource
from .recurrent import as_language_model
from .sources import load_config, load_tokenizer, load_weights
from .text_reader import TextReader

logger = logging.getLogger(__name__)

Logits = tuple[Tensor, Tensor]  # of expert and anti-expert
Place = tuple[LanguageModel, int, int]  # a model, how many slots a row has in it, and which


class SharedPair:
    """Expert and anti-expert over one copy of the weights; even slots are the expert's.

    Attributes:
        expert, antiexpert: each role alone.
    """

    def __init__(
        self, model: PreTrainedModel, adapted: AdaptedRows, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self._both: LanguageModel = AdaptedModel(model, tokenizer, adapted, _even)
        self.expert: LanguageModel = AdaptedModel(model, tokenizer, adapted, _all)
        self.antiexpert: LanguageModel = AdaptedModel(model, tokenizer, adapted, _none)

    @property
    def models(self) -> list[LanguageModel]:
        """The models that are stepped."""
        return [self._both, self.expert, self.antiexpert]

    @property
    def places(self) -> tuple[Place, Place]:
        """Where expert and anti-expert have their rows."""
        return (self._both, 2, 0), (self._both, 2, 1)

    def read_by(self, expert: TextReader, antiexpert: TextReader) -> Self:
        """The same models, which read the base's text in tokens of their own."""
        own = copy.copy(self)
        own._both = _mapped(self._both, expert, antiexpert)
        own.expert, own.antiexpert = (
            _mapped(self.expert, expert),
            _mapped(self.antiexpert, antiexpert),
        )
        return own

    def with_own_cache(self) -> Self:
        """The same weights with slots of their own."""
        own = copy.copy(self)
        own._both, own.expert, own.antiexpert = (one.with_own_cache() for one in self.models)
        return own

    def reserve(self, rows: Sequence[Row], num_slots: int, num_kept: int) -> None:
        """Make room for both roles' prompts; see `engine.Steppable`."""
        longest = max(_longest(rows, "expert"), _longest(rows, "antiexpert"))
        self._both.make_room(longest, 2 * num_slots, 2 * num_kept)

    def prefill(self, rows: Sequence[Row], slots: Sequence[int]) -> Logits:
        """(B, V) logits of what follows the expert's prompts, and the anti-expert's."""
        prompts = [ids(row, role) for row in rows for role in ("expert", "antiexpert")]
        logits = self._both.fill(prompts, [2 * slot + i for slot in slots for i in (0, 1)])
        return logits[0::2], logits[1::2]

    def draft(self, rows: Sequence[Row], num_tokens: int, pick: Pick) -> Tensor:
        """Drafts of the expert alone: (B, k) int64."""
        drafts, _ = _continue(self._both, range(0, 2 * len(rows), 2), rows, num_tokens, pick)
        return drafts

    def read(self, rows: Sequence[Row], drafts: Tensor) -> Logits:
        """(B, k + 1, V) logits after the newest token and each draft, of expert and anti-expert."""
        twice = [row for row in rows for _ in (0, 1)]
        logits = self._both.read(twice, drafts.repeat_interleave(2, 0))
        return logits[0::2], logits[1::2]

    def move(self, source: int, target: int) -> None:
        """Move a row of both roles; see `engine.Steppable`."""
        for role in (0, 1):
            self._both.move(2 * source + role, 2 * target + role)


class TwoModels:
    """Expert and anti-expert as models of their own (a fully tuned expert)."""

    def __init__(self, expert: LanguageModel, antiexpert: LanguageModel) -> None:
        self.expert, self.antiexpert = expert, antiexpert
        self._drafting_logits: list[Tensor] = []

    @property
    def models(self) -> list[LanguageModel]:
        """The models that are stepped."""
        return [self.expert, self.antiexpert]

    @property
    def places(self) -> tuple[Place, Place]:
        """Where expert and anti-expert have their rows."""
        return (self.expert, 1, 0), (self.antiexpert, 1, 0)

    def read_by(self, expert: TextReader, antiexpert: TextReader) -> Self:
        """The same models, which read the base's text in tokens of their own."""
        return type(self)(_mapped(self.expert, expert), _mapped(self.antiexpert, antiexpert))

    def with_own_cache(self) -> Self:
        """The same weights with slots of their own."""
        return type(self)(*(one.with_own_cache() for one in self.models))

    def reserve(self, rows: Sequence[Row], num_slots: int, num_kept: int) -> None:
        """Make room for both roles' prompts; see `engine.Steppable`."""
        self.expert.make_room(_longest(rows, "expert"), num_slots, num_kept)
        self.antiexpert.make_room(_longest(rows, "antiexpert"), num_slots, num_kept)

    def prefill(self, rows: Sequence[Row], slots: Sequence[int]) -> Logits:
        """(B, V) logits of what follows the expert's prompts, and the anti-expert's."""
        expert = self.expert.fill([ids(row, "expert") for row in rows], slots)
        return expert, self.antiexpert.fill([ids(row, "antiexpert") for row in rows], slots)

    def draft(self, rows: Sequence[Row], num_tokens: int, pick: Pick) -> Tensor:
        """Drafts of the expert alone: (B, k) int64."""
        slots = range(len(rows))
        drafts, self._drafting_logits = _continue(self.expert, slots, rows, num_tokens, pick)
        return drafts

    def read(self, rows: Sequence[Row], drafts: Tensor) -> Logits:
        """(B, k + 1, V) logits after the newest token and each draft, of expert and anti-expert.

        If the expert has drafted, it reads only the last draft: it has read the others.
        """
        expert, antiexpert = side_by_side(
            [
                (self.expert.lane, lambda: self._read_expert(rows, drafts)),
                (self.antiexpert.lane, lambda: self.antiexpert.read(rows, drafts)),
            ]
        )
        return expert, antiexpert

    def _read_expert(self, rows: Sequence[Row], drafts: Tensor) -> Tensor:
        earlier, self._drafting_logits = self._drafting_logits, []
        if not earlier:
            return self.expert.read(rows, drafts)
        last = self.expert.step(drafts[:, -1:], range(len(rows)), rows, drafts.shape[1])
        return torch.cat((*earlier, last), 1)

    def move(self, source: int, target: int) -> None:
        """Move a row of both roles; see `engine.Steppable`."""
        self.expert.move(source, target)
        self.antiexpert.move(source, target)


Pair = SharedPair | TwoModels


def _continue(
    expert: LanguageModel, slots: range, rows: Sequence[Row], num_tokens: int, pick: Pick
) -> tuple[Tensor, list[Tensor]]:
    """Drafts of the rows in `slots`, (B, k), and the logits of each place, k of (B, 1, V)."""
    rows = Rows(rows, expert.device)
    tokens, logits = rows.newest[:, :0], []
    with expert.lane.entered():
        token = rows.newest
        for number in range(num_tokens):
            logits.append(expert.step(token, slots, rows, ahead=number))
            token = pick(logits[-1][:, 0].float(), tokens)[:, None].to(tokens.device)
            tokens = torch.cat((tokens, token), 1)
    return tokens, logits


def _mapped(model: LanguageModel, *readers: TextReader) -> LanguageModel:
    return cast(LanguageModel, MappedModel(model, readers))


def _longest(rows: Sequence[Row], role: Literal["expert", "antiexpert"]) -> int:
    """Tokens of the longest prompt and completion."""
    return max(len(ids(row, role)) + row.request.max_new_tokens for row in rows)


def _even(slots: Sequence[int]) -> slice | list[int]:
    if isinstance(slots, range):
        return slice(None) if slots.step == 2 else slice(slots.start % 2, None, 2)
    return [row for row, slot in enumerate(slots) if slot % 2 == 0]


def _all(slots: Sequence[int]) -> slice:
    return slice(None)


def _none(slots: Sequence[int]) -> slice:
    return slice(0, 0)


def load_tuned(source: ModelSource, device: str) -> LanguageModel:
    """A tuned model on its own: whole weights, or an adapter in its base, unmerged."""
    tokenizer = load_tokenizer(source)
    if not is_adapter(source):
        return as_language_model(load_weights(source, device), tokenizer)
    adapted = load_adapted(source, load_weights(adapter_base(source), device))
    return as_language_model(adapted_network(adapted), tokenizer)


def load_pair(expert: ModelSource, antiexpert: ModelSource, device: str) -> Pair:
    """The two small models, over one copy of the weights where the expert is a LoRA of the other.

    Args:
        expert: an adapter, or whole weights.
        antiexpert: whole weights; an adapter is put on them where its own base is not in reach.
        device: "cpu", "cuda", "cuda:1", or "auto" for the first of several GPUs: small models stay
            on one, beside a base that is spread over all.
    """
    device = "cuda:0" if device == "auto" else device
    tokenizer = load_tokenizer(antiexpert)
    expert = replace(expert, untuned=antiexpert)
    small = load_weights(antiexpert, device)
    is_own_adapter = is_adapter(expert) and adapter_base(expert).is_same_model(antiexpert)
    if (
        is_own_adapter
        and is_positional(load_config(antiexpert))
        and not brings_embeddings(expert, small)
    ):
        shared = share_weights(load_adapted(expert, small))
        if shared is not None:
            return SharedPair(*shared, tokenizer)
        small = load_weights(antiexpert, device)  # without the adapter
    if is_own_adapter:
        logger.info("%s is not a plain LoRA adapter: decoding with two small models", expert.name)
    return TwoModels(load_tuned(expert, device), as_language_model(small, tokenizer))

"""A base and the small models that steer it, stepped as one `engine.Steppable`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..engine.engine import Pick
from ..engine.row import Row
from ..engine.rule import Alpha, Rule, Small, steered_logits
from .lane import Lane, side_by_side
from .language_model import LanguageModel
from .pair import Logits, Pair
from .vocab import Vocabulary


@dataclass(frozen=True, slots=True)
class Steering:
    """An expert and its anti-expert, and the weight of their difference."""

    pair: Pair
    weight: float = 1.0


def steering_by(pairs: Iterable[tuple[Pair, float]], vocabulary: Vocabulary) -> list[Steering]:
    """Experts with their weights; each reads the text in tokens of its own if it has them."""
    readers = vocabulary.readers
    return [
        Steering(pair.read_by(*readers[number]) if readers else pair, weight)
        for number, (pair, weight) in enumerate(pairs)
    ]


class Steered:
    """base + alpha * sum of weight * (expert - antiexpert).

    The first expert drafts. Shapes: B rows, k drafts, V tokens of the vocabulary.

    Args:
        base: the large model.
        steering: one expert and anti-expert, or several; all experts read the expert's prompt.
        vocabulary: what tokens the models share.
        alpha: of requests that bring none of their own.
    """

    def __init__(
        self,
        base: LanguageModel,
        steering: Pair | Sequence[Steering],
        vocabulary: Vocabulary,
        alpha: float | Alpha,
    ) -> None:
        self.base, self.vocabulary = base, vocabulary
        self.steering = steering if isinstance(steering, Sequence) else [Steering(steering)]
        self.alpha = alpha if isinstance(alpha, Alpha) else Alpha(alpha)
        self.can_draft = all(model.can_roll_back for model in self.models)

    def with_own_cache(self) -> "Steered":
        """The same weights with slots of their own, for rows that this one does not step."""
        steering = [replace(one, pair=one.pair.with_own_cache()) for one in self.steering]
        return Steered(self.base.with_own_cache(), steering, self.vocabulary, self.alpha)

    @property
    def models(self) -> list[LanguageModel]:
        """All of them, the base first."""
        return [self.base, *(model for pair in self._pairs for model in pair.models)]

    @property
    def pair(self) -> Pair:
        """The expert that drafts, and its anti-expert."""
        return self.steering[0].pair

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a completion for any of the models, less those the base does not have."""
        ids = frozenset().union(*(model.eos_ids for model in self.models))
        return frozenset(id_ for id_ in ids if id_ < self.vocabulary.size)

    def reserve(self, rows: Sequence[Row], num_slots: int, num_kept: int) -> None:
        for model in (self.base, *self._pairs):
            model.reserve(rows, num_slots, num_kept)

    def prefill(self, rows: Sequence[Row], slots: Sequence[int]) -> Tensor:
        base = self.base.prefill(rows, slots)[:, None]
        small = [pair.prefill(rows, slots) for pair in self._pairs]
        return self._combine(base, [(e[:, None], a[:, None]) for e, a in small], rows)[:, 0]

    def draft(self, rows: Sequence[Row], num_tokens: int, pick: Pick) -> Tensor:
        def pick_common(logits: Tensor, earlier: Tensor) -> Tensor:
            fitted = self.vocabulary.fit(logits, -torch.inf).to(self.device)
            if self._shared is not None:
                fitted = fitted.where(self._shared, -torch.inf)
            return pick(fitted, earlier.to(self.device))

        return self.pair.draft(rows, num_tokens, pick_common).to(self.device)

    def read(self, rows: Sequence[Row], drafts: Tensor) -> Tensor:
        here = Lane(None)  # a pair sends its models to lanes of their own
        base, *small = side_by_side(
            [
                (self.base.lane, lambda: self.base.read(rows, drafts)),
                *((here, lambda pair=pair: pair.read(rows, drafts)) for pair in self._pairs),
            ]
        )
        return self._combine(base, small, rows)

    def move(self, source: int, target: int) -> None:
        for model in (self.base, *self._pairs):
            model.move(source, target)

    def clear(self) -> None:
        """Free all caches."""
        for model in self.models:
            model.clear()

    @property
    def _pairs(self) -> list[Pair]:
        return [steering.pair for steering in self.steering]

    def _combine(self, base: Tensor, small: Sequence[Logits], rows: Sequence[Row]) -> Tensor:
        """(B, T, V) float32 from logits at the rows' next T places."""
        fit = self.vocabulary.fit
        base = fit(base, -torch.inf)
        fitted = [
            (fit(expert).to(self.device), fit(antiexpert).to(self.device), steering.weight)
            for steering, (expert, antiexpert) in zip(self.steering, small, strict=True)
        ]
        groups: dict[tuple[Rule, tuple[int, ...]], list[int]] = {}
        for number, row in enumerate(rows):
            rule = (row.request.alpha or self.alpha).rule
            banned_ids = row.request.banned_ids if rule.plausible_to else ()  # bans come after
            groups.setdefault((rule, banned_ids), []).append(number)
        if len(groups) == 1:
            (rule, banned_ids), _ = groups.popitem()
            return self._ruled(base, fitted, rows, rule, banned_ids)
        combined = base.new_empty(base.shape, dtype=torch.float32)
        for (rule, banned_ids), members in groups.items():
            where = torch.tensor(members, device=self.device)
            own = [(expert[where], anti[where], weight) for expert, anti, weight in fitted]
            members_rows = [rows[number] for number in members]
            combined[where] = self._ruled(base[where], own, members_rows, rule, banned_ids)
        return combined

    def _ruled(
        self,
        base: Tensor,
        small: Sequence[Small],
        rows: Sequence[Row],
        rule: Rule,
        banned_ids: Sequence[int],
    ) -> Tensor:
        if banned_ids:
            banned = torch.tensor(banned_ids, device=self.device)
            base = base.index_fill(-1, banned, -torch.inf)
        return steered_logits(base, small, self._alpha(rows, base.shape[1]), rule, self._shared)

    @property
    def _shared(self) -> Tensor | None:
        shared = self.vocabulary.shared
        return None if shared is None else shared.to(self.device)

    def _alpha(self, rows: Sequence[Row], num_places: int) -> float | Tensor:
        """Alpha at the rows' next places: one number where all are alike, else (B, T, 1)."""
        table = [
            [
                (row.request.alpha or self.alpha).at(len(row.token_ids) + ahead)
                for ahead in range(num_places)
            ]
            for row in rows
        ]
        if len({value for row in table for value in row}) == 1:
            return table[0][0]
        return torch.tensor(table, device=self.device)[..., None]

"""A base and the small models that steer it, stepped as one; see engine.Steppable."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.alpha import Alpha
from ..engine.logits import proxy_logits
from .language_model import LanguageModel, Pick
from .pair import Logits, Pair
from .streams import side_by_side
from .vocab import Vocabulary


@dataclass(frozen=True, slots=True)
class RolePrompt:
    """The same prompt as each role reads it; all models then see the same continuation.

    Attributes:
        alpha: for this completion; None is the model's own.
    """

    base: Sequence[int]
    expert: Sequence[int]
    antiexpert: Sequence[int]
    alpha: Alpha | None = None


@dataclass(frozen=True, slots=True)
class Steering:
    """An expert and its anti-expert, and the weight of their difference."""

    pair: Pair
    weight: float = 1.0


class Steered:
    """base + alpha * sum of weight * (expert - antiexpert).

    The first expert drafts. Shapes: B rows, k drafts, V tokens of the vocabulary.

    Args:
        base: the large model.
        steering: one expert and anti-expert, or several; all experts read the expert's prompt.
        vocabulary: what tokens the models share.
        alpha: unless a prompt brings its own.
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
        models = [base, *(m for s in self.steering for m in (s.pair.expert, s.pair.antiexpert))]
        self.can_draft = all(model.can_roll_back for model in models)
        self._alphas: list[Alpha] = []  # by slot
        self._num_emitted: list[int] = []  # by slot

    @property
    def pair(self) -> Pair:
        """The expert that drafts, and its anti-expert."""
        return self.steering[0].pair

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids by which any model would end; those beyond the base's vocabulary are moot."""
        small = [m for s in self.steering for m in (s.pair.expert, s.pair.antiexpert)]
        ids = frozenset().union(*(model.eos_ids for model in (self.base, *small)))
        return frozenset(id_ for id_ in ids if id_ < self.vocabulary.size)

    def open(self, prompts: Sequence[RolePrompt], num_slots: int, num_new_tokens: int) -> None:
        """As LanguageModel.open."""
        self._alphas, self._num_emitted = [self.alpha] * num_slots, [0] * num_slots
        expert, antiexpert = [p.expert for p in prompts], [p.antiexpert for p in prompts]
        self.base.open([p.base for p in prompts], num_slots, num_new_tokens)
        for steering in self.steering:
            steering.pair.open(expert, antiexpert, num_slots, num_new_tokens)

    def prefill(self, prompts: Sequence[RolePrompt], slots: Sequence[int]) -> Tensor:
        """As LanguageModel.prefill: (B, V) float32, combined."""
        for slot, prompt in zip(slots, prompts, strict=True):
            self._alphas[slot] = prompt.alpha or self.alpha
            self._num_emitted[slot] = 0
        expert, antiexpert = [p.expert for p in prompts], [p.antiexpert for p in prompts]
        base = self.base.prefill([p.base for p in prompts], slots)
        small = [one.pair.prefill(expert, antiexpert, slots) for one in self.steering]
        return self._combine(base[:, None], [(e[:, None], a[:, None]) for e, a in small], slots)[
            :, 0
        ]

    def draft(self, num_rows: int, num_tokens: int, pick: Pick) -> Tensor:
        """What the first expert alone would say next: (B, k) int64."""

        def pick_common(logits: Tensor, number: int) -> Tensor:
            fitted = self.vocabulary.fit(logits, -torch.inf).to(self.device)
            shared = self._shared
            return pick(fitted if shared is None else fitted.where(shared, -torch.inf), number)

        return self.pair.draft(num_rows, num_tokens, pick_common).to(self.device)

    def read(self, drafts: Tensor) -> Tensor:
        """Combined logits of what follows the newest token and each draft.

        Args:
            drafts: (B, k) int64.

        Returns:
            (B, k + 1, V) float32.
        """
        readers = [self.base, *(steering.pair for steering in self.steering)]
        base, *small = side_by_side([lambda m=m: m.read(drafts) for m in readers], self.device)
        return self._combine(base, small, range(len(drafts)))

    def _combine(self, base: Tensor, small: Sequence[Logits], slots: Sequence[int]) -> Tensor:
        """(B, T, V) float32 from logits at the rows' next T places."""
        alpha = self._alpha(slots, base.shape[1])
        fit, shared = self.vocabulary.fit, self._shared
        combined = fit(base, -torch.inf)
        for steering, (expert, antiexpert) in zip(self.steering, small, strict=True):
            combined = proxy_logits(
                combined,
                fit(expert).to(self.device),
                fit(antiexpert).to(self.device),
                alpha * steering.weight,
                shared,
            )
        return combined

    def commit(self, emitted: Sequence[Sequence[int]], slots: Sequence[int]) -> None:
        """As LanguageModel.commit."""
        for slot, tokens in zip(slots, emitted, strict=True):
            self._num_emitted[slot] += len(tokens)
        self.base.commit(emitted, slots)
        for steering in self.steering:
            steering.pair.commit(emitted, slots)

    def move(self, source: int, target: int) -> None:
        """As LanguageModel.move."""
        self._alphas[target] = self._alphas[source]
        self._num_emitted[target] = self._num_emitted[source]
        self.base.move(source, target)
        for steering in self.steering:
            steering.pair.move(source, target)

    @property
    def _shared(self) -> Tensor | None:
        shared = self.vocabulary.shared
        return None if shared is None else shared.to(self.device)

    def _alpha(self, slots: Sequence[int], num_places: int) -> float | Tensor:
        """Alpha at the rows' next places: one number where all are alike, else (B, T, 1)."""
        table = [
            [self._alphas[slot].at(self._num_emitted[slot] + ahead) for ahead in range(num_places)]
            for slot in slots
        ]
        if len({value for row in table for value in row}) == 1:
            return table[0][0]
        return torch.tensor(table, device=self.device)[..., None]

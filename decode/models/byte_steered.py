"""A base steered byte by byte, by small models that may have any tokenizer.

Each model's distribution of the next byte is exact (byte_text.py), and their logarithms are
combined as tokens' are. A row emits bytes, or END.

A round goes on with every row until its base has to read: bytes up to there follow from what was
read before, and the engine sees them as drafts, which are always accepted. So rows need the base at
different bytes, and it reads all of them at once.

Shapes: B rows, T places, 257 symbols.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..engine.engine import Pick
from ..engine.row import Row
from ..engine.rule import Alpha
from .byte_model import ByteModel
from .byte_text import END, NUM_SYMBOLS
from .language_model import Ids, LanguageModel, ids
from .speller import Speller
from .steered import Steered, Steering
from .vocab import Vocabulary

NO_BYTE = -1  # after a row's last draft
BASE_TOLERANCE = 1e-3
SMALL_TOLERANCE = 1e-5  # their ratio counts, also where both are small


class BytePrompt(tuple[int, ...]):
    """A prompt's bytes, with the base's ids and the most tokens that the completion may have."""

    ids: Ids
    max_tokens: int

    @classmethod
    def of(cls, raw: bytes, ids: Ids, max_tokens: int) -> "BytePrompt":
        made = cls(raw)
        made.ids, made.max_tokens = ids, max_tokens
        return made


@dataclass(frozen=True, slots=True)
class Voice:
    """A role's rows: those in every so-manyth slot of a model."""

    model: ByteModel
    stride: int = 1
    first: int = 0

    def slot(self, row: int) -> int:
        """The slot of a row by number."""
        return self.stride * row + self.first

    def slots(self, rows: Sequence[int]) -> list[int]:
        """The slots of rows by number."""
        return [self.slot(row) for row in rows]


class SteeredByBytes(Steered):
    """base + alpha * sum of weight * (expert - antiexpert), of logarithms of bytes' probabilities.

    Its rows' prompts are a `BytePrompt` for the base and ids for the small models.

    Args:
        spellers: of the base, and of every expert and its anti-expert.
    """

    def __init__(
        self,
        base: LanguageModel,
        steering: Sequence[Steering],
        spellers: tuple[Speller, Sequence[tuple[Speller, Speller]]],
        alpha: float | Alpha,
    ) -> None:
        super().__init__(base, steering, Vocabulary(NUM_SYMBOLS), alpha)
        self.can_draft = True
        self.spellers = spellers
        own, small = spellers
        self._base = Voice(ByteModel(base, [own], BASE_TOLERANCE, is_small=False))
        self._small = [
            _voices(one, of_pair) for one, of_pair in zip(self.steering, small, strict=True)
        ]
        self._known: list[Tensor] = []  # by place, (B, 257) logits at the rows' drafts

    @property
    def eos_ids(self) -> frozenset[int]:
        return frozenset({END})

    def with_own_cache(self) -> "SteeredByBytes":
        """The same weights with slots of their own, for rows that this one does not step."""
        own = super().with_own_cache()
        return SteeredByBytes(own.base, own.steering, self.spellers, self.alpha)

    def reserve(self, rows: Sequence[Row], num_slots: int, num_kept: int) -> None:
        longest = max(
            max(len(_ids(row)), len(ids(row, "expert")), len(ids(row, "antiexpert")))
            + 2 * cast(BytePrompt, row.prompt.base).max_tokens
            for row in rows
        )
        for voice in self._first_voices:
            voice.model.make_room(longest, voice.stride * num_slots, voice.stride * num_kept)

    def prefill(self, rows: Sequence[Row], slots: Sequence[int]) -> Tensor:
        self._base.model.fill([_ids(row) for row in rows], slots)
        experts, antiexperts = (
            [ids(row, role) for row in rows] for role in ("expert", "antiexpert")
        )
        for expert, antiexpert in self._small:
            first, second = expert.slots(slots), antiexpert.slots(slots)
            if expert.model is antiexpert.model:
                expert.model.fill([*experts, *antiexperts], [*first, *second])
            else:
                expert.model.fill(experts, first)
                antiexpert.model.fill(antiexperts, second)
        return self._combined(rows, slots)

    def draft(self, rows: Sequence[Row], num_tokens: int, pick: Pick) -> Tensor:
        """Bytes for which no base has to read, (B, k) int64 with NO_BYTE after a row's last."""
        self._add([row.token_ids[-1] for row in rows])
        self._known = []
        going = [*range(len(rows))]
        drafts = torch.empty(len(rows), 0, dtype=torch.long, device=self.device)
        for _ in range(num_tokens):
            self._read_small(going)
            going = [row for row in going if self._base.model.is_read(row)]
            if not going:
                break
            logits = torch.zeros(len(rows), NUM_SYMBOLS, device=self.device)
            logits[going] = self._combined([rows[row] for row in going], going)
            self._known.append(logits)
            found = pick(logits, drafts).tolist()
            going = [row for row in going if found[row] != END]
            here = [found[row] if row in going else NO_BYTE for row in range(len(rows))]
            self._add(here)
            drafts = torch.cat((drafts, torch.tensor(here, device=self.device)[:, None]), 1)
        return drafts

    def read(self, rows: Sequence[Row], drafts: Tensor) -> Tensor:
        """(B, k + 1, 257) logits after each row's newest byte and its drafts; zeros beyond."""
        lengths = (drafts >= 0).sum(-1).tolist()
        found = torch.zeros(len(rows), drafts.shape[1] + 1, NUM_SYMBOLS, device=self.device)
        for place, logits in enumerate(self._known):
            found[:, place] = logits
        # A row that has stopped without END waits for the base.
        waiting = [row for row, length in enumerate(lengths) if not found[row, length].any()]
        if waiting:
            self._read_small(waiting)
            self._base.model.read(waiting)
            last = self._combined([rows[row] for row in waiting], waiting)
            found[waiting, [lengths[row] for row in waiting]] = last
        return found

    def move(self, source: int, target: int) -> None:
        for voice in self._voices:
            voice.model.move(voice.slot(source), voice.slot(target))

    def clear(self) -> None:
        for voice in self._first_voices:
            voice.model.clear()

    @property
    def _voices(self) -> list[Voice]:
        return [self._base, *(voice for pair in self._small for voice in pair)]

    @property
    def _first_voices(self) -> list[Voice]:
        """One of each model."""
        return [voice for voice in self._voices if not voice.first]

    def _add(self, found: Sequence[int]) -> None:
        """Rows go on with a byte each, if they have one."""
        for row, byte in enumerate(found):
            if byte != NO_BYTE:
                for voice in self._voices:
                    voice.model.add(voice.slot(row), byte)

    def _read_small(self, rows: Sequence[int]) -> None:
        for expert, antiexpert in self._small:
            if expert.model is antiexpert.model:
                expert.model.read([*expert.slots(rows), *antiexpert.slots(rows)])
            else:
                expert.model.read(expert.slots(rows))
                antiexpert.model.read(antiexpert.slots(rows))

    def _combined(self, rows: Sequence[Row], places: Sequence[int]) -> Tensor:
        """(B, 257) float32 of rows by number."""
        base = self._base.model.log_probs(self._base.slots(places))
        small = []
        for pair in self._small:
            logits = [voice.model.log_probs(voice.slots(places))[:, None] for voice in pair]
            full = [
                any(voice.model.is_full(voice.slot(place)) for voice in pair) for place in places
            ]
            for one in logits:  # a text that is too long for one is not shifted
                one[torch.tensor(full, device=one.device)] = 0.0
            small.append(tuple(logits))
        combined = self._combine(base[:, None], small, rows)[:, 0]
        for number, (row, place) in enumerate(zip(rows, places, strict=True)):
            if self._base.model.num_tokens(place) > cast(BytePrompt, row.prompt.base).max_tokens:
                combined[number] = -torch.inf
                combined[number, END] = 0.0
        return combined


def _voices(steering: Steering, spellers: tuple[Speller, Speller]) -> tuple[Voice, Voice]:
    (expert, stride, first), (antiexpert, _, second) = steering.pair.places
    if expert is antiexpert:
        model = ByteModel(expert, spellers, SMALL_TOLERANCE, is_small=True)
        return Voice(model, stride, first), Voice(model, stride, second)
    models = zip((expert, antiexpert), spellers, strict=True)
    one, other = (ByteModel(model, [own], SMALL_TOLERANCE, is_small=True) for model, own in models)
    return Voice(one, stride, first), Voice(other, stride, second)


def _ids(row: Row) -> Ids:
    return cast(BytePrompt, row.prompt.base).ids

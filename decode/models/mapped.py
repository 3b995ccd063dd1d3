"""A small model with another tokenizer than the base's, stepped as if it had the base's.

After each token it reads what has become of the text in its own tokens: from the first one that is
another than before, which is nearly always the last word. Its logits come back in the base's
vocabulary, each token's taken from its counterpart. That is approximate: a text that ends inside a
word is cut otherwise than the whole word would be.

Shapes: B rows, V tokens of the base.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ..engine.row import Row
from .language_model import Ids, LanguageModel, ids
from .rereading import Room, num_new
from .text_reader import TextReader


class MappedModel:
    """What a pair asks of a `LanguageModel`, with completions in the base's tokens.

    It reads one token of a row at a time. A row that has become longer than the model can hold has
    no shift from there on: all its logits are 0.

    Args:
        model: its prompts are in its own tokens.
        readers: of slots 0, 1, ... in turn.

    Attributes:
        eos_ids: the base's ids of what ends a completion for the model.
    """

    can_roll_back = False  # drafts: after a rejected one, tokens before it may be others

    def __init__(self, model: LanguageModel, readers: Sequence[TextReader]) -> None:
        self._model, self._readers = model, readers
        self._prompts: dict[int, list[int]] = {}  # by slot
        self._read: dict[int, list[int]] = {}  # by slot, prompt and completion
        self._room = Room(model)
        own_ids = readers[0].counterpart.tolist()
        self.eos_ids = frozenset(id_ for id_, own in enumerate(own_ids) if own in model.eos_ids)
        self._columns = [
            _Column.of(reader.column, model.device) for reader in dict.fromkeys(readers)
        ]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def with_own_cache(self) -> Self:
        """The same weights with slots of their own."""
        return type(self)(self._model.with_own_cache(), self._readers)

    def make_room(self, num_tokens: int, num_slots: int, num_kept: int) -> None:
        """As `LanguageModel.make_room`; a row that turns out longer gets more room by itself."""
        self._room.make(num_tokens, num_slots, num_kept)

    def clear(self) -> None:
        """Free the cache."""
        self._room.clear()

    def fill(self, prompts: Sequence[Ids], slots: Sequence[int]) -> Tensor:
        """Read prompts into slots: (B, V) logits of what follows each."""
        for slot, prompt in zip(slots, prompts, strict=True):
            self._prompts[slot] = list(prompt)
            self._read[slot] = list(prompt)
        return self._of_base(self._model.fill(prompts, slots))

    def move(self, source: int, target: int) -> None:
        """Move a row; see `engine.Steppable`."""
        self._model.move(source, target)
        self._prompts[target], self._read[target] = self._prompts[source], self._read[source]

    def read(self, rows: Sequence[Row], drafts: Tensor) -> Tensor:
        """Read what the rows' newest tokens make of their texts: (B, 1, V) logits after them."""
        assert not drafts.shape[1], "a text in other tokens cannot be read ahead"
        texts, is_full = zip(*(self._text(slot, row) for slot, row in enumerate(rows)), strict=True)
        self._room.fit(max(map(len, texts)))
        own_rows = []
        for slot, (row, text) in enumerate(zip(rows, texts, strict=True)):
            own_rows.append(copy.copy(row))
            own_rows[-1].token_ids = text[len(self._prompts[slot]) :]
        # All rows read as many tokens as the one that changed most, so that no padding is needed.
        widths = [num_new(self._read[slot], text) for slot, text in enumerate(texts)]
        slots = range(len(rows))
        is_narrow = max(widths) <= min(map(len, texts))
        logits = []
        for group in [slots] if is_narrow else [slots[i : i + 1] for i in slots]:
            width = max(widths[slot] for slot in group)
            tokens = torch.tensor([texts[slot][-width:] for slot in group], device=self.device)
            step = self._model.step(tokens, group, own_rows[group.start : group.stop], 1 - width)
            logits.append(step[:, -1])
        self._read.update(enumerate(texts))
        found = self._of_base(torch.cat(logits))
        if any(is_full):
            found[torch.tensor(is_full, device=found.device)] = 0.0
        return found[:, None]

    def _text(self, slot: int, row: Row) -> tuple[list[int], bool]:
        """A row in the model's tokens, and whether it is longer than the pair can hold."""
        completion = self._readers[slot % len(self._readers)].ids(row.token_ids)
        longest = max(len(ids(row, role)) for role in ("expert", "antiexpert"))
        if longest + len(completion) < self._room.longest:
            return [*self._prompts[slot], *completion], False
        self._room.warn_too_long()
        return self._read[slot], True

    def _of_base(self, logits: Tensor) -> Tensor:
        """(B, any width) logits of rows for each reader in turn, in the base's vocabulary."""
        columns, logits = self._columns, logits.float()
        parts = [column.of_base(logits[n :: len(columns)]) for n, column in enumerate(columns)]
        return parts[0] if len(parts) == 1 else torch.stack(parts, 1).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class _Column:
    """Where the logits of the base's tokens are found.

    Attributes:
        ids: (V,) int64, 0 where there is none.
        is_there: (V,) bool.
        num_ids: logits of this width have all of them; None if some are nowhere.
    """

    ids: Tensor
    is_there: Tensor
    num_ids: int | None

    @classmethod
    def of(cls, ids: Tensor, device: torch.device) -> Self:
        num_ids = int(ids.max()) + 1 if ids.min() >= 0 else None
        return cls(ids.clamp(min=0).to(device), (ids >= 0).to(device), num_ids)

    def of_base(self, logits: Tensor) -> Tensor:
        """(B, V) float32 logits; -inf where there is none.

        Where one is missing they are log-probabilities: a token without a shift then has one of 0.
        """
        if self.num_ids is not None and self.num_ids <= logits.shape[-1]:
            return logits[:, self.ids]
        is_there = self.is_there & (self.ids < logits.shape[-1])
        found = logits.log_softmax(-1)[:, self.ids.where(is_there, 0)]
        return found.where(is_there, -torch.inf)

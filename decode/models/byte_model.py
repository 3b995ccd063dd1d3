"""A model that writes tokens, stepped byte by byte.

Shape letters: B rows, V tokens of the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .byte_text import NUM_SYMBOLS, ByteText, Cover
from .byte_trie import ByteTrie
from .language_model import Ids, LanguageModel
from .rereading import Room, num_new
from .speller import Speller


@dataclass(slots=True)
class _Slot:
    """A text, its prompt, and what the model's cache has of both, as ids."""

    text: ByteText
    prompt: list[int]
    read: list[int]
    is_full: bool = False  # longer than the model can hold


class ByteModel:
    """The texts that a model writes, by slot.

    Args:
        spellers: of slots 0, 1, ... in turn.
        tolerance: the share of a text's probability that may be left unread.
        is_small: what is unread is spread over all bytes, and a text that has become longer than
            the model can hold has all of them alike, from there on.
    """

    def __init__(
        self,
        model: LanguageModel,
        spellers: Sequence[Speller],
        tolerance: float,
        is_small: bool,
    ) -> None:
        self._model, self._spellers = model, spellers
        self._tolerance, self._is_small = tolerance, is_small
        self._orders = [torch.tensor(_trie(one).ids, device=model.device) for one in spellers]
        self._ends = torch.tensor(sorted(model.eos_ids), dtype=torch.long, device=model.device)
        self._slots: dict[int, _Slot] = {}
        self._room = Room(model)

    def make_room(self, num_tokens: int, num_slots: int, num_kept: int) -> None:
        """As `LanguageModel.make_room`; a text that turns out longer gets more room by itself."""
        self._room.make(num_tokens, num_slots, num_kept)

    def clear(self) -> None:
        """Free the cache."""
        self._room.clear()

    def fill(self, prompts: Sequence[Ids], slots: Sequence[int]) -> None:
        """Read prompts into slots, each with a text that is to begin."""
        logits = self._model.fill(prompts, slots)
        for slot, prompt in zip(slots, prompts, strict=True):
            speller = self._spellers[slot % len(self._spellers)]
            text = ByteText(_trie(speller), speller)
            self._slots[slot] = _Slot(text, list(prompt), list(prompt))
        covers = {slot: self._slots[slot].text.unread(0) for slot in slots}
        self._take({slot: cover for slot, cover in covers.items() if cover}, logits)

    def move(self, source: int, target: int) -> None:
        """Move what was read of the row in slot `source` to slot `target`, whose row is gone."""
        self._model.move(source, target)
        self._slots[target] = self._slots.pop(source)

    def add(self, slot: int, byte: int) -> None:
        """A text goes on with a byte."""
        self._slots[slot].text.add(byte)

    def num_tokens(self, slot: int) -> int:
        """How many whole tokens a text has so far."""
        return self._slots[slot].text.num_tokens

    def is_full(self, slot: int) -> bool:
        """Whether a text is longer than the model can hold."""
        return self._slots[slot].is_full

    def is_read(self, slot: int) -> bool:
        """Whether the text's next byte is known as well as it should be."""
        return self._unread(slot) is None

    def read(self, slots: Sequence[int]) -> None:
        """Read what is to be known of the next byte of each text."""
        while covers := {slot: cover for slot in slots if (cover := self._unread(slot))}:
            self._read_covers(covers)

    def log_probs(self, slots: Sequence[int]) -> Tensor:
        """(B, 257) float32 natural logarithms of the next symbols' probabilities; see `read`."""
        even = np.full(NUM_SYMBOLS, 1 / NUM_SYMBOLS)
        probs = [
            even if own.is_full else own.text.next_probs(self._is_small)
            for own in (self._slots[slot] for slot in slots)
        ]
        return torch.from_numpy(np.stack(probs)).log().float().to(self._model.device)

    def _read_covers(self, covers: Mapping[int, Cover]) -> None:
        texts = {}
        for slot, cover in covers.items():
            own = self._slots[slot]
            texts[slot] = [*own.prompt, *own.text.done, *cover.ids]
        for slot in [*texts] if self._is_small else []:
            if len(texts[slot]) >= self._room.longest:
                self._room.warn_too_long()
                self._slots[slot].is_full = True
                del texts[slot]
        if not texts:
            return
        self._room.fit(max(map(len, texts.values())))
        # All read as many tokens as the one that changed most, so that no padding is needed.
        widths = {slot: num_new(self._slots[slot].read, text) for slot, text in texts.items()}
        is_narrow = max(widths.values()) <= min(map(len, texts.values()))
        for group in [[*texts]] if is_narrow else [[slot] for slot in texts]:
            width = max(widths[slot] for slot in group)
            tokens = [texts[slot][-width:] for slot in group]
            firsts = [len(texts[slot]) - width for slot in group]
            ids = torch.tensor(tokens, device=self._model.device)
            logits = self._model.read_at(ids, group, firsts)
            self._take({slot: covers[slot] for slot in group}, logits)
        for slot, text in texts.items():
            self._slots[slot].read = text

    def _take(self, covers: Mapping[int, Cover], logits: Tensor) -> None:
        """Give covers what the model says after them, (B, V) logits."""
        probs = logits.float().softmax(-1)
        ends = probs[:, self._ends].sum(-1).tolist()
        for (slot, cover), own, end in zip(covers.items(), probs, ends, strict=True):
            ordered = own[self._orders[slot % len(self._orders)]].cpu().numpy()
            self._slots[slot].text.read(cover, ordered, end)

    def _unread(self, slot: int) -> Cover | None:
        own = self._slots[slot]
        return None if own.is_full else own.text.unread(self._tolerance)


@lru_cache(16)
def _trie(speller: Speller) -> ByteTrie:
    return ByteTrie(speller.tokens.bytes)

"""Texts that a model reads again from where they are cut anew, in a cache that grows with them."""

import logging
import sys
from collections.abc import Sequence

from .language_model import LanguageModel

logger = logging.getLogger(__name__)

GROWTH = 1.25  # of a cache that is too small: how long a text is in other tokens is not known


class Room:
    """The room for texts in a model's slots.

    Attributes:
        longest: tokens of a text that the model can hold.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._capacity = self._num_slots = 0
        self._has_warned = False
        config = model.model.config.get_text_config(decoder=True)
        self.longest: int = getattr(config, "max_position_embeddings", None) or sys.maxsize

    def make(self, num_tokens: int, num_slots: int, num_kept: int) -> None:
        """As `LanguageModel.make_room`."""
        self._model.make_room(num_tokens, num_slots, num_kept)
        self._capacity = max(num_tokens, self._capacity if num_kept else 0)
        self._num_slots = max(num_slots, self._num_slots if num_kept else 0)

    def clear(self) -> None:
        """Free the cache."""
        self._model.clear()
        self._capacity = self._num_slots = 0

    def fit(self, num_tokens: int) -> None:
        """Make more room if a text of so many tokens has none."""
        if num_tokens >= self._capacity:  # one place is for padding
            more = min(int(GROWTH * num_tokens) + 1, max(self.longest, num_tokens + 1))
            self.make(more, self._num_slots, self._num_slots)

    def warn_too_long(self) -> None:
        """Say, once, that a text is longer than the model can hold."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "a row is longer than the %d tokens that %s can hold, and goes on as the base "
                "alone would; further ones without a warning",
                self.longest,
                self._model.model.name_or_path,
            )


def num_new(old: Sequence[int], new: Sequence[int]) -> int:
    """How many of the new tokens are to be read after those that are there: 1 or more."""
    num_same = min(len(old), len(new) - 1)
    if old[:num_same] != new[:num_same]:
        pairs = zip(old, new, strict=False)
        num_same = next(place for place, (a, b) in enumerate(pairs) if a != b)
    return len(new) - num_same

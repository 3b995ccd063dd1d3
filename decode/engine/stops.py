"""What ends a row, any of some ids or of some strings in its text, and what its text is."""

import functools
from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

from .request import FinishReason
from .row import Row

PARTIAL = "\ufffd"  # what bytes that are no whole character decode to


class Stops:
    """The ends of a completion: tokens, or strings, which may begin and end inside tokens."""

    def __init__(
        self, ids: frozenset[int], strings: Sequence[str], tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.ids, self.strings, self._tokenizer = ids, tuple(strings), tokenizer
        # So many tokens hold a stop: each has a byte or more, but for some special ones.
        self._window = max((len(stop.encode()) for stop in self.strings), default=0) + 8
        self._may_end = functools.cache(self._may_end_a_string)  # decoding every tail is slow

    def text(self, row: Row) -> str:
        """What the completion adds to its prompt's text, cut before the earliest stop string."""
        text = added(self._tokenizer, cast(Sequence[int], row.prompt.base), row.token_ids)
        return text[: min((text.find(stop) for stop in self.strings if stop in text), default=None)]

    def reason(self, row: Row) -> FinishReason | None:
        """Why a row ends with its newest token, or None if it goes on."""
        ids = row.token_ids
        if ids[-1] in self.ids:
            return "eos"
        if self.strings and self._may_end(ids[-1]):
            before = [*cast(Sequence[int], row.prompt.base), *ids[: -self._window]]
            tail = added(self._tokenizer, before, ids[-self._window :])
            if any(stop in tail for stop in self.strings):
                return "stop"
        return None if row.num_left else "length"

    def _may_end_a_string(self, token: int) -> bool:
        """Whether some stop's last character may be in this token."""
        text = _decode(self._tokenizer, [token, token])  # the second one with its space
        return any(last in text for last in {PARTIAL, *(stop[-1] for stop in self.strings)})


def added(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]) -> str:
    """What tokens add to the text of those before them; alone they may lose their first space."""
    # The last few tokens are enough, if they have text that begins with a whole character.
    contexts = (before[-size:] for size in (8, 9, 10, 11))
    context = next((c for c in contexts if _decode(tokenizer, c)[:1] not in ("", PARTIAL)), before)
    known, text, place = _decode(tokenizer, context), _decode(tokenizer, [*context, *ids]), 0
    for character in known:
        if text[place : place + 1] == character:
            place += 1
        elif character != " ":  # as some tokenizers remove before punctuation
            break  # a character that is whole only now
    return text[place:]


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text in which part of a character, at its end, leaves the whole ones before it readable."""
    text = str(tokenizer.decode(list(ids), skip_special_tokens=True))
    for cut in range(1, 5 if text.endswith(PARTIAL) else 1):
        shorter = str(tokenizer.decode(list(ids[:-cut]), skip_special_tokens=True))
        if not shorter.endswith(PARTIAL):
            return text if text.startswith(shorter) else shorter + PARTIAL * cut
    return text

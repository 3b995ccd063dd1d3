"""What ends a row: any of some ids, or any of some strings in its text."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from .request import FinishReason


class Stops:
    """The ends of a completion: tokens, or strings, which are no part of its text.

    A string may end a completion across token boundaries, or in the middle of a token.
    """

    def __init__(
        self, ids: frozenset[int], strings: Sequence[str], tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.ids, self.strings, self._tokenizer = ids, tuple(strings), tokenizer
        # A token holds at least one byte, so a stop that ends in the newest token begins within
        # this many; the margin keeps partly decoded characters out of the way.
        self._window = max((len(stop.encode()) for stop in self.strings), default=0) + 8
        self._last_characters = {stop[-1] for stop in self.strings}
        self._may_end: dict[int, bool] = {}  # by token; decoding every tail would be slow

    def text(self, token_ids: Sequence[int]) -> str:
        """The completion as text, cut before the earliest stop string."""
        text = self._decode(token_ids)
        cuts = [text.find(stop) for stop in self.strings if stop in text]
        return text[: min(cuts)] if cuts else text

    def reason(self, token_ids: Sequence[int], limit: int) -> FinishReason | None:
        """Why a row that has emitted `token_ids` ends now, or None if it goes on."""
        newest = token_ids[-1]
        if newest in self.ids:
            return "eos"
        if self.strings and self._may_end_a_string(newest):
            tail = self._decode(token_ids[-self._window :])
            if any(stop in tail for stop in self.strings):
                return "stop"
        return "length" if len(token_ids) == limit else None

    def _may_end_a_string(self, token: int) -> bool:
        """Whether some stop's last character may be in this token."""
        if token not in self._may_end:
            text = self._decode([token])  # which may be part of a character, or trimmed white space
            may_be = "\ufffd" in text or any(last.isspace() for last in self._last_characters)
            self._may_end[token] = may_be or any(last in text for last in self._last_characters)
        return self._may_end[token]

    def _decode(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

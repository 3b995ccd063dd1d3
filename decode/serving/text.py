"""A completion's text while it grows: pieces that add up to the text it has in the end."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..engine.stops import PARTIAL, added

SETTLED_TOKENS = 32  # after so many, earlier ones are not decoded again
CLEANED = 4  # characters at the end that clean-up of spaces may still change


class GrowingText:
    """The text of one completion, of which a piece is given as soon as nothing can change it.

    What waits: part of a character, spaces, and what may become a stop string.

    Args:
        num_hidden: of the completion's first tokens, which are no part of the text.
        begun: what the text begins with.
        is_stripped: it is without white space at its ends.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt_ids: Sequence[int],
        stop: Sequence[str],
        num_hidden: int = 0,
        begun: str = "",
        is_stripped: bool = False,
    ) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._before, self._newest = list(prompt_ids), []
        self._num_hidden, self._is_stripped = num_hidden, is_stripped
        self._settled, self._given = begun, ""

    def more(self, token_ids: Sequence[int]) -> str:
        """What can be given after these further tokens."""
        hidden, shown = token_ids[: self._num_hidden], token_ids[self._num_hidden :]
        self._num_hidden -= len(hidden)
        self._before += hidden
        self._newest += shown
        text = self._settled + added(self._tokenizer, self._before, self._newest)
        if len(self._newest) >= SETTLED_TOKENS and not text.endswith(PARTIAL):
            self._settled, self._before = text, [*self._before, *self._newest]
            self._newest = []
        text = text.lstrip() if self._is_stripped else text
        return self._give(text[: self._num_safe(text)])

    def end(self, text: str) -> str:
        """What is left to give of the completion's text.

        Raises:
            ValueError: what was given is not its beginning.
        """
        if not text.startswith(self._given):
            raise ValueError("the text changed after a part of it was sent; send it unstreamed")
        return self._give(text)

    def _give(self, text: str) -> str:
        new = text[len(self._given) :]
        self._given += new
        return new

    def _num_safe(self, text: str) -> int:
        whole = text.rstrip(PARTIAL)
        end = len(whole.rstrip())
        if getattr(self._tokenizer, "clean_up_tokenization_spaces", False):
            end = min(end, len(text) - CLEANED)
        for stop in self._stop:
            if (found := text.find(stop)) >= 0:
                end = min(end, found)
            beginnings = (n for n in range(len(stop) - 1, 0, -1) if whole.endswith(stop[:n]))
            end = min(end, len(whole) - next(beginnings, 0))
        return max(end, len(self._given))

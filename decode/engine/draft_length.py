"""How many tokens to draft: a number, or what measurement says is fastest.

A round with k drafts emits (1 - b^(k+1)) / (1 - b) tokens a row if each token is followed by an
accepted draft with probability b (Leviathan et al. 2023, eq. 1), and takes t(k) seconds. Both are
measured while decoding: b as the chance that a draft is accepted and the row not at its end, t for
every k that was tried. The k with most tokens a second is taken; the t of a k that was not tried is
read off the straight line between those that were.
"""

from typing import Literal

from .speculative import expected_tokens

CHOICES = (0, 1, 2, 3, 4, 6, 8)
FIRST_TRIALS = (0, 0, 2, 2, 2, 2)  # drafts of the first rounds: plain decoding and drafting timed
TRIALS = (0, 0, 2, 2)  # the same again when the number of rows has halved or doubled
RETRY_EVERY = 64  # rounds, after which no drafts, or one where none are made, are timed once more
MEMORY = 0.995  # weight of the past when one more draft is judged
SMOOTHING = 0.7  # weight of the past when one more round is timed
WORTHWHILE = 1.02  # gain over plain decoding below which there is no drafting


class DraftLength:
    """Chooses how many tokens each round drafts: always the same number, or "auto"."""

    def __init__(self, num_draft_tokens: int | Literal["auto"]) -> None:
        self._fixed = num_draft_tokens if isinstance(num_draft_tokens, int) else None
        self._right, self._judged = 0.0, 0.0  # drafts accepted and judged; the past counts less
        self._ends, self._tokens, self._num_rounds = 0, 0, 0
        self._seconds: dict[int, dict[int, float]] = {}  # by bits of the rows' number, by drafts
        self._warm: set[tuple[int, int]] = set()  # kinds of round that were made once
        self._trials: list[int] = []

    def next(self, num_rows: int) -> int:
        """Drafts for the next round of so many rows."""
        if self._fixed is not None:
            return self._fixed
        if num_rows.bit_length() not in self._seconds:
            self._trials = list(TRIALS if self._seconds else FIRST_TRIALS)
        seconds = self._seconds.setdefault(num_rows.bit_length(), {})
        if self._trials and not self._is_hopeless(seconds):
            return self._trials.pop(0)
        self._num_rounds += 1
        best = self._fastest(seconds)
        if self._num_rounds % RETRY_EVERY == 0 and not self._is_hopeless(seconds):
            return 0 if best else 1
        return best

    def learn(self, num_drafts: int, num_accepted: int, num_tokens: int, has_ended: bool) -> None:
        """Take in a round's drafts of one row, those that became tokens, and all its new tokens."""
        self._ends += has_ended
        self._tokens += num_tokens
        # Tokens after a rejected draft or after the end of a row are not counted.
        num_judged = min(num_tokens, num_drafts)
        fading = MEMORY**num_judged
        self._right = self._right * fading + num_accepted
        self._judged = self._judged * fading + num_judged

    def time(self, num_rows: int, num_drafts: int, seconds: float) -> None:
        """Take in how long a round of so many rows and drafts took."""
        if self._fixed is not None:
            return
        known = self._seconds[num_rows.bit_length()]
        if (num_rows.bit_length(), num_drafts) not in self._warm:
            self._warm.add((num_rows.bit_length(), num_drafts))
            return  # the first round of a kind warms up caches and allocators, and records graphs
        before = known.get(num_drafts, seconds)
        if seconds > before:  # one hiccup is not to decide
            seconds = SMOOTHING * before + (1 - SMOOTHING) * min(seconds, 2 * before)
        known[num_drafts] = seconds

    @property
    def _going_on(self) -> float:
        """The chance that a token is not its row's last."""
        return 1 - self._ends / max(self._tokens, 1)

    def _is_hopeless(self, seconds: dict[int, float]) -> bool:
        """Whether drafts have cost more than they could give if every one of them were right."""
        rates = [expected_tokens(self._going_on, k) / t for k, t in seconds.items() if k]
        return 0 in seconds and bool(rates) and max(rates) < 1 / seconds[0]

    def _fastest(self, seconds: dict[int, float]) -> int:
        slopes = [(t - seconds[0]) / k for k, t in seconds.items() if k and 0 in seconds]
        if not slopes:  # the rows' last tokens left no room to try
            return 0
        slope = max(0.0, *slopes)
        acceptance = (self._right + 1) / (self._judged + 2)  # given those before; 1/2 at first

        def tokens_per_second(k: int) -> float:
            tokens = expected_tokens(acceptance * self._going_on, k)
            return tokens / seconds.get(k, seconds[0] + k * slope)

        best = max(CHOICES, key=tokens_per_second)
        return best if tokens_per_second(best) > WORTHWHILE * tokens_per_second(0) else 0

"""How many tokens to draft: a number, or what measurement says is fastest.

A round with k drafts emits (1 - b^(k+1)) / (1 - b) tokens a row if each token is followed by a
right draft with probability b (Leviathan et al. 2023, eq. 1), and takes t(k) seconds. Both are
measured while decoding: b over the last tokens, as the chance that a draft is right and the row
not at its end; t for every k that was tried. Then k is the one with most tokens a second; what was
not tried is taken from the straight line between what was.
"""

from typing import Literal

from .speculative import expected_tokens

CHOICES = (0, 1, 2, 3, 4, 6, 8)
FIRST_TRIALS = (0, 0, 2, 2, 2, 2)  # what plain decoding takes, what drafting takes; then, when
TRIALS = (0, 0, 2, 2)  # the number of rows has halved or doubled and something is known already
RETRY_EVERY = 64  # rounds; then the other way of decoding is measured once more, with
RETRY = 1  # draft where none are made
MEMORY = 0.995  # weight of what was known when one more draft is judged
SMOOTHING = 0.7  # weight of what was known when one more round is timed
WORTHWHILE = 1.02  # gain over plain decoding below which there is no drafting


class DraftLength:
    """Chooses the drafts of each round.

    Args:
        num_draft_tokens: always this number; or "auto".
    """

    def __init__(self, num_draft_tokens: int | Literal["auto"]) -> None:
        self._fixed = num_draft_tokens if isinstance(num_draft_tokens, int) else None
        self._right, self._judged = 0.0, 0.0  # drafts, fading
        self._ends, self._tokens = 0, 0
        self._seconds: dict[int, dict[int, float]] = {}  # by bits of the rows' number, by drafts
        self._warm: set[tuple[int, int]] = set()  # what was done once
        self._trials: list[int] = []
        self._num_rounds = 0

    @property
    def acceptance(self) -> float:
        """The chance that a draft is right, given that those before it were; 1/2 at first."""
        return (self._right + 1) / (self._judged + 2)

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
            return 0 if best else RETRY
        return best

    @property
    def _going_on(self) -> float:
        """The chance that a token is not its row's last."""
        return 1 - self._ends / max(self._tokens, 1)

    def learn(self, num_drafts: int, num_accepted: int, num_tokens: int, has_ended: bool) -> None:
        """Take in what a round gave one row.

        Args:
            num_accepted: drafts that became tokens of the row.
            num_tokens: tokens the row was continued by.
        """
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
        before = known.get(num_drafts)
        if before is None or seconds < before:
            known[num_drafts] = seconds
        else:  # one hiccup is not to decide
            known[num_drafts] = SMOOTHING * before + (1 - SMOOTHING) * min(seconds, 2 * before)

    def _is_hopeless(self, seconds: dict[int, float]) -> bool:
        """Whether drafts have cost more than they could give if every one of them were right."""
        rates = [expected_tokens(self._going_on, k) / t for k, t in seconds.items() if k]
        return 0 in seconds and bool(rates) and max(rates) < 1 / seconds[0]

    def _fastest(self, seconds: dict[int, float]) -> int:
        slopes = [(t - seconds[0]) / k for k, t in seconds.items() if k and 0 in seconds]
        if not slopes:  # the rows' last tokens left no room to try
            return 0
        slope = max(0.0, *slopes)

        def tokens_per_second(k: int) -> float:
            tokens = expected_tokens(self.acceptance * self._going_on, k)
            return tokens / seconds.get(k, seconds[0] + k * slope)

        best = max(CHOICES, key=tokens_per_second)
        return best if tokens_per_second(best) > WORTHWHILE * tokens_per_second(0) else 0

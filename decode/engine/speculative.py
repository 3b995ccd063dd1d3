"""Speculation: the expert drafts, all models verify the drafts at once, right ones are accepted.

1. draft: the expert, alone, continues each row by k tokens, drawn from its own distribution;
2. verify: base, expert and anti-expert each read the newest token and the k drafts in one forward,
   which gives the combined distribution at k + 1 places;
3. accept: target tokens are drawn at those places. A draft is accepted if it is the token drawn at
   its place and all drafts before it are accepted. The row emits the accepted drafts and one token
   more: the one drawn where the first draft was rejected, or after k accepted drafts.

Every emitted token is thus the very draw that plain decoding (k = 0) makes, greedy or sampled.
Drafts are often right because the expert's draws race with the target's noise (sampling.py): two
such races agree with probability at least (1 - d) / (1 + d), d being the total variation distance
(Daliri, Musco and Suresh 2024, arXiv 2408.07978). Rejection with residual resampling (Leviathan et
al. 2023, arXiv 2211.17192) reaches 1 - d, but its tokens depend on k and the batch.
"""

from torch import Tensor


def num_accepted(draft_tokens: Tensor, target_tokens: Tensor) -> Tensor:
    """How many drafts of each row are accepted, (B,) int64: those before the first wrong one.

    Args:
        draft_tokens: (B, k) int64.
        target_tokens: (B, k + 1) int64, drawn at the drafts' places and at the one after.
    """
    return (draft_tokens == target_tokens[:, :-1]).long().cumprod(-1).sum(-1)


def expected_tokens(acceptance: float, num_draft_tokens: int) -> float:
    """Tokens emitted a round when each draft is right with this probability (Leviathan, eq. 1)."""
    if acceptance >= 1:
        return num_draft_tokens + 1.0
    return (1 - acceptance ** (num_draft_tokens + 1)) / (1 - acceptance)

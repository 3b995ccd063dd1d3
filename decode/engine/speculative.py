"""Speculation: the expert drafts, all models read the drafts at once, and what stands is kept.

One round, for every row:

1. draft: the expert, alone, continues by k tokens, drawn from its own distribution;
2. verify: base, expert and anti-expert each read the newest token and the k drafts in one forward,
   which gives the combined distribution at k + 1 places;
3. accept: the target tokens are drawn at those places; drafts stand as long as each is the token
   that was drawn there. The row emits the drafts that stand and one token more: the drawn token
   that the first wrong draft should have been, or the one after k right drafts.

Every emitted token is thus drawn from the combined, warped distribution given what stands before
it, by the very draw that plain decoding (k = 0) makes: the output is plain decoding's token for
token, greedy or sampled, whatever the drafts. What makes drafts right often is that the expert's
draws race with the same noise as the target's (sampling.py): where the distributions are close so
are the winners. Two such races agree with probability at least (1 - d) / (1 + d), d being the total
variation distance, and on most distributions nearly 1 - d, the most that any rule can reach
(Daliri, Musco and Suresh 2024, arXiv 2408.07978). Rejection with residual resampling (Leviathan
et al. 2023, arXiv 2211.17192) reaches 1 - d, but its tokens depend on k, and with k on the batch.
"""

from torch import Tensor


def num_standing(draft_tokens: Tensor, target_tokens: Tensor) -> Tensor:
    """How many drafts of each row are right before the first that is wrong.

    Args:
        draft_tokens: (B, k) int64.
        target_tokens: (B, k + 1) int64, drawn at the drafts' places and at the one after.

    Returns:
        (B,) int64 between 0 and k.
    """
    is_right = draft_tokens == target_tokens[:, :-1]
    return is_right.long().cumprod(-1).sum(-1)


def expected_tokens(acceptance: float, num_draft_tokens: int) -> float:
    """Tokens emitted a round when each draft is right with this probability (Leviathan, eq. 1)."""
    if acceptance >= 1:
        return num_draft_tokens + 1.0
    return (1 - acceptance ** (num_draft_tokens + 1)) / (1 - acceptance)

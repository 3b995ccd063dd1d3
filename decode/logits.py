"""The arithmetic of proxy-tuning: three models' logits become one (paper, section 2).

p(x_t | x_<t) = softmax( s_base + alpha * (s_expert - s_antiexpert) )
"""

import torch
from torch import Tensor


def proxy_logits(
    base: Tensor,
    expert: Tensor,
    antiexpert: Tensor,
    alpha: float,
    shared: Tensor | None = None,
) -> Tensor:
    """Base logits shifted by what tuning taught the small model.

    Every operand is upcast to float32 first. A token that one small model alone rules out (-inf)
    is ruled out: the ratio of the two probabilities does not exist. Where both rule it out there
    is no shift. What the base rules out stays ruled out. So no input made of finite values and
    -inf gives NaN.

    Args:
        base, expert, antiexpert: (batch, vocab), any float dtype; the same vocab.
        alpha: scale of the shift; 0.0 returns the base.
        shared: (vocab,) bool, the ids that mean the same token to all three; the others are not
            shifted. None means all.

    Returns:
        (batch, vocab) float32: base + alpha * (expert - antiexpert).

    Raises:
        ValueError: the shapes differ.
    """
    if not base.shape == expert.shape == antiexpert.shape:
        raise ValueError(
            "base, expert and antiexpert logits must have one shape, found "
            f"{tuple(base.shape)}, {tuple(expert.shape)} and {tuple(antiexpert.shape)}"
        )
    base = base.float()
    if alpha == 0:
        return base
    expert, antiexpert = expert.float(), antiexpert.float()
    expert_out, antiexpert_out = expert.isneginf(), antiexpert.isneginf()
    shift = (expert - antiexpert).masked_fill(expert_out & antiexpert_out, 0.0)
    combined = base + alpha * shift
    ruled_out = (expert_out ^ antiexpert_out) | base.isneginf()
    combined = combined.masked_fill(ruled_out, -torch.inf)
    return combined if shared is None else torch.where(shared, combined, base)

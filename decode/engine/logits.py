"""The arithmetic of proxy-tuning: three models' logits become one (paper, section 2).

p(x_t | x_<t) = softmax( s_base + alpha * (s_expert - s_antiexpert) )
"""

import torch
from torch import Tensor


def proxy_logits(
    base: Tensor,
    expert: Tensor,
    antiexpert: Tensor,
    alpha: float | Tensor,
    shared: Tensor | None = None,
) -> Tensor:
    """Base logits shifted by what tuning taught the small model.

    Every operand is upcast to float32 first. A token that one small model alone rules out (-inf) is
    ruled out; where both do there is no shift; what the base rules out stays ruled out. So finite
    values and -inf never give NaN; NaN stays NaN. Several experts are a chain of calls.

    Args:
        base, expert, antiexpert: (..., vocab), any float dtype; the same shape.
        alpha: scale of the shift, one number or (..., 1); where it is 0 the base comes back.
        shared: (vocab,) bool, the ids that mean the same token to all three; the others are not
            shifted. None means all.

    Returns:
        (..., vocab) float32: base + alpha * (expert - antiexpert).

    Raises:
        ValueError: the shapes differ.
    """
    shapes = [tuple(logits.shape) for logits in (base, expert, antiexpert)]
    if len(set(shapes)) > 1:
        raise ValueError(f"base, expert and antiexpert logits must have one shape, found {shapes}")
    if isinstance(alpha, float | int) and alpha == 0:
        return base.float()
    base, expert, antiexpert = base.float(), expert.float(), antiexpert.float()
    shift = torch.where(expert.isinf() & (expert == antiexpert), 0.0, expert - antiexpert)
    combined = torch.where(shift.isinf(), -torch.inf, base + alpha * shift)
    if isinstance(alpha, Tensor):
        combined = torch.where(alpha == 0, base, combined)
    return combined if shared is None else torch.where(shared, combined, base)

"""How far an expert moves a base's next-token distribution, by logits (arXiv 2401.08565, 6.1).

At every step the proxy's distribution is compared with the base's, on the same continuation: what
became of the token that was emitted (probability, log-probability, rank), whether the likeliest
token changed, and how much probability moved in all (total variation, half the L1 distance).

Shape letters: N steps, V tokens, K candidates.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Shifts:
    """One number a step; every tensor is (N,), float32 unless another type is named.

    Attributes:
        base_logprob, proxy_logprob: of the emitted token, natural logarithms.
        delta_logprob, delta_probability: proxy minus base.
        base_rank, proxy_rank: int64, 1 for the likeliest; tokens as likely share the better rank.
        is_top1_changed: bool, the base prefers another token to the proxy's likeliest; where two
            are equally likely (often so in bfloat16), neither is preferred.
        total_variation: 0 for equal distributions, 1 for disjoint ones.
    """

    base_logprob: Tensor
    proxy_logprob: Tensor
    delta_logprob: Tensor
    delta_probability: Tensor
    base_rank: Tensor
    proxy_rank: Tensor
    is_top1_changed: Tensor
    total_variation: Tensor


def shifts(base: Tensor, proxy: Tensor, emitted: Tensor) -> Shifts:
    """The shifts from `base` to `proxy` at the steps that emitted `emitted`.

    Args:
        base, proxy: (N, V) logits, any float dtype.
        emitted: (N,) int64.

    Raises:
        ValueError: the shapes do not belong together.
    """
    if base.shape != proxy.shape or base.shape[:-1] != emitted.shape or base.ndim != 2:
        raise ValueError(
            "expected base and proxy of one shape (steps, vocab) and a token a step, found "
            f"{tuple(base.shape)}, {tuple(proxy.shape)} and {tuple(emitted.shape)}"
        )
    base_all, proxy_all = base.float().log_softmax(-1), proxy.float().log_softmax(-1)
    base_logprob, proxy_logprob = _at(base_all, emitted), _at(proxy_all, emitted)
    # Where both rule the token out, the difference of the logarithms is no number, and no shift.
    delta = torch.where(base_logprob == proxy_logprob, 0.0, proxy_logprob - base_logprob)
    return Shifts(
        base_logprob=base_logprob,
        proxy_logprob=proxy_logprob,
        delta_logprob=delta,
        delta_probability=proxy_logprob.exp() - base_logprob.exp(),
        base_rank=rank(base_all, emitted),
        proxy_rank=rank(proxy_all, emitted),
        is_top1_changed=_at(base_all, proxy_all.argmax(-1)) < base_all.amax(-1),
        total_variation=(proxy_all.exp() - base_all.exp()).abs().sum(-1) / 2,
    )


def rank(scores: Tensor, tokens: Tensor) -> Tensor:
    """(N,) int64: 1 for a row's highest score, and one more for every score above the token's.

    Args:
        scores: (N, V).
        tokens: (N,) int64.
    """
    return 1 + (scores > _at(scores, tokens)[:, None]).sum(-1)


def candidates(logits: Tensor, num_candidates: int) -> list[list[tuple[int, float]]]:
    """For each step the likeliest tokens, best first, as (id, log-probability).

    Tokens that are ruled out are never among them, so there may be fewer than asked for.

    Args:
        logits: (N, V).
        num_candidates: K; at most V are returned.
    """
    top = logits.float().log_softmax(-1).topk(min(num_candidates, logits.shape[-1]), dim=-1)
    return [
        [(id_, value) for id_, value in zip(ids, values, strict=True) if math.isfinite(value)]
        for ids, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """(N,) float32 log-probabilities of one token a step; logits are (N, V)."""
    return _at(logits.float().log_softmax(-1), tokens)


def _at(values: Tensor, tokens: Tensor) -> Tensor:
    return values.gather(-1, tokens[:, None].to(values.device)).squeeze(-1)

"""Rules: which tokens steering may choose, and how strong the shift is at a place.

The formula trusts the small models at every token. Where both say next to nothing of a token, their
difference is large and means little: one that the expert gives .8% and the anti-expert .01% is
multiplied by 80. A rule is a pure function of the models' logits and of a token's place, so
speculation stays exact. With p the base's distribution, q the expert's, and t tokens before:

    strength   alpha * min(1, t / warmup_tokens)     warm-up (ThinkLogit, arXiv 2510.09354)
               alpha * 2^(-t / half_life_tokens)     decay (after WSD, arXiv 2506.07434)
               0 where max p >= sure_base            gate (after Nudging, arXiv 2410.09300)
               alpha * (1 - max p)                   by doubt (after BlendIn, arXiv 2606.11201)
    tokens     those with q_v >= plausible_share * max q, or also p_v >= plausible_share * max p
               (contrastive decoding's plausibility, Li et al. 2022, arXiv 2210.15097)
    shift      log q - log 1/V in place of expert - anti-expert (GenARM, arXiv 2410.08193; UniR,
               arXiv 2505.19075): an anti-expert that knows nothing

Where the strength is 0 the base decides alone, whatever the rule.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .logits import proxy_logits

Small = tuple[Tensor, Tensor, float]  # logits of an expert and its anti-expert, and their weight


@dataclass(frozen=True, slots=True)
class Rule:
    """How a shift is applied; the default is the paper's formula.

    Attributes:
        plausible_to: tokens may be chosen that are plausible to an expert, or to the base or an
            expert; None is all.
        plausible_share: a token is plausible to a model that gives it at least this share of what
            the model gives the likeliest one, in (0, 1].
        warmup_tokens: alpha grows from 0 in equal steps over so many tokens; 0 is at once.
        half_life_tokens: alpha halves every so many tokens; None is never.
        sure_base: no shift where the base gives its likeliest token at least this probability.
        by_doubt: alpha is multiplied by one minus that probability.
        antiexpert: False adds the expert's log-probabilities, less those of a uniform model.
    """

    plausible_to: Literal["expert", "base_or_expert"] | None = None
    plausible_share: float = 0.1
    warmup_tokens: int = 0
    half_life_tokens: float | None = None
    sure_base: float | None = None
    by_doubt: bool = False
    antiexpert: bool = True

    def __post_init__(self) -> None:
        known = (None, "expert", "base_or_expert")
        half_life, sure = self.half_life_tokens, self.sure_base
        for name, is_right, expected in (
            ("plausible_to", self.plausible_to in known, "expert, base_or_expert or None"),
            ("plausible_share", 0 < self.plausible_share <= 1, "above 0 and at most 1"),
            ("warmup_tokens", self.warmup_tokens >= 0, "0 or more"),
            ("half_life_tokens", half_life is None or 0 < half_life < math.inf, "above 0"),
            ("sure_base", sure is None or 0 < sure <= 1, "above 0 and at most 1"),
        ):
            if not is_right:
                raise ValueError(f"{name} must be {expected}, found {getattr(self, name)}")

    @property
    def name(self) -> str:
        """What files, keys and tables call it: `expert0.1`, `warmup8-doubt`; "" is the formula."""
        who = {"expert": "expert", "base_or_expert": "either"}.get(self.plausible_to or "", "")
        parts = {
            f"{who}{self.plausible_share:g}": bool(who),
            f"warmup{self.warmup_tokens}": self.warmup_tokens > 0,
            f"half{self.half_life_tokens or 0:g}": self.half_life_tokens is not None,
            f"sure{self.sure_base or 0:g}": self.sure_base is not None,
            "doubt": self.by_doubt,
            "alone": not self.antiexpert,
        }
        return "-".join(part for part, is_set in parts.items() if is_set)

    @property
    def is_even(self) -> bool:
        """Whether a token's place changes nothing."""
        return self.warmup_tokens == 0 and self.half_life_tokens is None


PAPER = Rule()


@dataclass(frozen=True, slots=True)
class Alpha:
    """The scale of the shift, and the rule it goes by; 0.0 is the base exactly."""

    value: float
    rule: Rule = PAPER

    def at(self, position: int) -> float:
        """Alpha for the token that `position` tokens of the completion stand before."""
        rule, alpha = self.rule, self.value
        if position < rule.warmup_tokens:
            alpha = alpha * position / rule.warmup_tokens
        if rule.half_life_tokens is not None:
            alpha *= 0.5 ** (position / rule.half_life_tokens)
        return alpha


def steered_logits(
    base: Tensor,
    small: Sequence[Small],
    alpha: float | Tensor,
    rule: Rule = PAPER,
    shared: Tensor | None = None,
) -> Tensor:
    """Base logits shifted by one expert or several, under a rule.

    A token that can be chosen remains wherever the formula leaves one: plausibility is measured
    among the tokens it leaves.

    Args:
        base: (..., vocab), any float dtype; -inf for tokens that may not be chosen.
        small: experts and anti-experts of the same shape.
        alpha: the scale at these places, one number or (..., 1).
        shared: see `proxy_logits`.

    Returns:
        (..., vocab) float32.
    """
    base = base.float()
    if isinstance(alpha, float | int) and alpha == 0:
        return base
    if rule.sure_base is not None or rule.by_doubt:
        largest = (base.amax(-1, keepdim=True) - base.logsumexp(-1, keepdim=True)).exp()
        if rule.sure_base is not None:
            alpha = torch.where(largest >= rule.sure_base, 0.0, alpha)
        if rule.by_doubt:
            alpha = alpha * (1 - largest)
    combined = base
    for expert, antiexpert, weight in small:
        antiexpert = antiexpert if rule.antiexpert else _uniform(expert)
        combined = proxy_logits(combined, expert, antiexpert, alpha * weight, shared)
    if rule.plausible_to is None:
        return combined
    is_gone = combined == -torch.inf
    judges = [base] if rule.plausible_to == "base_or_expert" else []
    for expert, _, _ in small:  # where an id is another token to the expert, it says nothing
        judges.append(expert if shared is None else torch.where(shared, expert, -torch.inf))
    is_plausible = _is_plausible(judges[0], is_gone, rule.plausible_share)
    for judge in judges[1:]:
        is_plausible = is_plausible | _is_plausible(judge, is_gone, rule.plausible_share)
    ruled = combined + torch.where(is_plausible, 0.0, -torch.inf)  # NaN stays NaN
    return torch.where(alpha == 0, base, ruled) if isinstance(alpha, Tensor) else ruled


def _uniform(logits: Tensor) -> Tensor:
    """Logits of a model that finds all tokens alike, as sharp in sum as these: (..., vocab)."""
    level = logits.float().logsumexp(-1, keepdim=True) - math.log(logits.shape[-1])
    return level.expand_as(logits)


def _is_plausible(logits: Tensor, is_gone: Tensor, share: float) -> Tensor:
    """Where a model gives a token its share of the likeliest that is not gone: (..., vocab)."""
    possible = logits.float().masked_fill(is_gone, -torch.inf)
    return possible >= possible.amax(-1, keepdim=True) + math.log(share)

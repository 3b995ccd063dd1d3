"""From logits to the next token: penalty, temperature, top-k, top-p, min-p, then a draw.

A draw is a race: token v finishes at E_v / p_v, where the E are independent Exponential(1) noise,
and the first to finish wins, which is v with probability p_v exactly. In logits that is the argmax
of s_v - log E_v. The noise is not a stream but a function of (seed, row, position, token). So a
row's tokens never depend on its neighbours, its slot or its arrival; and a draft drawn from one
distribution is, where the two agree, the token drawn from the other (see speculative.py).

Shapes: B rows, T positions, V tokens.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NUM_CANDIDATES = 1024


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0.0 is greedy.
        top_k: keep the k most likely tokens; None keeps all.
        top_p: keep the smallest set of tokens whose probability reaches top_p; 1.0 keeps all.
        seed: together with a request's name it fixes the request's draws.
        min_p: keep tokens with this share of the likeliest one's probability; 0.0 keeps all.
        repetition_penalty: makes tokens of the base's prompt and the completion less likely; 1.0
            does not (Keskar et al. 2019, arXiv 1909.05858).
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, is_right, expected in (
            ("temperature", self.temperature >= 0, "0 (greedy) or more"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1, or None for all"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("min_p", 0 <= self.min_p <= 1, "in [0, 1]"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
        ):
            if not is_right:
                raise ValueError(f"{name} must be {expected}, found {getattr(self, name)}")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True, slots=True)
class Places:
    """Where draws are made, which is all their noise depends on."""

    keys: Tensor  # (B, 2) int32, the rows' keys; see `row_key`
    positions: Tensor  # (B, T) int32, how many tokens of the completion stand before each draw


def row_key(seed: int, name: int | str) -> Sequence[int]:
    """Two words, as int32 holds them, that fix a row's noise."""
    if isinstance(name, str):
        name = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    return np.random.SeedSequence([seed, name]).generate_state(2).view(np.int32).tolist()


def penalize(
    logits: Tensor, penalty: float, seen: Sequence[Sequence[int]], drafts: Tensor
) -> Tensor:
    """(B, T, V) float32 logits, smaller for tokens that are there already.

    Args:
        seen: ids in each row's prompt and completion.
        drafts: (B, k) int64, which follow those; the last of the T places comes after all of them,
            the one before it after all but one, and so on.
    """
    is_seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, ids in enumerate(seen):
        is_seen[row, :, list(ids)] = True
    first = drafts.shape[1] - logits.shape[1] + 1  # drafts before the first place
    for place in range(logits.shape[1]):
        is_seen[:, place].scatter_(1, drafts[:, : first + place], True)
    return torch.where(is_seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def warp(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits of the distribution that tokens are drawn from.

    Args:
        logits: (..., V) float32.
        sampling: temperature, then top-k, top-p and min-p; not greedy.

    Returns:
        (..., V) float32; -inf for tokens less likely than the least likely one that is kept.
    """
    logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        kth = logits.topk(sampling.top_k, dim=-1).values[..., -1:]  # (..., 1)
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if sampling.top_p < 1:
        descending, probs = _descending(logits, sampling.top_p)
        is_kept = probs.cumsum(-1) - probs < sampling.top_p  # by the mass before each
        least = descending.masked_fill(~is_kept, torch.inf).amin(-1, keepdim=True)
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.min_p > 0:
        least = logits.amax(-1, keepdim=True) + math.log(sampling.min_p)
        logits = logits.masked_fill(logits < least, -torch.inf)
    return logits


def _descending(logits: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The largest logits and their probabilities in order: all, or as many as hold `top_p`."""
    total = logits.logsumexp(-1, keepdim=True)
    if logits.device.type == "cpu":  # where a sort of 150,000 takes 20 ms
        largest = logits.topk(min(NUM_CANDIDATES, logits.shape[-1]), dim=-1).values
        probs = (largest - total).exp()
        if (probs.sum(-1) > top_p).all():
            return largest, probs
    descending = logits.sort(dim=-1, descending=True).values
    return descending, (descending - total).exp()


def choose(logits: Tensor, sampling: Sampling, places: Places) -> Tensor:
    """The next token at every place: (B, T, V) float32 logits at B x T places -> (B, T) int64.

    Never one whose logit is -inf. Greedy is the argmax and makes no noise.
    """
    if sampling.is_greedy:
        return logits.argmax(-1)
    return (warp(logits, sampling) - log_exponentials(places, logits.shape[-1])).argmax(-1)


def log_exponentials(places: Places, num_tokens: int) -> Tensor:
    """Logarithms of the race's noise: (B, T, V) float32, log E with E ~ Exponential(1)."""
    keys, positions = places.keys, places.positions
    first = _mix(keys[:, :1] ^ _mix(positions.clone()))[..., None]  # (B, T, 1)
    second = _mix(keys[:, 1:] + positions)[..., None]
    tokens = torch.arange(num_tokens, dtype=torch.int32, device=keys.device)  # (V,)
    bits = _mix(_mix(tokens ^ first).add_(second)).bitwise_and_(0x7FFFFFFF)
    # Small uniforms win, and floats are dense there; none is 0 or 1.
    uniforms = bits.float().add_(0.5).mul_(2.0**-31).clamp_(max=1 - 2.0**-24)
    return uniforms.neg_().log1p_().neg_().log_()


def _mix(words: Tensor) -> Tensor:
    """Scramble int32 words in place, as MurmurHash3 ends (Appleby, public domain)."""
    words.bitwise_xor_((words >> 16).bitwise_and_(0xFFFF)).mul_(0x85EBCA6B - 2**32)
    words.bitwise_xor_((words >> 13).bitwise_and_(0x7FFFF)).mul_(0xC2B2AE35 - 2**32)
    return words.bitwise_xor_((words >> 16).bitwise_and_(0xFFFF))

"""From logits to the next token: temperature, top-k, top-p, then a draw.

The draw is made from a uniform number the caller supplies, one a row, so that a row's tokens
depend on its own seed and never on its neighbours in the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0.0 is greedy.
        top_k: keep the k most likely tokens; None keeps all.
        top_p: keep the smallest set of tokens whose probability reaches top_p; 1.0 keeps all.
        seed: together with a row's index it fixes the row's draws.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, found {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, found {self.top_k}; None keeps all")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], found {self.top_p}")


def warp(logits: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that tokens are drawn from.

    Args:
        logits: (batch, vocab) float32.
        sampling: temperature, then top-k, then top-p; greedy gives all mass to the argmax.

    Returns:
        (batch, vocab) float32 probabilities; each row sums to 1.
    """
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        kth = logits.topk(sampling.top_k, dim=-1).values[:, -1:]  # (batch, 1)
        logits = logits.masked_fill(logits < kth, -torch.inf)
    probs = logits.softmax(-1)
    if sampling.top_p < 1:
        descending, order = probs.sort(dim=-1, descending=True, stable=True)
        mass_before = descending.cumsum(-1) - descending
        descending = descending.masked_fill(mass_before >= sampling.top_p, 0.0)
        probs = torch.zeros_like(probs).scatter(-1, order, descending)
        probs = probs / probs.sum(-1, keepdim=True)
    return probs


def draw(probs: Tensor, uniforms: Tensor) -> Tensor:
    """One token a row by inverting the cumulative distribution.

    Args:
        probs: (batch, vocab) float32.
        uniforms: (batch,) float64 in [0, 1).

    Returns:
        (batch,) int64; never a token of probability zero.
    """
    cumulative = probs.double().cumsum(-1)
    targets = uniforms.to(cumulative.device) * cumulative[:, -1]  # scaled: rows sum to 1 +- 1e-7
    tokens = torch.searchsorted(cumulative, targets[:, None], right=True)[:, 0]
    last_possible = probs.shape[-1] - 1 - (probs.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(tokens, last_possible)


def choose(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> Tensor:
    """The next token of every row: (batch, vocab) float32 logits -> (batch,) int64."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    return draw(warp(logits, sampling), uniforms)

"""Do three models mean the same tokens by the same ids? Checked token by token, never by size.

A model's logits are often wider than its tokenizer (rows padded to a multiple of 64 or 128);
what lies beyond the base's tokenizer is cut off and can never be sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

NUM_DIFFERENCES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens a proxy-tuned model may emit.

    Attributes:
        size: ids 0 .. size - 1 are the base's tokens.
        shared: (size,) bool, ids that mean the same token to all three; None means all do.
    """

    size: int
    shared: Tensor | None = None

    def fit(self, logits: Tensor, missing_logit: float = 0.0) -> Tensor:
        """(..., any width) logits to (..., size): padding cut, ids a model lacks filled in."""
        missing = self.size - logits.shape[-1]
        if missing > 0:
            return torch.nn.functional.pad(logits, (0, missing), value=missing_logit)
        return logits[..., : self.size]

    def both(self, other: "Vocabulary") -> "Vocabulary":
        """What is shared in this and in another alignment of the same base."""
        masks = [mask for mask in (self.shared, other.shared) if mask is not None]
        return Vocabulary(self.size, torch.stack(masks).all(0) if masks else None)


def tokens_by_id(tokenizer: PreTrainedTokenizerBase) -> list[str | None]:
    """Every token at its id, added tokens included; None where no token has the id."""
    vocab = tokenizer.get_vocab()
    tokens: list[str | None] = [None] * (max(vocab.values()) + 1)
    for token, id_ in vocab.items():
        tokens[id_] = token
    return tokens


def align(
    base: PreTrainedTokenizerBase,
    expert: PreTrainedTokenizerBase,
    antiexpert: PreTrainedTokenizerBase,
    mode: str = "identical",
) -> Vocabulary:
    """The common vocabulary of three tokenizers.

    Args:
        mode: "identical" wants the same token at every id. "shared" is a declared alignment: ids
            with the same token everywhere are shifted, the base's other ids keep the base's
            logit, and tokens the base lacks are never sampled.

    Raises:
        ValueError: tokens differ under "identical", naming the first differences; or nothing is
            shared under "shared".
    """
    base_tokens = tokens_by_id(base)
    others = {"expert": tokens_by_id(expert), "anti-expert": tokens_by_id(antiexpert)}
    if mode == "identical":
        for role, tokens in others.items():
            if tokens != base_tokens:
                raise ValueError(_differences(base_tokens, tokens, role))
        return Vocabulary(len(base_tokens))
    if mode != "shared":
        raise ValueError(f"vocabulary must be 'identical' or 'shared', found '{mode}'")
    shared = torch.tensor(
        [
            token is not None
            and all(id_ < len(tokens) and tokens[id_] == token for tokens in others.values())
            for id_, token in enumerate(base_tokens)
        ]
    )
    if not shared.any():
        raise ValueError("the models share no token at any id: they cannot be combined")
    return Vocabulary(len(base_tokens), None if shared.all() else shared)


def align_all(
    base: PreTrainedTokenizerBase,
    small: Sequence[tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]],
    mode: str = "identical",
) -> Vocabulary:
    """The common vocabulary of a base and every expert and anti-expert; raises as `align` does."""
    aligned = [align(base, expert, antiexpert, mode) for expert, antiexpert in small]
    return reduce(Vocabulary.both, aligned, Vocabulary(len(tokens_by_id(base))))


def _differences(base: list[str | None], other: list[str | None], role: str) -> str:
    width = max(len(base), len(other))
    pad = [None] * width
    pairs = zip((base + pad)[:width], (other + pad)[:width], strict=True)
    found = [f"id {id_}: {a!r:.60} / {b!r:.60}" for id_, (a, b) in enumerate(pairs) if a != b]
    shown = ", ".join(found[:NUM_DIFFERENCES_SHOWN])
    return (
        f"base and {role} have different vocabularies: {len(found)} ids differ ({shown}; "
        f"base / {role}, {len(base)} and {len(other)} tokens). Use models of one family, or set "
        "decode.vocabulary=shared to combine only the ids they share"
    )

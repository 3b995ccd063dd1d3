"""Do three models mean the same tokens by the same ids? Checked token by token, never by size.

Models whose ids differ are combined on those they share, or each reads the text in its own tokens
(text_reader.py).

A model's logits are often wider than its tokenizer (rows padded to a multiple of 64 or 128);
what lies beyond the base's tokenizer is cut off and can never be sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .byte_text import NUM_SYMBOLS
from .speller import speller
from .text_reader import TextReader, text_reader
from .token_bytes import tokens_by_id

MAPPED = ("mapped", "matched", "bytes")  # under which each model reads its own tokens
NUM_DIFFERENCES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens a proxy-tuned model may emit.

    Attributes:
        size: ids 0 .. size - 1 are the base's tokens.
        shared: (size,) bool, ids that mean the same token to all three; None means all do.
        readers: of every expert and its anti-expert, if they have tokens of their own.
    """

    size: int
    shared: Tensor | None = None
    readers: tuple[tuple[TextReader, TextReader], ...] = ()

    def fit(self, logits: Tensor, missing_logit: float = 0.0) -> Tensor:
        """(..., any width) logits to (..., size): padding cut, ids a model lacks filled in."""
        missing = self.size - logits.shape[-1]
        if missing > 0:
            return torch.nn.functional.pad(logits, (0, missing), value=missing_logit)
        return logits[..., : self.size]

    def both(self, other: "Vocabulary") -> "Vocabulary":
        """What is shared in this and in another alignment of the same base."""
        masks = [mask for mask in (self.shared, other.shared) if mask is not None]
        shared = torch.stack(masks).all(0) if masks else None
        return Vocabulary(self.size, shared, self.readers + other.readers)


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
            logit, and tokens the base lacks are never sampled. Under "mapped" and "matched" each
            model reads the text in its own tokens. A token gets the shift of the one with the same
            bytes; where there is none, under "mapped" that of the first token which would spell it,
            under "matched" none. Under "bytes" no tokens are combined but the bytes they write.

    Raises:
        ValueError: tokens differ under "identical", naming the first differences; nothing is
            shared otherwise; or a tokenizer cannot spell every text.
    """
    if mode in MAPPED:
        firsts = mode == "mapped"
        readers = text_reader(base, expert, firsts), text_reader(base, antiexpert, firsts)
        if mode == "bytes":
            speller(base)  # raises where it cannot be read so
            return Vocabulary(NUM_SYMBOLS, readers=(readers,))
        shared = torch.stack([reader.column >= 0 for reader in readers]).all(0)
        if not shared.any():
            raise ValueError("the models share no token: they cannot be combined")
        return Vocabulary(len(shared), None if shared.all() else shared, (readers,))
    base_tokens = tokens_by_id(base)
    others = {"expert": tokens_by_id(expert), "anti-expert": tokens_by_id(antiexpert)}
    if mode == "identical":
        for role, tokens in others.items():
            if tokens != base_tokens:
                raise ValueError(_differences(base_tokens, tokens, role))
        return Vocabulary(len(base_tokens))
    if mode != "shared":
        known = "', '".join(("identical", "shared", *MAPPED))
        raise ValueError(f"vocabulary must be one of '{known}', found '{mode}'")
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
    """The common vocabulary of a base and every expert and anti-expert; raises as `align` does.

    Raises:
        ValueError: further experts have other tokens of their own than the first, whose prompts
            they read.
    """
    aligned = [align(base, expert, antiexpert, mode) for expert, antiexpert in small]
    if mode in MAPPED:
        first, *more = (tokens_by_id(expert) for expert, _ in small)
        if any(tokens != first for tokens in more):
            raise ValueError(
                f"further experts have another tokenizer than the first; under vocabulary {mode} "
                "they read its prompts: choose experts of one family"
            )
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
        "decode.vocabulary=shared to combine only the ids they share, or mapped to match tokens by "
        "what they spell"
    )

"""What a base has written, in the tokens of a small model that has another tokenizer.

Tokens of two tokenizers are the same where they add the same bytes to a text, whatever their ids.
Special tokens are the same where both end a text, by name, where both end a turn, or where both
begin a text or pad it. A completion is read as the small model's tokenizer would cut its text;
bytes that are no whole character, as where a token ends inside one, are read byte by byte. Where
both tokenizers have the same tokens under other ids, each is read as its counterpart instead.

Shape letter: V tokens of the base.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from .speller import Speller, Tokens, speller

ROLES = ("eos_token_id", "bos_token_id", "pad_token_id")
END_OF_TURN = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|eot|>",
    "<|return|>",
    "<|END_OF_TURN_TOKEN|>",
)


class TextReader:
    """Reads what a base writes in the tokens of a small model.

    Args:
        firsts: a token without a counterpart stands where the first of its spelling does.

    Attributes:
        speller: of the small model's tokenizer.
        counterpart: (V,) int64, the small model's id of each token, -1 where it has none.
        column: (V,) int64, where a token's logit is found among the small model's, -1 if nowhere.

    """

    def __init__(self, base: Tokens, small: Speller, firsts: bool) -> None:
        self._base, self.speller = base, small
        special = _special_counterparts(base, small.tokens)
        self._exact = [
            special.get(id_, base.counterpart(id_, small.tokens)) for id_ in range(len(base.bytes))
        ]
        texts = [id_ for id_, raw in zip(self._exact, base.bytes, strict=True) if raw]
        self._is_one_to_one = (
            -1 not in texts and len({*texts}) == len(texts) == small.tokens.num_texts
        )
        self._special = special
        self.counterpart = self.column = torch.tensor(self._exact)
        if firsts:
            self.column = torch.tensor(
                [
                    id_ if id_ >= 0 else small.first(raw)
                    for id_, raw in zip(self._exact, base.bytes, strict=True)
                ]
            )

    def __deepcopy__(self, memo: Any) -> "TextReader":
        return self  # it never changes

    def ids(self, token_ids: Sequence[int]) -> list[int]:
        """What the small model reads of the base's tokens.

        Special tokens without a counterpart add nothing to the text, and are not read.
        """
        if self._is_one_to_one:
            return [own for id_ in token_ids if (own := self._exact[id_]) >= 0]
        found: list[int] = []
        raw: list[bytes] = []
        for id_ in token_ids:
            if id_ in self._special:
                found += [*self.speller.ids(b"".join(raw)), self._special[id_]]
                raw.clear()
            else:
                raw.append(self._base.bytes[id_])
        return [*found, *self.speller.ids(b"".join(raw))]


@lru_cache(8)
def text_reader(
    base: PreTrainedTokenizerBase, small: PreTrainedTokenizerBase, firsts: bool
) -> TextReader:
    """The reader of two tokenizers. Raises ValueError as `speller` does."""
    return TextReader(Tokens(base), speller(small), firsts)


def _special_counterparts(base: Tokens, small: Tokens) -> dict[int, int]:
    """The small model's special tokens by the base's."""
    found: dict[int, int] = {}
    turns = [small.special[name] for name in END_OF_TURN if name in small.special]
    ends = [*turns, small.tokenizer.eos_token_id]
    for name, id_ in base.special.items():
        eos, *others = (
            getattr(small.tokenizer, role) if getattr(base.tokenizer, role) == id_ else None
            for role in ROLES
        )
        turn = ends[0] if name in END_OF_TURN else None
        candidates = (eos, small.special.get(name), turn, *others)
        own = next((other for other in candidates if other is not None), None)
        if own is not None:
            found[id_] = own
    return found

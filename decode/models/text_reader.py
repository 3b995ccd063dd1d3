"""What a base has written, in the tokens of a small model that has another tokenizer.

Tokens of two tokenizers are the same where they add the same bytes to a text, whatever their ids.
Special tokens are the same where both end a text, by name, where both end a turn, or where both
begin a text or pad it. A completion is read as the small model's tokenizer would cut its text;
bytes that are no whole character, as where a token ends inside one, are read byte by byte. Where
both tokenizers have the same tokens under other ids, each is read as its counterpart instead.

Shape letter: V tokens of the base.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from .token_bytes import bytes_by_id, is_byte_fallback, is_byte_level, tokens_by_id

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
PROBE = "Ab, cD.\n 12"
NUM_KEPT = 1 << 16  # pieces of text whose tokens are remembered
_NOT_WHOLE = re.compile("([\udc80-\udcff]+)")  # bytes of no whole character, as decoded
_AFTER_A_WORD = re.compile("(?<=[A-Za-z])(?= )")


class Tokens:
    """The tokens of one tokenizer, by what they add to a text.

    Attributes:
        bytes: by id; empty for special tokens and ids without a token.
        special: ids of special tokens by name.

    Raises:
        ValueError: the tokenizer cannot spell every text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        names = [name or "" for name in tokens_by_id(tokenizer)]
        if not (is_byte_level(tokenizer) or any(map(is_byte_fallback, names))):
            raise ValueError(
                f"'{tokenizer.name_or_path}': its tokenizer has no tokens for single bytes, so "
                "that it cannot spell every text; use models with one vocabulary"
            )
        added = tokenizer.added_tokens_decoder
        self.special = {str(token): id_ for id_, token in added.items() if token.special}
        self.bytes = [
            b"" if raw is None or name in self.special else raw
            for name, raw in zip(names, bytes_by_id(tokenizer), strict=True)
        ]
        self._kinds = [
            "added" if id_ in added else "byte" if is_byte_fallback(name) else ""
            for id_, name in enumerate(names)
        ]
        self._ids: dict[tuple[str, bytes], int] = {}
        for id_, kind_and_bytes in enumerate(zip(self._kinds, self.bytes, strict=True)):
            self._ids.setdefault(kind_and_bytes, id_)

    @property
    def num_texts(self) -> int:
        """How many tokens add something to a text."""
        return sum(map(bool, self.bytes))

    def counterpart(self, id_: int, other: "Tokens") -> int:
        """Another tokenizer's id of the token with the same bytes; -1 if there is none.

        Where several have them, it is one that is written alike: as a byte's number, as an added
        token, or as any other.
        """
        return other.find(self.bytes[id_], self._kinds[id_])

    def find(self, raw: bytes, kind: str = "") -> int:
        """The id of a token with these bytes; -1 if there is none."""
        keys = ((k, raw) for k in (kind, "", "added", "byte"))
        return next((self._ids[key] for key in keys if raw and key in self._ids), -1)


class TextReader:
    """Reads what a base writes in the tokens of a small model.

    Args:
        firsts: a token without a counterpart stands where the first of its spelling does.

    Attributes:
        counterpart: (V,) int64, the small model's id of each token, -1 where it has none.
        column: (V,) int64, where a token's logit is found among the small model's, -1 if nowhere.

    Raises:
        ValueError: the small model's tokenizer changes the text that it reads.
    """

    def __init__(self, base: Tokens, small: Tokens, firsts: bool) -> None:
        self._base, self._small = base, small
        self._backend = _without_prefix(small.tokenizer)
        if b"".join(small.bytes[id_] for id_ in self._ids_of(PROBE)) != PROBE.encode():
            raise ValueError(
                f"'{small.tokenizer.name_or_path}': its tokenizer changes the text that it reads, "
                "so that its tokens cannot be matched; use models with one vocabulary"
            )
        # Where no token holds a letter and then a space, the two sides are cut alike alone.
        is_cut = not any(re.search(rb"[A-Za-z] ", raw) for raw in small.bytes)
        self._pieces = _AFTER_A_WORD.split if is_cut else lambda text: [text]
        self._kept = lru_cache(NUM_KEPT)(self._ids_of)
        special = _special_counterparts(base, small)
        self._exact = [
            special.get(id_, base.counterpart(id_, small)) for id_ in range(len(base.bytes))
        ]
        texts = [id_ for id_, raw in zip(self._exact, base.bytes, strict=True) if raw]
        self._is_one_to_one = -1 not in texts and len({*texts}) == len(texts) == small.num_texts
        self._special = special
        self.counterpart = self.column = torch.tensor(self._exact)
        if firsts:
            self.column = torch.tensor(
                [
                    id_ if id_ >= 0 else next(self._spelt(raw, self._ids_of), -1)
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
                found += [*self._spelt(b"".join(raw), self._kept), self._special[id_]]
                raw.clear()
            else:
                raw.append(self._base.bytes[id_])
        return [*found, *self._spelt(b"".join(raw), self._kept)]

    def _spelt(self, raw: bytes, cut: Any) -> Iterator[int]:
        """The ids of a text that may begin and end inside characters, as `cut` gives a piece's."""
        for number, text in enumerate(_NOT_WHOLE.split(raw.decode("utf-8", "surrogateescape"))):
            if number % 2:
                single = (bytes([byte]) for byte in text.encode("utf-8", "surrogateescape"))
                yield from (id_ for byte in single if (id_ := self._small.find(byte)) >= 0)
            elif text:
                for piece in self._pieces(text):
                    yield from cut(piece)

    def _ids_of(self, text: str) -> tuple[int, ...]:
        return tuple(self._backend.encode(text, add_special_tokens=False).ids)


@lru_cache(8)
def text_reader(
    base: PreTrainedTokenizerBase, small: PreTrainedTokenizerBase, firsts: bool
) -> TextReader:
    """The reader of two tokenizers. Raises ValueError as `Tokens` and `TextReader` do."""
    return TextReader(Tokens(base), Tokens(small), firsts)


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


def _without_prefix(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy that goes on with a text: no space before it, and special tokens' names are text."""
    backend = cast(Any, tokenizer).backend_tokenizer
    state = json.loads(backend.to_str())
    state["truncation"] = state["padding"] = None
    if _drops_out(state["normalizer"]):
        state["normalizer"] = None
    _drops_out(state["pre_tokenizer"])
    made = Tokenizer.from_str(json.dumps(state))
    made.encode_special_tokens = True
    return made


def _drops_out(part: dict[str, Any] | None) -> bool:
    """Take from a part whatever puts a space before a text; True if nothing else is in it."""
    if part is None:
        return False
    if "add_prefix_space" in part:
        part["add_prefix_space"] = False
    if "prepend_scheme" in part:
        part["prepend_scheme"] = "never"
    for key in ("normalizers", "pretokenizers"):
        if key in part:
            part[key] = [one for one in part[key] if not _drops_out(one)]
    return part["type"] == "Prepend"

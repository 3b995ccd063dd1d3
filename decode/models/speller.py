"""How a tokenizer cuts a text that goes on, from bytes to ids.

Bytes that are no whole character, as where a text ends inside one, are spelled byte by byte.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, cast

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from .token_bytes import bytes_by_id, is_byte_fallback, is_byte_level, tokens_by_id

PROBE = "Ab, cD.\n 12"
FOLLOWING = (b"x", b"0", b".")  # of a letter, a number and anything else
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


class Speller:
    """Spells bytes that go on a text in a tokenizer's tokens.

    Attributes:
        ends_words: a letter and a space after it are never in one token, and what stands before
            the space is cut alike whatever follows.

    Raises:
        ValueError: the tokenizer changes the text that it reads.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self._backend = _without_prefix(tokens.tokenizer)
        if b"".join(tokens.bytes[id_] for id_ in self._ids_of(PROBE)) != PROBE.encode():
            raise ValueError(
                f"'{tokens.tokenizer.name_or_path}': its tokenizer changes the text that it reads, "
                "so that its tokens cannot be matched; use models with one vocabulary"
            )
        self.ends_words = not any(re.search(rb"[A-Za-z] ", raw) for raw in tokens.bytes)
        self._remembered = lru_cache(NUM_KEPT)(self._ids_of)

    def __deepcopy__(self, memo: Any) -> "Speller":
        return self  # it never changes

    def ids(self, raw: bytes) -> Iterator[int]:
        """The ids of a text that may begin and end inside characters."""
        return self._spelt(raw, self._remembered)

    def cuts(self, raw: bytes) -> set[tuple[int, ...]]:
        """The ids of a text, however it goes on.

        White space at its end may be cut otherwise before a word: all but its last letter goes
        together there, which GPT-2's tokenizer and most after it do.
        """
        found = {tuple(self.ids(raw))}
        if raw.decode(errors="replace")[-1:].isspace():
            for following in FOLLOWING:
                ids = [*self.ids(raw + following)]
                num_bytes = len(raw) + len(following)
                while num_bytes > len(raw):
                    num_bytes -= len(self.tokens.bytes[ids.pop()])
                if num_bytes == len(raw):
                    found.add(tuple(ids))
        return found

    def first(self, raw: bytes) -> int:
        """The first of them, which is not remembered; -1 if there is none."""
        return next(self._spelt(raw, self._ids_of), -1)

    def _spelt(self, raw: bytes, cut: Callable[[str], Sequence[int]]) -> Iterator[int]:
        for number, text in enumerate(_NOT_WHOLE.split(raw.decode("utf-8", "surrogateescape"))):
            if number % 2:
                single = (bytes([byte]) for byte in text.encode("utf-8", "surrogateescape"))
                yield from (id_ for byte in single if (id_ := self.tokens.find(byte)) >= 0)
            elif text:
                for piece in _AFTER_A_WORD.split(text) if self.ends_words else [text]:
                    yield from cut(piece)

    def _ids_of(self, text: str) -> tuple[int, ...]:
        return tuple(self._backend.encode(text, add_special_tokens=False).ids)


@lru_cache(16)
def speller(tokenizer: PreTrainedTokenizerBase) -> Speller:
    """The speller of a tokenizer. Raises ValueError as `Tokens` and `Speller` do."""
    return Speller(Tokens(tokenizer))


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

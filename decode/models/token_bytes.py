r"""Tokens as bytes, and ids found by what a server calls a token.

Servers name a token by its text, by its bytes, as `bytes:\xe2\x80` where it is no whole text, by
its name where it is a special one, or as its tokenizer's file spells it.
"""

import re
from typing import cast

from transformers import AddedToken, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

SPELLINGS = ("\u0120", "\u010a", "\u2581", "<0x")  # a space, a new line, a space, a byte
_BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}  # GPT-2's spelling
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece's
_ESCAPED = re.compile(r"bytes:(.*\\x[0-9a-fA-F]{2}.*)", re.DOTALL)
_BYTE = re.compile(rb"\\x([0-9a-fA-F]{2})")


def tokens_by_id(tokenizer: PreTrainedTokenizerBase) -> list[str | None]:
    """Every token at its id, added tokens included; None where no token has the id."""
    vocab = tokenizer.get_vocab()
    tokens: list[str | None] = [None] * (max(vocab.values()) + 1)
    for token, id_ in vocab.items():
        tokens[id_] = token
    return tokens


def token_bytes(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bytes:
    """What a token adds to a text, in bytes; of a special or an added token its name.

    Of an id that no token has, none.
    """
    name = cast(str | None, tokenizer.convert_ids_to_tokens(token_id))
    added = tokenizer.added_tokens_decoder.get(token_id)
    return b"" if name is None else _bytes(name, added, is_byte_level(tokenizer))


def bytes_by_id(tokenizer: PreTrainedTokenizerBase) -> list[bytes | None]:
    """The same of every id; None where no token has it."""
    added, is_spelt = tokenizer.added_tokens_decoder, is_byte_level(tokenizer)
    return [
        None if name is None else _bytes(name, added.get(id_), is_spelt)
        for id_, name in enumerate(tokens_by_id(tokenizer))
    ]


def _bytes(name: str, added: AddedToken | None, is_byte_level: bool) -> bytes:
    if added is not None and (added.special or is_byte_level):
        return name.encode()
    if is_byte_level and all(letter in _BYTES for letter in name):
        return bytes(_BYTES[letter] for letter in name)
    if match := _FALLBACK.fullmatch(name):
        return bytes.fromhex(match[1])
    return name.replace("\u2581", " ").encode()


def escaped(raw: bytes) -> str:
    r"""Bytes that are no whole text, as OpenAI writes them: `bytes:\xe2\x80`."""
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def is_text(raw: bytes) -> bool:
    """Whether bytes are whole characters."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


class TokenIds:
    """The ids of a tokenizer's tokens, by what a server calls them.

    Attributes:
        size: ids are below it.
        bytes: of each id; None where no token has it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        names = tokens_by_id(tokenizer)
        self.size = len(names)
        self.bytes = bytes_by_id(tokenizer)
        self._added = {str(token): id_ for id_, token in tokenizer.added_tokens_decoder.items()}
        self._by_name = {name: id_ for id_, name in enumerate(names) if name is not None}
        self._by_bytes: dict[bytes, int] = {}
        fallbacks = [id_ for name, id_ in self._by_name.items() if _FALLBACK.fullmatch(name)]
        for id_ in [*sorted({*range(self.size)} - {*fallbacks}), *fallbacks]:
            if (raw := self.bytes[id_]) is not None and id_ not in self._added.values():
                self._by_bytes.setdefault(raw, id_)

    def find(self, text: str, raw: bytes | None = None) -> int | None:
        """The id of the token that a server calls `text`, and whose bytes it says are `raw`.

        Returns:
            None if no token is called so.
        """
        if text in self._added:
            return self._added[text]
        if raw is None and (match := _ESCAPED.fullmatch(text)):
            raw = _BYTE.sub(lambda one: bytes.fromhex(one[1].decode()), match[1].encode())
        found = self._by_bytes.get(text.encode() if raw is None else raw)
        if found is None and raw is None and any(mark in text for mark in SPELLINGS):
            return self._by_name.get(text)
        return found


def is_byte_fallback(name: str) -> bool:
    """Whether a token is called by the number of a byte, as SentencePiece does it: `<0x0A>`."""
    return _FALLBACK.fullmatch(name) is not None


def is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether each letter of its tokens' names is a byte, as GPT-2 spells them."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    return decoder is not None and b'"ByteLevel"' in decoder.__getstate__()

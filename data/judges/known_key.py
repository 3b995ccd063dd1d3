"""The key that is sent, blotted out of what comes back, however the server has written it.

Whoever echoes a key may escape it: as JSON, in a URL, in HTML, in Python, in hexadecimal digits or
in base64. A text is blotted as a whole, after its chunks are joined and before it is cut.
"""

import re
from base64 import b64encode

BLOT = "[key]"
LEAST_CHARACTERS = 6  # "EMPTY" and the like are for servers that want no key, and are words


class KnownKey:
    """A key and all of its written forms.

    Args:
        key: ASCII without spaces; None, or one of fewer than six characters, blots nothing.
    """

    def __init__(self, key: str | None) -> None:
        is_secret = key is not None and len(key) >= LEAST_CHARACTERS
        self._forms = _forms(key) if key is not None and is_secret else []

    def __repr__(self) -> str:
        return "KnownKey()"

    def blotted(self, text: str) -> str:
        """`text` with `[key]` in every place of the key."""
        for form in self._forms:
            text = form.sub(BLOT, text)
        return text


def _forms(key: str) -> list[re.Pattern[str]]:
    return [re.compile(form) for form in ("".join(map(_character, key)), *_in_base64(key.encode()))]


def _character(character: str) -> str:
    r"""One character as it is, after backslashes, or by its number: %2F, \u002f, &#47;, 2f."""
    code = ord(character)
    by_hex = rf"(?:%(?:25){{0,4}}|=|\\{{1,8}}(?:u00|x)|&#[xX]0{{0,4}})?(?i:{code:02x});?"
    return rf"(?:\\{{0,8}}{re.escape(character)}|{by_hex}|&#0{{0,4}}{code};)"


def _in_base64(key: bytes) -> list[str]:
    """Base64 of anything that holds the key: it may begin at each of three places in a group."""
    found = []
    for num_before in range(3):
        text = b64encode(b"\0" * num_before + key).decode().rstrip("=")
        # Characters at both ends are shared with what stands beside the key.
        first, last = (8 * num_before + 5) // 6, (8 * (num_before + len(key))) // 6
        core = "".join(
            {"+": r"[+\-]", "/": r"(?:\\{0,8}/|_)"}.get(one, one) for one in text[first:last]
        )
        found.append(rf"{core}[\w+/-]{{0,2}}={{0,2}}")
    return found

"""The key that is sent: where it is read, and blotting it out of what comes back.

Whoever echoes a key may escape it: as JSON, in a URL, in HTML, in Python, in hexadecimal digits or
in base64. A text is blotted as a whole, after its chunks are joined and before it is cut.
"""

import logging
import os
import re
from base64 import b64encode
from pathlib import Path

from .endpoint import Endpoint

logger = logging.getLogger(__name__)

MOST_KEY_BYTES = 65_536
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


def read_key(endpoint: Endpoint) -> str | None:
    """The key in the environment variable or the file that the settings name; None if neither.

    Raises:
        ValueError: it is not there, or holds no usable key; nothing of it is repeated.
    """
    if endpoint.key_file is not None:
        place, key = endpoint.key_file, _key_of_file(Path(endpoint.key_file).expanduser())
    elif endpoint.key_env is not None:
        place, key = endpoint.key_env, os.environ.get(endpoint.key_env)
        if key is None:
            raise ValueError(
                "key_env names no environment variable that is set; it takes the variable's name, "
                "never the key"
            )
    else:
        return None
    key = key.strip()
    if not key:
        kind = "the environment variable" if endpoint.key_file is None else "the file"
        named = "key_env" if endpoint.key_file is None else "key_file"
        raise ValueError(f"{kind} {place}, named in {named}, holds no key")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(f"the key in {place} holds characters that no header can carry")
    return key


def _key_of_file(path: Path) -> str:
    try:
        if path.stat().st_mode & 0o077:
            logger.warning("%s holds a key and others may read it; chmod 600 it", path)
        return path.read_bytes()[:MOST_KEY_BYTES].decode("utf-8", "replace")
    except OSError as error:  # its name is not shown: it may be a key
        raise ValueError(
            f"key_file names no file that can be read ({error.strerror}); it takes a path, never "
            "the key"
        ) from None


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

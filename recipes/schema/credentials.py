"""What looks like a key, a token or a password: refused where it would be written, or blotted.

A recipe and its command line are saved with results, shown in reports and sent to W&B, so that no
secret may be in them. A text looks like one if it

- begins as issuers' keys do (`sk-`, `hf_`, `ghp_`, `AKIA`, ...) and is as long, or is a private
  key;
- is an address with a user, a password or a signature in it;
- has 32 letters and digits in a row that change between cases and digits as only chance does it: no
  word, model id or hash does (a hash has one case);
- is the value of a key that is named for a secret (`api_key`, `password`, ...), or says
  `name=value` or `name: value` with such a name.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

BLOT = "[secret]"

_ISSUED = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk[-_](?=[\w-]*\d)[\w-]{16,}"
    r"|hf_[A-Za-z0-9]{24,}|api_org_[A-Za-z0-9]{24,}"
    r"|gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|glpat-[\w-]{16,}"
    r"|(?:gsk|fw|r8|npm|tgp_v1)_[A-Za-z0-9]{20,}|(?:xai|pplx|csk)-[A-Za-z0-9]{20,}"
    r"|(?:nvapi|pypi)-[\w-]{30,}|wandb_v\d_\w{20,}|local-[0-9a-f]{40}"
    r"|xox[a-z]-[\w-]{10,}|A(?:KIA|SIA)[A-Z0-9]{16}|AIza[\w-]{30,}|ya29\.[\w-]{20,}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]*)?"
    r"|(?i:bearer|basic)\s+(?=\S*\d)[\w.~+/-]{16,}=*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY[^~]*"
    r")"
)
_NAMES = (
    r"(?:[\w.-]*[_-])?(?:api[_-]?key|access[_-]?key|private[_-]?key|(?:client|shared|secret|subscription)[_-]?key"
    r"|secret|pass(?:word|wd|phrase)|authorization|credentials?"
    r"|(?:api|access|auth|bearer|refresh|session|security|hf)[_-]?token)"
)
_NAMED = re.compile(
    rf"{_NAMES}|(?:openai|anthropic|azure|wandb|judge|hf)[_-]?key|token|sig|[\w-]*signature", re.I
)
_PAIR = re.compile(
    rf"(?<![\w-]){_NAMES}[\"']?\s*[=:]\s*(?!\[|(?:null|none|true|false)\b)[\"']?[^\s\"',}}&]{{4,}}",
    re.IGNORECASE,
)
_ADDRESS = re.compile(
    r"(?<=://)(?:[^\s/@:]*:[^\s/@]+|(?<=https://)[^\s/@]+|(?<=http://)[^\s/@]+)(?=@)"
    rf"|(?<=[?&;])(?:{_NAMES}|token|key|auth|sig|[\w-]*signature)=[^&\s]+",
    re.IGNORECASE,
)
_RUN = re.compile(r"[A-Za-z0-9]{32,}")
_WANDB_KEY = re.compile(r"[0-9a-f]{40}")  # as a commit is: one only where no commit belongs
_MIXED = re.compile(r"(?=[A-Za-z0-9]*\d)[A-Za-z0-9]{20,}")


def blotted(text: str) -> str:
    """`text` with `[secret]` in place of all that looks like one."""
    for pattern in (_ISSUED, _ADDRESS, _PAIR):
        text = pattern.sub(BLOT, text)
    return _RUN.sub(lambda run: BLOT if _is_drawn(run[0]) else run[0], text)


def looks_secret(text: str) -> bool:
    """Whether any part of `text` looks like a key, a token or a password."""
    return blotted(text) != text


def find_secret(tree: Any) -> str | None:
    """The dotted key of the first value in a recipe's tree that looks like a secret."""
    return next(_secrets(tree, "", ""), None)


def _secrets(node: Any, key: str, name: str) -> Iterator[str]:
    if isinstance(node, dict):
        for own, value in node.items():
            if looks_secret(str(own)):
                yield key or "a key"
            yield from _secrets(value, f"{key}.{own}" if key else str(own), str(own))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _secrets(value, f"{key}.{index}", name)
    elif _is_secret(node, key, name):
        yield key


def _is_secret(value: Any, key: str, name: str) -> bool:
    name = name.rpartition(".")[2]  # of an override's dotted key
    text = "" if value is None or isinstance(value, bool) else str(value)
    return looks_secret(text) or bool(
        (text and _NAMED.fullmatch(name))
        or (key in ("wandb.project", "wandb.entity") and _WANDB_KEY.fullmatch(text))
        or (name == "key_env" and _MIXED.search(text))
    )


def _is_drawn(run: str) -> bool:
    """Whether kinds of characters alternate as in drawn ones, where six pairs in ten differ."""
    kinds = ["0" if one.isdigit() else "a" if one.islower() else "A" for one in run]
    num_changes = sum(one != other for one, other in pairwise(kinds))
    return len(set(kinds)) == 3 and num_changes >= 0.42 * (len(run) - 1)

"""Completions as a page to read: text coloured by how far the expert moved each token.

One file that needs no other and no network. The rows go in as JSON that holds no `<`, so that
nothing a model wrote can be taken for a tag, and the page's script only ever puts them in as text.
"""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_name("token_page.html")
ROLES = ("base", "expert", "antiexpert", "proxy")
LABELS = ("base", "expert", "anti-expert", "proxy")
HEAD = ("id", "prompt", "completion", "answers", "score")
DIGITS = 4  # of a number on the page; the files beside it have more


def token_page(title: str, facts: str, rows: Sequence[dict[str, Any]]) -> str:
    """The page's HTML.

    Args:
        title: what is shown.
        facts: a sentence or two below it.
        rows: as `token_rows` makes them.
    """
    texts: dict[str, int] = {}  # most tokens and candidates occur many times

    def number_of(text: str) -> int:
        return texts.setdefault(text, len(texts))

    packed = [
        {
            **{key: row[key] for key in HEAD},
            "tokens": [_packed(token, number_of) for token in row["tokens"]],
        }
        for row in rows
    ]
    data = {"roles": LABELS, "texts": list(texts), "rows": packed}
    parts = {"title": html.escape(title), "facts": html.escape(facts), "data": embedded_json(data)}
    # In one pass, so that a completion may well hold "{{facts}}".
    template = TEMPLATE.read_text("utf-8")
    return re.sub(r"\{\{(title|facts|data)\}\}", lambda match: parts[match[1]], template)


def embedded_json(value: Any) -> str:
    """JSON that is safe inside a `<script>` element: ASCII, without `<`, `>` and `&`."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _packed(token: dict[str, Any], number_of: Any) -> list[Any]:
    """In the order in which the page's script takes them apart."""
    return [
        number_of(token["text"]),
        int(token["is_end"]),
        int(token["is_top1_changed"]),
        _short(token["delta_logprob"]),
        _short(token["delta_probability"]),
        token["base_rank"],
        token["proxy_rank"],
        _short(token["total_variation"]),
        [_short(token[f"{role}_logprob"]) for role in ROLES],
        [
            [
                [number_of(text), _short(logprob), int(id_ == token["id"])]
                for id_, text, logprob in token["top"][role]
            ]
            for role in ROLES
        ],
    ]


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)

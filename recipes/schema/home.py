"""`~` in a recipe's paths: the one place that expands it, for every key, whatever it belongs to.

A value is a path in a home folder if it begins with `~/` or `~user/`. Hub ids never do, and other
paths stay as they are written: relative to where an entry is started.
"""

import os
from typing import Any

from .keys import KeyProblem

WORDS = ("name", "wandb")  # text that is no path, whatever it begins with


def expand_home(node: Any, key: str = "") -> Any:
    """The tree below the dotted `key`, with home folders written out.

    Raises:
        KeyProblem: there is no such user's home folder.
    """
    if key in WORDS:
        return node
    if isinstance(node, dict):
        return {name: expand_home(item, _under(key, name)) for name, item in node.items()}
    if isinstance(node, list):
        return [expand_home(item, _under(key, place)) for place, item in enumerate(node)]
    if not isinstance(node, str) or not node.startswith("~") or not ("/" in node or node == "~"):
        return node
    path = os.path.expanduser(node)
    if path == node:
        raise KeyProblem(
            key, f"found {node!r}, but {node.partition('/')[0]} is nobody's home folder here"
        )
    return path


def _under(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)

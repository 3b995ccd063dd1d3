"""Rows as files, as a user would have them."""

import json
from collections.abc import Iterable
from pathlib import Path


def jsonl(path: Path, rows: Iterable[dict]) -> str:
    """The path of a file that now holds these rows, one a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)

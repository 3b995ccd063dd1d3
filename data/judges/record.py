"""An endpoint's answers on disk: a JSON-lines file, a line as soon as an answer is there.

A line is found again by the digest of the request that led to it, and has a seal, by which an edit
is known.
"""

import hashlib
import json
from pathlib import Path
from typing import Any


class RecordError(ValueError):
    """A record of answers does not hold what was written to it."""


def digest_of(asked: dict[str, Any]) -> str:
    """A name for a request, by all that decides its answer."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def read_record(path: Path, kind: str = "judgement") -> list[dict[str, Any]]:
    """The lines of a record, less a last one that was cut off, which is taken out of the file.

    Args:
        kind: what a line holds, as errors call it.

    Raises:
        RecordError: another line is no JSON object with a digest, or was edited; names it.
    """
    if not path.exists():
        return []
    whole = path.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        with path.open("r+b") as file:
            file.truncate(end)
    rows = []
    for number, line in enumerate(whole[:end].split(b"\n")[:-1], start=1):
        row = _parsed(line)
        if not isinstance(row, dict) or "digest" not in row:
            raise RecordError(
                f"{path}, line {number}: not a {kind}; the file must hold nothing else"
            )
        if row.get("seal", seal(row)) != seal(row):
            of = f" of '{row['id']}'" if "id" in row else ""
            raise RecordError(
                f"{path}, line {number}: the {kind}{of} is not what was written there; put the "
                "file back, or delete the line to ask again"
            )
        rows.append(row)
    return rows


def append_record(path: Path, row: dict[str, Any]) -> None:
    """Add one line to a record, in one write, as decode/jobs/files.py does (not imported here)."""
    row = {**row, "seal": seal(row)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def seal(row: dict[str, Any]) -> str:
    """A short name for all else that a line holds: the request's digest and what came of it."""
    bare = {key: value for key, value in row.items() if key != "seal"}
    return hashlib.sha256(json.dumps(bare).encode()).hexdigest()[:16]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None

"""Files that are whole at any time: text, JSON and JSON lines, and digests of what they hold.

A file is written under a temporary name and renamed. JSON lines are appended row by row, so that a
killed run keeps every finished row.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

EDGE_BYTES = 1 << 20
JSON_ESCAPE = "backslashreplace"  # a lone surrogate, which a model may write, as JSON escapes it


class FileChanged(ValueError):
    """A file of a run does not hold what the run wrote."""


def read_rows(path: Path, is_own: bool = True) -> list[dict[str, Any]]:
    """The whole rows of a JSON-lines file, none if there is no file.

    A last line that was cut off is removed from the file, so that rows can be appended. If the file
    is another process's (`is_own` is false) it stays: that process may be writing the line now.

    Raises:
        FileChanged: another line is no JSON object; names it.
    """
    if not path.exists():
        return []
    whole = _whole(path)
    end = whole.rfind(b"\n") + 1
    if end < len(whole) and is_own:
        with path.open("r+b") as file:
            file.truncate(end)
    lines = enumerate(whole[:end].split(b"\n"), start=1)
    return [_row(path, number, line) for number, line in lines if line.strip()]


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise FileChanged(
            f"{path}, line {number}: found {line.decode(errors='replace')!r:.60}, expected a JSON "
            f"object; put the file back, or delete {path} to make it again"
        )
    return row


def read_json(path: Path, remedy: str = "put the file back, or delete it") -> dict[str, Any]:
    """What a JSON file of a run holds.

    Raises:
        FileChanged: it cannot be read, or holds no JSON object; names it, and says `remedy`.
    """
    whole = _whole(path)
    try:
        found = json.loads(whole)
    except (ValueError, RecursionError) as error:
        raise FileChanged(f"{path}: not a whole JSON file ({error}); {remedy}") from None
    if not isinstance(found, dict):
        raise FileChanged(f"{path}: found {found!r:.60}, expected a JSON object; {remedy}")
    return found


def _whole(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:  # a folder in its place, no permission
        raise FileChanged(f"{path}: cannot be read ({error.strerror}); put the file back") from None


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add one row to a JSON-lines file, in one write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors=JSON_ESCAPE) as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a JSON-lines file at once."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file at once."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a text file at once: a reader sees the old one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(text, "utf-8", JSON_ESCAPE)
        partial.replace(path)
    except OSError:  # a full disk has no place for half a file
        partial.unlink(missing_ok=True)
        raise


def weights_digest(folder: str) -> str | None:
    """A short name for the weights in a local folder, None for a hub id.

    Made from the size and both ends of every weight file: enough to tell one training from the
    next, without reading 140 GB.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        return None
    found = hashlib.sha256()
    for path in files:
        found.update(f"{path.name} {path.stat().st_size}\n".encode())
        found.update(file_ends(path))
    return found.hexdigest()[:16]


def file_ends(path: Path) -> bytes:
    """The first and the last MiB of a file; a file shorter than two MiB overlaps."""
    with path.open("rb") as file:
        first = file.read(EDGE_BYTES)
        file.seek(max(0, path.stat().st_size - EDGE_BYTES))
        return first + file.read(EDGE_BYTES)


def file_digest(path: Path) -> str:
    """A short name for all that a file holds."""
    return hashlib.sha256(_whole(path)).hexdigest()[:16]


def text_digest(texts: Iterable[str]) -> str:
    """A short name for a list of texts."""
    return json_digest(list(texts))


def json_digest(value: Any, num_digits: int = 16) -> str:
    """A short name, in hexadecimal digits, for a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:num_digits]

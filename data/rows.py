"""Rows of files (`row_files.py`) or of a hub data set, each remembering where it came from.

Tasks read a row's fields through `Row.text` and `Row.texts`, so that a bad row is always
reported as `file, line, field` and never as a KeyError from somewhere inside a run.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .row_files import file_rows, row_files

_LONE = re.compile("[\ud800-\udfff]")


class SourceError(ValueError):
    """Rows are not where they were looked for; who catches it adds the key that names the place."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """A data set on the hub: its id, configuration and split."""

    name: str
    config: str | None
    split: str


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a data file, and `where` it was read ("file.jsonl, line 3")."""

    fields: dict[str, Any]
    where: str

    def text(self, field: str) -> str:
        """The string in `field`. Raises ValueError, naming file, line and field, if it is none."""
        value = self._get(field)
        if not isinstance(value, str):
            raise ValueError(f"{self.where}: field '{field}' must be text, found {value!r:.80}")
        return value

    def first(self, *fields: str) -> str:
        """The first of `fields` that the row has. Raises ValueError if it has none of them."""
        for field in fields:
            if field in self.fields:
                return field
        expected = f"field '{fields[0]}' is missing"
        if len(fields) > 1:
            expected += f", and so is any other name for it ({', '.join(fields[1:])})"
        raise ValueError(f"{self.where}: {expected} (found: {', '.join(self.fields) or 'nothing'})")

    def texts(self, field: str) -> tuple[str, ...]:
        """The list of strings in `field`, at least one. Raises ValueError as `text` does."""
        value = self._get(field)
        if (
            not isinstance(value, list)
            or not value
            or not all(isinstance(item, str) for item in value)
        ):
            raise ValueError(
                f"{self.where}: field '{field}' must be a list of text, found {value!r:.80}"
            )
        return tuple(value)

    def id(self, *fields: str) -> str:
        """The row's name, text or a whole number, in the first of `fields` it has; else `where`."""
        field = next((name for name in fields if self.fields.get(name) is not None), None)
        if field is None:
            return self.where
        value = self.fields[field]
        is_whole = isinstance(value, int | float) and value == value // 1
        return str(int(value)) if is_whole and not isinstance(value, bool) else self.text(field)

    def _get(self, field: str) -> Any:
        if field not in self.fields:
            found = ", ".join(self.fields) or "no fields"
            raise ValueError(f"{self.where}: field '{field}' is missing (found: {found})")
        return self.fields[field]


def read_rows(
    source: str | HubSource, limit: int | None = None, has_completions: bool = False
) -> list[Row]:
    """The first `limit` rows (all if None) of a file or a hub data set.

    Args:
        has_completions: the rows hold what a model wrote, which need not be text that can be
            encoded: half a surrogate pair is kept.

    Raises:
        ValueError: the file is missing or empty, or a line is not a JSON object of text; the
            message names the file and the line.
    """
    kept = list(stream_rows(source, limit, False, has_completions))
    if not kept:
        raise ValueError(f"{source}: no rows; a task needs at least one")
    return kept


def stream_rows(
    source: str | HubSource,
    limit: int | None = None,
    is_hub_streamed: bool = True,
    has_completions: bool = False,
) -> Iterator[Row]:
    """The same rows one by one, for sets larger than memory; hub rows are not kept on disk."""
    if isinstance(source, HubSource):
        rows = _hub_rows(source, limit, is_hub_streamed)
    else:
        rows = _file_rows(source, has_completions)
    return itertools.islice(rows, limit)


def _file_rows(source: str, has_completions: bool) -> Iterator[Row]:
    for path in row_files(source):
        is_itself = path == Path(source).expanduser()
        for where, fields in file_rows(path, source if is_itself else str(path)):
            if not isinstance(fields, dict):
                raise ValueError(f"{where}: not a JSON object, found {_begin(fields)}")
            if not has_completions:
                _check_text(fields, where)
            yield Row(fields, where)


def _begin(value: Any) -> str:
    try:
        return f"{value!r:.80}"
    except RecursionError:
        return "values nested too deeply to be shown"


def _check_text(value: Any, where: str, field: str = "") -> None:
    """Raises ValueError if a field or what it holds, however deep, is no text for a file."""
    if isinstance(value, str):
        if not value.isascii() and _LONE.search(value):
            raise ValueError(
                f"{where}: field {field!r:.80} holds a lone surrogate, half of a character that "
                f"no file can hold: {value!r:.80}; write it whole, or leave it out"
            )
        return
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for name, item in items:
        inner = f"{field}.{name}" if field else str(name)
        _check_text(str(name), where, inner)
        _check_text(item, where, inner)


def _hub_rows(source: HubSource, limit: int | None, is_streamed: bool) -> Iterator[Row]:
    from datasets import load_dataset  # seconds to import, and only needed for the hub

    is_whole = limit is None or is_streamed  # a stream cannot be sliced, only left
    split = source.split if is_whole else f"{source.split}[:{limit}]"
    number = 0
    try:
        rows = iter(load_dataset(source.name, source.config, split=split, streaming=is_streamed))
        while (fields := next(rows, None)) is not None:
            number += 1
            yield Row(dict(fields), f"{source.name} [{source.split}], row {number}")
    except Exception as error:  # the hub client raises many kinds; all mean that it cannot be read
        reason = (str(error) or "no reason given").splitlines()[0]
        where = f" past row {number}" if number else ""
        raise SourceError(
            f"data set '{source.name}' could not be loaded from the hub{where} "
            f"({type(error).__name__}: {reason}); check the name and the network, set HF_TOKEN if "
            "it is private or gated, or give a local file"
        ) from error

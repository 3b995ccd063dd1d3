"""Rows from a JSON-lines or Parquet file or a hub data set, each remembering where it came from.

Tasks read a row's fields through `Row.text` and `Row.texts`, so that a bad row is always
reported as `file, line, field` and never as a KeyError from somewhere inside a run.
"""

import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCAL_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".gz", ".parquet")
BATCH_ROWS = 1024  # of a Parquet file, read at once


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

    def _get(self, field: str) -> Any:
        if field not in self.fields:
            found = ", ".join(self.fields) or "no fields"
            raise ValueError(f"{self.where}: field '{field}' is missing (found: {found})")
        return self.fields[field]


def is_local(source: str) -> bool:
    """Whether `source` is meant as a file on this machine rather than a hub id."""
    return (
        source.endswith(LOCAL_SUFFIXES)
        or source.startswith((".", "/", "~"))
        or Path(source).exists()
    )


def read_rows(source: str | HubSource, limit: int | None = None) -> list[Row]:
    """The first `limit` rows (all if None) of a file or a hub data set.

    Raises:
        ValueError: the file is missing or empty, or a line is not a JSON object; the message
            names the file and the line.
    """
    kept = list(stream_rows(source, limit, is_hub_streamed=False))
    if not kept:
        raise ValueError(f"{source}: no rows; a task needs at least one")
    return kept


def stream_rows(
    source: str | HubSource, limit: int | None = None, is_hub_streamed: bool = True
) -> Iterator[Row]:
    """The same rows one by one, for sets larger than memory; hub rows are not kept on disk."""
    if isinstance(source, HubSource):
        rows = _hub_rows(source, limit, is_hub_streamed)
    else:
        rows = _file_rows(source)
    return itertools.islice(rows, limit)


def _file_rows(source: str) -> Iterator[Row]:
    path = Path(source).expanduser()
    if not path.is_file():
        raise ValueError(f"{source}: no such file (looked in {Path.cwd()})")
    yield from (_parquet_rows if path.suffix == ".parquet" else _json_rows)(path, source)


def _parquet_rows(path: Path, source: str) -> Iterator[Row]:
    from pyarrow import ArrowException, parquet  # comes with datasets; a while to import

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(fields, f"{source}, row {number}")
    except (OSError, ArrowException) as error:
        raise ValueError(f"{source}: cannot be read ({str(error).splitlines()[0]})") from None


def _json_rows(path: Path, source: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where}: not valid JSON ({error})") from None
        if not isinstance(fields, dict):
            raise ValueError(f"{where}: not a JSON object, found {fields!r:.80}")
        yield Row(fields, where)


def _lines(path: Path) -> Iterator[bytes]:
    # Lines end at \n only: str.splitlines() would also split texts at U+2028 and the like.
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:  # no permission, no gzip, or cut off
        raise ValueError(f"{path}: cannot be read ({error})") from None


def _hub_rows(source: HubSource, limit: int | None, is_streamed: bool) -> Iterator[Row]:
    from datasets import load_dataset  # seconds to import, and only needed for the hub

    is_whole = limit is None or is_streamed  # a stream cannot be sliced, only left
    split = source.split if is_whole else f"{source.split}[:{limit}]"
    try:
        loaded = load_dataset(source.name, source.config, split=split, streaming=is_streamed)
    except Exception as error:  # the hub client raises many kinds; all mean that it cannot be read
        raise ValueError(
            f"data set '{source.name}' could not be loaded from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); "
            "check the name and the network, or give a local .jsonl path"
        ) from error
    for number, fields in enumerate(loaded, start=1):
        yield Row(dict(fields), f"{source.name} [{source.split}], row {number}")

"""The files of a place, and what is in them: JSON lines and arrays, tables, folders of shards.

A place is a file, a glob ("data/*.jsonl"), a folder of shards or one that `datasets` saved. Shards
are read in the order of their names. What a file holds is told by its suffix, before that of a
compression, in either case of letters; any other suffix is read as JSON.
"""

import bz2
import csv
import glob
import gzip
import io
import itertools
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

TABLES = {".csv": ",", ".tsv": "\t"}
KINDS = (".jsonl", ".ndjson", ".json", *TABLES, ".parquet", ".arrow")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
BATCH_ROWS = 1024  # of a Parquet file, read at once
_SPLIT = re.compile(r"(?:^|[^a-z])(train|test|val|valid|validation|dev|eval)(?![a-z])", re.I)

Numbered = Iterator[tuple[str, Any]]  # where ("rows.jsonl, line 3"), and what is there


def is_local(source: str) -> bool:
    """Whether `source` is meant as a place on this machine rather than a hub id."""
    return (
        source.lower().endswith((*KINDS, *COMPRESSIONS))
        or source.startswith((".", "/", "~"))
        or glob.has_magic(source)
        or os.path.exists(source)
    )


def row_files(source: str) -> list[Path]:
    """The files that `source` names, in their order; a folder that `datasets` saved is one of them.

    Raises:
        ValueError: there are none, or the folder's files do not belong together.
    """
    path = Path(source).expanduser()
    if os.path.isdir(path):
        return _in_folder(path, source)
    if os.path.isfile(path):  # which a name that is too long is not
        return [path]
    if not glob.has_magic(source):
        raise ValueError(f"{source}: no such file (looked in {Path.cwd()})")
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    if not (files := [file for file in found if file.is_file()]):
        raise ValueError(f"{source}: no file has such a name (looked in {Path.cwd()})")
    return files


def file_rows(path: Path, name: str) -> Numbered:
    """What a file holds, with the line or the number of each; objects, if the file is as it should.

    Args:
        name: what the file is called, there and in errors.

    Raises:
        ValueError: it cannot be read; in one line, which names file and line.
    """
    kind, compression = _kind(path)
    if kind in TABLES:
        rows = _table_rows(path, name, TABLES[kind])
    elif path.is_dir() or kind in (".parquet", ".arrow"):
        if compression:
            raise ValueError(f"{name}: {kind} files are compressed within; unpack it")
        rows = _arrow_rows(path, name)
    else:
        rows = _json_rows(path, name)
    try:
        yield from rows
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        # no permission, another format, or cut off
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name}: cannot be read ({reason})") from None


def _in_folder(path: Path, source: str) -> list[Path]:
    if (path / "dataset_dict.json").is_file():
        splits = sorted(child.name for child in path.iterdir() if child.is_dir())
        raise ValueError(
            f"{source}: a data set of several splits ({', '.join(splits)}); name one's folder: "
            f"{path / (splits or ['train'])[0]}"
        )
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return [path]
    files = sorted(
        child
        for child in path.iterdir()
        if child.is_file() and child.name[0] not in "._" and _kind(child)[0] in KINDS
    )
    if not files:
        raise ValueError(f"{source}: a folder without files of rows ({', '.join(KINDS)})")
    for what, names in (
        ("splits", {match[1].lower() for file in files if (match := _SPLIT.search(file.name))}),
        ("kinds", {"".join(_kind(file)) for file in files}),
    ):
        if len(names) > 1:
            raise ValueError(
                f"{source}: a folder with files of several {what} ({', '.join(sorted(names))}); "
                f"name those to read: {path / files[0].name}, or with a * for several"
            )
    return files


def _kind(path: Path) -> tuple[str, str]:
    """The suffix that says what a file holds, and that of its compression or ""."""
    *before, last = ["", *(suffix.lower() for suffix in path.suffixes)]
    return (before[-1], last) if last in COMPRESSIONS else (last, "")


def _opened(path: Path) -> IO[bytes]:
    compression = _kind(path)[1]
    if compression == ".zst":
        from pyarrow import input_stream

        return io.BufferedReader(cast(io.RawIOBase, input_stream(str(path), compression="zstd")))
    opens = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, "": open}
    return cast(IO[bytes], opens[compression](path, "rb"))


def _json_rows(path: Path, name: str) -> Numbered:
    with _opened(path) as file:
        # Lines end at \n only: str.splitlines() would also split texts at U+2028 and the like.
        lines = enumerate(file, start=1)
        begun = next(((n, line) for n, line in lines if line.strip(b"\xef\xbb\xbf \t\r\n")), None)
        if begun is None:
            return
        if begun[1].lstrip(b"\xef\xbb\xbf \t").startswith(b"["):
            whole = b"\n" * (begun[0] - 1) + begun[1].removeprefix(b"\xef\xbb\xbf") + file.read()
            items = _parsed(whole, name, None)
            yield from (
                (f"{name}, row {number}", item) for number, item in enumerate(items, start=1)
            )
            return
        for number, line in itertools.chain([begun], lines):
            if line.strip():
                yield f"{name}, line {number}", _parsed(line, name, number)


def _parsed(text: bytes, name: str, number: int | None) -> Any:
    """The JSON in `text`, which is line `number` of the file, or all of it."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        where = name if number is None else f"{name}, line {number}"
        raise ValueError(f"{where}: nested too deeply to be read") from None
    except json.JSONDecodeError as error:
        line = error.lineno if number is None else number
        raise ValueError(f"{name}, line {line}: not valid JSON ({error})") from None
    except ValueError as error:  # no UTF-8
        where = name if number is None else f"{name}, line {number}"
        raise ValueError(f"{where}: not valid JSON ({error})") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"a key is there twice, {twice!r:.80}")
    return found


def _table_rows(path: Path, name: str, delimiter: str) -> Numbered:
    csv.field_size_limit(2**31 - 1)  # texts may be longer than the 128 KiB of the default
    with _opened(path) as file:
        reader = csv.reader(
            io.TextIOWrapper(file, "utf-8-sig", newline=""), delimiter=delimiter, strict=True
        )
        columns: list[str] | None = None
        line = 1
        try:
            for values in reader:
                if values and columns is None:
                    columns = [column.strip() for column in values]
                    if len(set(columns)) < len(columns):
                        raise ValueError(f"two columns have one name (found: {', '.join(columns)})")
                elif values and columns is not None:
                    if len(values) != len(columns):
                        raise ValueError(f"{len(values)} values for {len(columns)} columns")
                    yield f"{name}, line {line}", dict(zip(columns, values, strict=True))
                line = reader.line_num + 1
        except (csv.Error, ValueError) as error:
            raise ValueError(f"{name}, line {line}: {error}") from None


def _arrow_rows(path: Path, name: str) -> Numbered:
    from pyarrow import ArrowException  # comes with datasets; a while to import

    is_parquet = path.suffix.lower() == ".parquet"
    rows = (_parquet_rows if is_parquet else _ipc_rows if _is_ipc(path) else _dataset_rows)(path)
    try:
        for number, fields in enumerate(rows, start=1):
            yield f"{name}, row {number}", fields
    except (ArrowException, UnicodeDecodeError) as error:
        raise OSError(str(error)) from None


def _parquet_rows(path: Path) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise OSError(f"two columns have one name (found: {', '.join(names)})")
        for batch in file.iter_batches(BATCH_ROWS):
            yield from batch.to_pylist()


def _is_ipc(path: Path) -> bool:
    """Whether an Arrow file has an index at its end, as others write it; `datasets` streams."""
    if path.is_dir():
        return False
    with path.open("rb") as file:
        return file.read(6) == b"ARROW1"


def _ipc_rows(path: Path) -> Iterator[Any]:
    from pyarrow import ipc, memory_map

    with memory_map(str(path)) as source, ipc.open_file(source) as file:
        for index in range(file.num_record_batches):
            yield from file.get_batch(index).to_pylist()


def _dataset_rows(path: Path) -> Iterator[Any]:
    from datasets import Dataset, load_from_disk  # seconds to import

    yield from load_from_disk(str(path)) if path.is_dir() else Dataset.from_file(str(path))

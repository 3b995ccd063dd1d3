"""Rows as files of every kind that the project reads."""

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

KINDS_OF_ROWS = (
    ".jsonl",
    ".jsonl.gz",
    ".jsonl.bz2",
    ".jsonl.xz",
    ".json",
    ".csv",
    ".tsv",
    ".tsv.gz",
    ".parquet",
    ".ndjson",
)


def write_as(kind: str, rows: list[dict[str, Any]], path: Path) -> None:
    """The rows as a file of a kind: ".csv", ".json", ".jsonl.gz", ".parquet" and so on.

    A table has texts only: another value is written as JSON.
    """
    if kind == ".parquet":
        from pyarrow import Table, parquet

        parquet.write_table(Table.from_pylist(rows), path)
        return
    kind, _, compression = kind[1:].partition(".")
    if kind in ("csv", "tsv"):
        columns = list(dict.fromkeys(name for row in rows for name in row))
        file = io.StringIO()
        table = csv.writer(file, delimiter={"csv": ",", "tsv": "\t"}[kind])
        table.writerow(columns)
        for row in rows:
            values = [row.get(name) for name in columns]
            table.writerow([v if isinstance(v, str) else json.dumps(v) for v in values])
        text = file.getvalue()
    elif kind == "json":
        text = json.dumps(rows, indent=1)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    data = text.encode("utf-8", "surrogatepass")
    packed = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    path.write_bytes(packed[compression](data) if compression else data)

"""Rows of Parquet files: the same as those of JSON lines, read in batches, named by number."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet
from support.task_rows import train_rows

from data import TASKS
from data.rows import Row, is_local, read_rows


def write(path, rows, **options):
    parquet.write_table(pa.Table.from_pylist(rows), path, **options)
    return str(path)


def test_parquet_gives_what_json_lines_give(tmp_path):
    rows = [{"question": f"Who is {i}?", "answers": [f"N{i}", "x"]} for i in range(2500)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = write(tmp_path / "rows.parquet", rows, row_group_size=700)
    task = TASKS["triviaqa"]
    assert train_rows(task, path) == train_rows(task, str(tmp_path / "rows.jsonl"))
    found = read_rows(path)
    assert [row.fields for row in found] == rows
    assert found[1500].where == f"{path}, row 1501"
    assert read_rows(path, 3) == found[:3]


def test_a_bad_row_of_parquet_is_named(tmp_path):
    path = write(
        tmp_path / "rows.parquet", [{"question": "Q", "answers": ["a"]}, {"question": "R"}]
    )
    with pytest.raises(ValueError, match=r"rows\.parquet, row 2: field 'answers' must be a list"):
        train_rows(TASKS["triviaqa"], path)


def test_parquet_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ValueError, match=r"bad\.parquet: cannot be read \("):
        read_rows(str(tmp_path / "bad.parquet"))
    with pytest.raises(ValueError, match=r"none\.parquet: no such file"):
        read_rows("none.parquet")
    with pytest.raises(ValueError, match=r"empty\.parquet: no rows"):
        read_rows(write(tmp_path / "empty.parquet", [Row({}, "")][:0]))
    assert is_local("some/where.parquet")

"""Rows of files: every kind gives the same ones, and a bad row is named by file and line."""

import bz2
import csv
import gzip
import json
import lzma

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import parquet
from support.task_rows import train_rows

from data import TASKS
from data.row_files import is_local, row_files
from data.rows import HubSource, Row, read_rows, stream_rows
from data.training.mixture import Source
from train.rows.training_rows import _identity

ROWS = [{"question": f"Who is\n{i}, \u2028“x”?", "answer": f"N{i}", "id": str(i)} for i in range(9)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def write(path, rows, **options):
    parquet.write_table(pa.Table.from_pylist(rows), path, **options)
    return str(path)


def table(path, delimiter):
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def zstd(path, content):
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(content)


def arrow(path, kind):
    content = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as file, kind(file, content.schema) as writer:
        writer.write_table(content, max_chunksize=2)


WRITERS = {
    "rows.jsonl": lambda path: path.write_bytes(LINES),
    "ROWS.JSONL": lambda path: path.write_bytes(LINES),
    "rows.ndjson": lambda path: path.write_bytes(b"\n" + LINES),
    "bom.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + LINES),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "line.json": lambda path: path.write_text(" \n" + json.dumps(ROWS)),
    "bom.json": lambda path: path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
    "rows.csv": lambda path: table(path, ","),
    "ROWS.TSV": lambda path: table(path, "\t"),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "rows.JSON.GZ": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "rows.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(LINES)),
    "rows.jsonl.xz": lambda path: path.write_bytes(lzma.compress(LINES)),
    "rows.jsonl.zst": lambda path: zstd(path, LINES),
    "rows.parquet": lambda path: write(path, ROWS),
    "ROWS.PARQUET": lambda path: write(path, ROWS),
    "rows.arrow": lambda path: arrow(path, pa.ipc.new_stream),
    "indexed.arrow": lambda path: arrow(path, pa.ipc.new_file),
    "saved": lambda path: Dataset.from_list(ROWS).save_to_disk(path),
    "splits/train": lambda path: DatasetDict(
        {"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])}
    ).save_to_disk(path.parent),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    assert is_local(str(path)) and (is_local(path.name) or path.is_dir())
    found = read_rows(str(path))
    assert [row.fields for row in found] == ROWS
    assert read_rows(str(path), 3) == found[:3]
    assert all(row.where.startswith(f"{path}, ") for row in found)
    assert len({row.where for row in found}) == len(ROWS)


def test_shards_are_read_in_the_order_of_their_names(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in (2, 0, 1):
        shard = b"".join(LINES.splitlines(keepends=True)[3 * number : 3 * number + 3])
        (folder / f"train-0000{number}-of-00003.jsonl").write_bytes(shard)
    (folder / "README.md").write_text("About the rows.")
    (folder / "_SUCCESS.json").write_text("{}")
    (folder / ".hidden.jsonl").write_text("nothing")
    for place in (str(folder), str(folder / "*.jsonl"), str(tmp_path / "**" / "train-*")):
        assert is_local(place)
        rows = read_rows(place)
        assert [row.fields for row in rows] == ROWS
        assert rows[4].where == f"{folder / 'train-00001-of-00003.jsonl'}, line 2"
        assert [row.where for row in stream_rows(place, 4)] == [row.where for row in rows[:4]]
    before = _identity(str(folder))
    assert _identity(str(folder / "*.jsonl")) == before
    (folder / "train-00002-of-00003.jsonl").write_bytes(LINES)
    assert _identity(str(folder)) != before


def test_a_saved_data_set_is_told_from_another(tmp_path):
    for name, rows in (("one", ROWS), ("same", ROWS), ("other", ROWS[::-1])):
        Dataset.from_list(rows).save_to_disk(tmp_path / name)
    arrows = {name: _identity(str(tmp_path / name))[1] for name in ("one", "same", "other")}
    assert arrows["one"] == arrows["same"] != arrows["other"]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("train.jsonl", "test.jsonl"), r"several splits \(test, train\); name those to read: "),
        (("train-0.jsonl", "validation-0.jsonl"), "several splits"),
        (("rows.jsonl", "rows.csv"), r"several kinds \(\.csv, \.jsonl\)"),
        (("rows.jsonl", "rows.jsonl.gz"), "several kinds"),
        (("README.md",), "a folder without files of rows"),
        ((), "a folder without files of rows"),
    ],
)
def test_a_folder_whose_files_do_not_belong_together(tmp_path, names, problem):
    for name in names:
        (tmp_path / name).write_bytes(LINES)
    with pytest.raises(ValueError, match=problem):
        read_rows(str(tmp_path))


def test_a_data_set_of_several_splits_is_to_name_one(tmp_path):
    WRITERS["splits/train"](tmp_path / "splits" / "train")
    with pytest.raises(ValueError, match=r"\(test, train\); name one's folder: .*splits/test"):
        read_rows(str(tmp_path / "splits"))
    with pytest.raises(ValueError, match="no file has such a name"):
        row_files(str(tmp_path / "*.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.json", b'[\n{"a": 1},\n{"a": }]', r"a\.json, line 3: not valid JSON"),
        ("a.json", b'[{"a": 1}', r"a\.json, line 1: not valid JSON"),
        ("a.json", b'[{"a": 1}, 2]', r"a\.json, row 2: not a JSON object, found 2"),
        ("a.json", b"[]", "no rows"),
        ("a.json", b'[{"a": 1, "b": 2, "b": 3}]', r"a key is there twice, 'b'"),
        (
            "a.jsonl",
            b'{"a": 1}\n{"a": [{"c": 1, "c": 2}]}\n',
            r"a\.jsonl, line 2: .*twice, 'c'",
        ),
        ("a.jsonl", b'{"a": 1}\n[2]\n', r"a\.jsonl, line 2: not a JSON object, found \[2\]"),
        ("a.csv", b"a,b\n1,2\n3\n", r"a\.csv, line 3: 1 values for 2 columns"),
        ("a.csv", b'a,b\n"x\ny",2\n1,2,3\n', r"a\.csv, line 4: 3 values for 2 columns"),
        ("a.csv", b'a,b\n1,"2\n', r"a\.csv, line 2: unexpected end"),
        ("a.csv", b"a,a\n1,2\n", r"a\.csv, line 1: two columns have one name"),
        ("a.csv", b"a,b\n\xff,2\n", r"a\.csv, line \d: 'utf-8' codec can't decode"),
        ("a.csv", b"a,b\n", "no rows"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz: cannot be read"),
        ("a.jsonl.gz", gzip.compress(LINES * 99, mtime=0)[:-40], r"a\.jsonl\.gz: cannot be read"),
        ("a.jsonl.bz2", b"no bzip2", r"a\.jsonl\.bz2: cannot be read"),
        ("a.jsonl.bz2", bz2.compress(LINES)[:-9], r"a\.jsonl\.bz2: cannot be read"),
        ("a.jsonl.xz", b"no xz", r"a\.jsonl\.xz: cannot be read"),
        ("a.jsonl.xz", lzma.compress(LINES)[:-9], r"a\.jsonl\.xz: cannot be read"),
        ("a.jsonl.zst", b"no zstd", r"a\.jsonl\.zst: cannot be read"),
        ("a.parquet", b"PAR1 and nothing else", r"a\.parquet: cannot be read \("),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0), r"\.parquet files are compressed within"),
        ("a.arrow", b"no arrow", r"a\.arrow: cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=problem) as error:
        read_rows(str(tmp_path / name))
    assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)


def test_a_long_text_of_a_table_is_read_whole(tmp_path):
    (tmp_path / "long.csv").write_text("text\n" + "x" * 300_000 + "\n")
    assert len(read_rows(str(tmp_path / "long.csv"))[0].text("text")) == 300_000


@pytest.mark.parametrize("task", ["gsm8k", "triviaqa", "facts", "word_problems", "instruct"])
@pytest.mark.parametrize(("given", "name"), [(7, "7"), (7.0, "7"), ("7", "7"), (None, "f, line 1")])
def test_a_whole_number_is_a_name(task, given, name):
    fields = {"question": "q", "answer": "#### 1", "instruction": "i", "output": "o"}
    answers = {"answers": ["#### 1"]} if task in ("facts", "triviaqa") else {}
    row = Row({**fields, **answers, "id": given}, "f, line 1")
    assert TASKS[task].eval_row(row).id == name


@pytest.mark.parametrize("given", [True, 1.5, ["a"], float("nan")])
def test_what_is_no_name_is_named(given):
    with pytest.raises(ValueError, match="f, line 1: field 'id' must be text"):
        Row({"id": given}, "f, line 1").id("id")


def test_parquet_gives_what_json_lines_give(tmp_path):
    rows = [{"question": f"Who is {i}?", "answers": [f"N{i}", "x"]} for i in range(2500)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = write(tmp_path / "rows.parquet", rows, row_group_size=700)
    task = TASKS["triviaqa"]
    assert train_rows(task, path) == train_rows(task, str(tmp_path / "rows.jsonl"))
    found = read_rows(path)
    assert found[1500].where == f"{path}, row 1501"
    source = Source("triviaqa", path, lambda row: [task.to_train(row)], limit=3)
    assert list(source.stream()) == source.read()


def test_a_bad_row_of_parquet_is_named(tmp_path):
    path = write(
        tmp_path / "rows.parquet", [{"question": "Q", "answers": ["a"]}, {"question": "R"}]
    )
    with pytest.raises(ValueError, match=r"rows\.parquet, row 2: field 'answers' must be a list"):
        train_rows(TASKS["triviaqa"], path)
    two = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    parquet.write_table(two, path)
    with pytest.raises(ValueError, match=r"rows\.parquet: .*two columns have one name"):
        read_rows(path)


@pytest.mark.parametrize("num_rows", [0, 2])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_data_set_that_the_hub_does_not_give(monkeypatch, num_rows, is_streamed):
    def load_dataset(name, config, split, streaming):
        def rows():
            yield from [{"question": "q"}] * num_rows
            raise ConnectionError("401 Client Error.\nMore lines")

        return rows()

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(ValueError, match="HF_TOKEN if it is private or gated") as error:
        list(stream_rows(HubSource("my/rows", None, "train"), None, is_streamed))
    place = "the hub past row 2 (" if num_rows else "the hub ("
    assert f"data set 'my/rows' could not be loaded from {place}" in str(error.value)
    assert "\n" not in str(error.value)


def test_files_without_rows_and_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"none\.parquet: no such file"):
        read_rows("none.parquet")
    with pytest.raises(ValueError, match=r"empty\.parquet: no rows"):
        read_rows(write(tmp_path / "empty.parquet", [Row({}, "")][:0]))
    assert is_local("some/where.parquet")

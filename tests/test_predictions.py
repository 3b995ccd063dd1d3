"""Prediction files: rows in the questions' order at any moment, whatever order they end in."""

import itertools

from decode.evaluation.prediction_file import PredictionFile
from decode.jobs.files import read_rows
from decode.jobs.processes import Replica

IDS = ["a", "b", "c", "d"]


def row(id_: str) -> dict:
    return {"id": id_, "score": float(ord(id_))}


def test_the_file_holds_the_beginning_of_the_final_one_at_every_moment(tmp_path):
    for number, order in enumerate(itertools.permutations(IDS)):
        path = tmp_path / f"{number}" / "system.name.jsonl"
        file = PredictionFile(path, IDS)
        for done, id_ in enumerate(order, start=1):
            file.add(row(id_))
            on_disk = [r["id"] for r in read_rows(path)]
            assert on_disk == IDS[: len(on_disk)]
            assert set(IDS[: len(on_disk) + 1]) - set(order[:done]) or done == len(IDS)
            again = PredictionFile(path, IDS)  # as a new process would find it
            assert set(again.rows) == set(order[:done])
            assert [IDS[place] for place in again.missing] == [i for i in IDS if i in order[done:]]
        assert file.finish() == [row(id_) for id_ in IDS] == read_rows(path)
        assert [p.name for p in path.parent.iterdir()] == ["system.name.jsonl"]


def test_a_line_cut_off_in_either_file_costs_that_row_only(tmp_path):
    path = tmp_path / "system.jsonl"
    file = PredictionFile(path, IDS)
    for id_ in ("a", "c", "d"):
        file.add(row(id_))
    for partial in (path, tmp_path / "system.early0.jsonl"):
        with partial.open("a") as stream:
            stream.write('{"id": "b", "sc')
    again = PredictionFile(path, IDS)
    assert again.missing == [1]
    again.add(row("b"))
    assert again.finish() == [row(id_) for id_ in IDS] == read_rows(path)


def test_replicas_share_the_rows_and_one_of_them_writes_the_file(tmp_path):
    path = tmp_path / "system-1.5b.jsonl"
    PredictionFile(path, IDS).add(row("a"))  # begun alone
    shares = [PredictionFile(path, IDS, Replica(rank, 3)) for rank in range(3)]
    assert [file.missing for file in shares] == [[3], [1], [2]]
    for file, id_ in zip(shares, "dbc", strict=True):
        file.add(row(id_))
        assert file.missing == []
    assert read_rows(path) == [row("a")]  # not yet: nobody knows of the others
    other_number = [PredictionFile(path, IDS, Replica(rank, 2)) for rank in range(2)]
    assert [file.missing for file in other_number] == [[], []]
    assert PredictionFile(path, IDS).finish() == [row(id_) for id_ in IDS] == read_rows(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_line_that_another_replica_is_writing_is_left_alone(tmp_path):
    path = tmp_path / "system.jsonl"
    PredictionFile(path, IDS, Replica(0, 2)).add(row("a"))
    own, other = tmp_path / "system.early1.jsonl", tmp_path / "system.early0.jsonl"
    for file in (own, other):
        with file.open("a") as stream:
            stream.write('{"id": "c", "sc')
    PredictionFile(path, IDS, Replica(1, 2))
    assert own.read_bytes() == b""
    assert other.read_text().endswith('{"id": "c", "sc')

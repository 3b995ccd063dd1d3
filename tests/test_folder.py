"""What is on disk is whole, and never made with two settings."""

import pytest

from decode.jobs.files import append_row, read_rows, weights_digest, write_json, write_rows
from decode.jobs.folder import RunFolder


def test_claims_of_names_that_differ_after_a_dot_do_not_meet(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim(folder.reference("qwen2.5-1.5b"), {"seed": 1})
    folder.claim(folder.reference("qwen2.5-1.7b"), {"seed": 2})
    folder.claim(folder.predictions("proxy-m-alpha0.5"), {"seed": 3})
    folder.claim(folder.predictions("proxy-m-alpha0.25"), {"seed": 4})
    folder.reference("qwen2.5-1.5b").mkdir(parents=True)
    with pytest.raises(ValueError, match="was made with seed 1, and this recipe has 2"):
        folder.claim(folder.reference("qwen2.5-1.5b"), {"seed": 2})


def test_a_claim_names_every_setting_that_changed_by_its_dotted_key(tmp_path):
    folder = RunFolder(tmp_path)
    made_with = {"sft": {"learning_rate": 1e-4, "seed": 1}, "same": [1, 2], "adapter": None}
    folder.claim(folder.expert, made_with)
    folder.expert.mkdir()
    changed = {"sft": {"learning_rate": 1e-3}, "same": (1, 2), "adapter": {"r": 8}}
    with pytest.raises(
        ValueError,
        match=r"sft.learning_rate 0.0001, and this recipe has 0.001 \(and sft.seed, adapter.r\)",
    ):
        folder.claim(folder.expert, changed)


def test_a_setting_that_is_free_may_change(tmp_path):
    folder, free = RunFolder(tmp_path), {"sft.save_steps"}
    folder.claim(folder.expert, {"sft": {"save_steps": 10, "max_steps": 20}}, free)
    folder.expert.mkdir()
    folder.claim(folder.expert, {"sft": {"save_steps": 5, "max_steps": 20}}, free)
    folder.claim(folder.expert, {"sft": {"max_steps": 20}}, free)
    with pytest.raises(ValueError, match=r"sft.max_steps 20, and this recipe has 30;"):
        folder.claim(folder.expert, {"sft": {"save_steps": 5, "max_steps": 30}}, free)


def test_what_was_never_begun_may_be_made_with_other_settings(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim(folder.expert, {"batch": 64})  # and then it did not fit into memory
    folder.claim(folder.expert, {"batch": 8})
    (folder.checkpoints(folder.expert) / "checkpoint-10").mkdir(parents=True)
    with pytest.raises(ValueError, match="was made with batch 8, and this recipe has 64"):
        folder.claim(folder.expert, {"batch": 64})


def test_a_line_that_was_cut_off_is_dropped_and_appended_after(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, {"text": "a\u2028b"})  # a line separator to splitlines, not to JSON lines
    with path.open("a") as file:
        file.write('{"text": "cut o')
    assert read_rows(path) == [{"text": "a\u2028b"}]
    append_row(path, {"text": "c"})
    assert read_rows(path) == [{"text": "a\u2028b"}, {"text": "c"}]


def test_replacing_a_file_leaves_no_temporary_one(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"x": 1})
    write_rows(tmp_path / "deep" / "b.jsonl", [{"x": 1}])
    write_rows(tmp_path / "deep" / "b.jsonl", [{"x": 2}])
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["a.json", "b.jsonl"]
    assert read_rows(tmp_path / "deep" / "b.jsonl") == [{"x": 2}]


def test_weights_digest_tells_trainings_apart(tmp_path, save_model):
    one, same, other = save_model("one", 1), save_model("same", 1), save_model("other", 2)
    assert weights_digest(one) == weights_digest(same) != weights_digest(other)
    assert weights_digest("some/hub-id") is None

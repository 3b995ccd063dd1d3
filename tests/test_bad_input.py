"""What a new user gets wrong: one clear line, before any weights load, and nothing left behind."""

import runpy
import sys
from pathlib import Path

import pytest
from support.tiny_run import write_rows

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def start(monkeypatch, overrides, tmp_path):
    """Runs an entry as `python ENTRY recipes/gsm7b.yaml ...` and returns the line it exits with."""

    def run(*extra: str, entry: str = "train/sft.py", recipe: str = "recipes/gsm7b.yaml") -> str:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [entry, recipe, *overrides, *extra])
        for name in ("small", "large"):  # weights that would fail to load
            (tmp_path / name / "model.safetensors").write_bytes(b"not weights")
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(entry, run_name="__main__")
        assert not (tmp_path / "run" / "recipe.yaml").exists()
        line = str(caught.value.code)
        assert line.startswith("error: ")
        assert "\n" not in line
        return line

    return run


def test_a_misspelt_key(start):
    line = start("sft.learning_rat=1e-4")
    assert "recipes/gsm7b.yaml: sft.learning_rat" in line
    assert "did you mean sft.learning_rate?" in line


def test_a_wrong_type(start):
    assert 'decode.batch_size (override): found "many"' in start("decode.batch_size=many")


def test_a_missing_recipe(start):
    assert "recipes/none.yaml" in start(recipe="recipes/none.yaml")


def test_a_missing_model_folder(start):
    line = start("expert.model=./no/such/model")
    assert "expert.model" in line
    assert "no/such/model" in line


def test_a_model_that_is_not_on_the_hub(start):
    line = start("expert.model=nobody/nothing")
    assert "model 'nobody/nothing': no tokenizer found" in line


def test_mismatched_vocabularies(start, save_model):
    stranger = save_model("stranger", 3, extra=("<x>",), vocab_size=259)
    line = start(f"decode.bases.0.model={stranger}")
    assert "different vocabularies: 1 ids differ (id 258: '<x>' / None" in line
    assert "decode.vocabulary=shared" in line


def test_an_empty_data_file(start, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    assert "empty.jsonl: no rows" in start(f"task.eval={tmp_path / 'empty.jsonl'}")


def test_a_missing_data_file(start, tmp_path):
    assert "none.jsonl: no such file" in start(f"task.train={tmp_path / 'none.jsonl'}")


def test_a_broken_json_line(start, tmp_path):
    path = tmp_path / "broken.jsonl"
    write_rows(path, 2, 0)
    path.write_text(path.read_text() + '{"question": "half a\n')
    assert "broken.jsonl, line 3: not valid JSON" in start(f"task.train={path}")


def test_a_missing_field(start, tmp_path):
    path = tmp_path / "fields.jsonl"
    path.write_text('{"question": "q", "solution": "s"}\n')
    line = start(f"task.train={path}")
    assert "fields.jsonl, line 1: field 'answer' is missing (found: question, solution)" in line


def test_a_chat_prompt_without_a_template(start):
    assert "has no chat template" in start("expert.prompt=chat")


def test_decoding_before_training(start, tmp_path):
    line = start(entry="decode/run.py")
    assert f"{tmp_path / 'run' / 'expert'}: not there yet; train it with train/sft.py" in line

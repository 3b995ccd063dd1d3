"""What a new user gets wrong: one clear line, before any weights load, and nothing left behind."""

import ast
import runpy
import sys
from pathlib import Path

import pytest
from support.rows import jsonl
from support.tiny_run import write_rows

from decode.jobs.faults import doing, keep_tracebacks_in
from decode.jobs.folder import SettingsChanged
from decode.jobs.interruption import Interrupted
from decode.stage import command
from decode.stage.command import entry, user_errors

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def start(monkeypatch, overrides, tmp_path):
    """Runs an entry as `python ENTRY recipes/gsm7b.yaml ...` and returns the line it exits with."""

    def run(*extra: str, entry: str = "train/sft.py", recipe: str = "recipes/gsm7b.yaml") -> str:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [entry, recipe, *overrides, *extra])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(entry, run_name="__main__")
        assert not (tmp_path / "run" / "recipe.yaml").exists()  # which is there before training
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


@pytest.mark.parametrize("name", ["small", "large"])
def test_broken_weights(start, tmp_path, name):
    weights = tmp_path / name / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"{name}: Error while deserializing header: incomplete metadata" in start()


def test_weights_that_link_to_nowhere(start, tmp_path):
    weights = tmp_path / "large" / "model.safetensors"
    weights.unlink()
    weights.symlink_to("cleared")
    assert "large/model.safetensors: No such file or directory; give the folder" in start()


def test_a_type_of_numbers_that_torch_has_not(start, tmp_path):
    config = tmp_path / "large" / "config.json"
    config.write_text(config.read_text().replace('"float32"', '"float3"'))
    assert "large/config.json: module 'torch' has no attribute 'float3'; put back" in start()


def test_a_model_that_is_not_on_the_hub(start):
    line = start("expert.model=nobody/nothing")
    assert "model 'nobody/nothing': no tokenizer found" in line
    assert "HF_TOKEN set for a private or gated one" in line


def test_gguf_files(start, tmp_path):
    folder, hint = tmp_path / "only", "; GGUF files are not read (docs/quantization.md says"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"GGUF")
    line = start(f"expert.model={folder / 'model.gguf'}")
    assert "expert.model (override)" in line and f"gguf', a file; a model is a folder{hint}" in line
    line = start(f"decode.bases.0.model={folder}")
    assert f"decode.bases.0.model (override): found '{folder}', a folder without" in line
    assert hint in line
    key = "expert.trained"
    assert f"{key}: model 'org/M-GGUF': GGUF files are not read" in start(
        f"{key}=org/M-GGUF", entry="decode/run.py"
    )


def test_mismatched_vocabularies(start, save_model):
    stranger = save_model("stranger", 3, extra=("<x>",), vocab_size=259)
    line = start(f"decode.bases.0.model={stranger}")
    assert "different vocabularies: 1 ids differ (id 258: '<x>' / None" in line
    assert "decode.vocabulary=shared" in line


def test_an_empty_data_file(start, tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    assert "empty.jsonl: no rows" in start(f"task.eval={tmp_path / 'empty.jsonl'}")


def test_an_id_twice(start, tmp_path):
    rows = [{"id": id_, "question": "q", "answer": "#### 1"} for id_ in ("a", "b", "a")]
    path = jsonl(tmp_path / "twice.jsonl", rows)
    assert "task.eval: row id 'a' is there twice; ids must differ" in start(f"task.eval={path}")


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


def names_in(path: Path) -> set[str]:
    """Every name and attribute that a module uses."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {node.id for node in nodes if isinstance(node, ast.Name)}
    return found | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def test_no_library_module_exits_the_process():
    """Libraries raise; entries end the process, through `entry` if anything went wrong."""
    modules = [
        p for name in ("train", "decode", "data", "recipes") for p in ROOT.glob(f"{name}/**/*.py")
    ]
    exits = {p for p in modules if names_in(p) & {"exit", "_exit", "SystemExit"}}
    entries = {p for p in modules if 'if __name__ == "__main__":' in p.read_text()}
    sandbox = {p for p in modules if p.parent.name == "sandbox"}  # processes of their own
    assert exits - entries - sandbox == {ROOT / "decode/stage/command.py"}
    for path in entries - sandbox - {ROOT / "data/mini/build_rows.py"}:
        assert "entry" in decorators_of_main(path), path


def decorators_of_main(path: Path) -> set[str]:
    """What the function `main` of a module is decorated with."""
    nodes = ast.walk(ast.parse(path.read_text()))
    main = next(n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == "main")
    return {ast.unparse(decorator).partition("(")[0] for decorator in main.decorator_list}


def test_a_mistake_of_the_user_is_its_own_line():
    @entry()
    def main(error: Exception) -> None:
        with user_errors(KeyError):
            pass
        raise error

    with pytest.raises(SystemExit, match=r"^error: made with other settings$"):
        main(SettingsChanged("made with other settings"))
    with pytest.raises(SystemExit, match=r"^error: a row$"), user_errors(ValueError):
        raise ValueError("a row")
    with pytest.raises(SystemExit) as ended, user_errors(ValueError):
        raise ValueError("found a\x00b \x1b[31mé\u3042 \ud800")
    assert ended.value.code == r"error: found a\x00b \x1b[31mé\u3042 \ud800".replace(
        r"\u3042", "\u3042"
    )
    with pytest.raises(SystemExit, match=r"^error: two lines$"), user_errors(ValueError):
        raise ValueError("two\nlines")


class Panic(BaseException):
    """As a library in Rust raises it."""


@pytest.mark.parametrize("kind", [ValueError, RecursionError, MemoryError, Panic])
def test_a_fault_is_one_line_and_its_traceback_is_in_the_run_folder(kind, tmp_path):
    @entry()
    def main() -> None:
        keep_tracebacks_in(tmp_path)
        with doing("training runs/a/expert"), doing("saving a checkpoint"):
            raise kind("disk \ud800\n\nand more") from KeyError("the reason")

    with pytest.raises(SystemExit) as caught:
        main()
    log = tmp_path / "error.log"
    assert caught.value.code == (
        f"error: while saving a checkpoint: {kind.__name__}: disk \\ud800; "
        f"the traceback is in {log}"
    )
    text = log.read_text()
    assert "KeyError: 'the reason'" in text
    assert "while training runs/a/expert" in text
    assert "in main" in text


def test_a_fault_without_a_run_folder_or_room_to_write(tmp_path, monkeypatch):
    @entry()
    def main() -> None:
        keep_tracebacks_in(tmp_path / "none")
        raise KeyError

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(
        SystemExit, match=r"^error: KeyError; the traceback is in .*\.log$"
    ) as caught:
        main()
    written = Path(str(caught.value.code).rpartition(" in ")[2])
    assert written.parent == tmp_path
    assert written.read_text().endswith("KeyError\n")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(SystemExit, match=r"the traceback could not be written \("):
        main()


def test_an_interruption_is_no_fault():
    @entry()
    def main() -> None:
        raise stop

    for stop in (KeyboardInterrupt(), Interrupted(), SystemExit(3)):
        with pytest.raises(type(stop)):
            main()


def test_other_processes_wait_to_be_ended_before_they_repeat_a_line(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(command.time, "sleep", waits.append)

    @entry()
    def main(error: Exception) -> None:
        keep_tracebacks_in(tmp_path)
        raise error

    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        for error in (SettingsChanged("other settings"), OSError("no space")):
            with pytest.raises(SystemExit):
                main(error)
    assert waits == [command.PATIENCE_S] * 2
    assert {path.name for path in tmp_path.iterdir()} == {"error.log", "error.1.log"}


@pytest.mark.parametrize("entry", ["train/sft.py", "decode/run.py"])
def test_a_run_folder_below_a_file(start, tmp_path, entry):
    (tmp_path / "file").write_text("")
    line = start(f"output_dir={tmp_path / 'file' / 'run'}", entry=entry)
    assert line.startswith("error: output_dir: ")
    assert "Not a directory" in line


@pytest.mark.parametrize("device", ["cuda", "cuda:9", "mps"])
def test_a_device_that_is_not_there(start, device, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    line = start(f"decode.device={device}")
    assert f"decode.device: found '{device}'; this machine has no GPU" in line


def test_rows_that_leave_nothing_to_learn(start):
    assert "sft.max_length: found 8; cut to so many tokens, no training" in start(
        "sft.max_length=8"
    )


def test_rows_that_are_longer_than_the_model(start, tmp_path):
    path = tmp_path / "long.jsonl"
    write_rows(path, 2, 0)
    path.write_text(path.read_text().replace("How many", "How many " + "pens " * 200))
    line = start(f"task.train={path}", "sft.max_length=4096")
    assert "sft.max_length: found 4096, and a training row has" in line
    assert "can hold 512" in line


def test_what_a_library_refuses(start):
    assert "error: sft.optim: found 'adamw_8bit': " in start("sft.optim=adamw_8bit")

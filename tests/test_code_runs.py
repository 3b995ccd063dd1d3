"""Runs on code: samples drawn, executed in the sandbox, pass@k; and training on code."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.decode_run import decode
from support.rows import jsonl
from support.task_rows import train_rows
from test_experiment import files

from data import TASKS
from data.rows import Row
from data.sandbox import best_confinement
from data.scoring.scored_file import score_file
from decode.jobs.files import read_rows
from decode.models.model_source import ModelSource
from train.rows.training_rows import TrainingRows
from train.trainer import train, trainer_config
from train.training import Training

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "datasets" / "codealpaca"


@pytest.fixture(autouse=True, scope="module")
def _confined():
    try:
        best_confinement()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture
def code_recipe(recipe, tmp_path):
    """Problems that even noise solves at times: it stands in a comment up to a new line."""
    rows = [
        {
            "task_id": f"Toy/{i}",
            "prompt": f"def f():\n    return {i}\n#",
            "entry_point": "f",
            "canonical_solution": "",
            "test": f"def check(candidate):\n    assert candidate() == {i % 3}\n",
        }
        for i in range(4)
    ]
    task = {"name": "humaneval", "eval": jsonl(tmp_path / "problems.jsonl", rows)}
    path = recipe(task=task)
    return path, ("decode.num_samples=4", "decode.pass_at=2", "decode.max_new_tokens=5")


@pytest.mark.long
def test_a_code_run(code_recipe, tmp_path):
    path, overrides = code_recipe
    assert decode(path, *overrides) is None
    folder = tmp_path / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["metric"], metrics["num_examples"]) == ("pass@2", 4)
    rows = read_rows(folder / "predictions" / "expert.jsonl")
    assert [row["id"] for row in rows[:5]] == [*(f"Toy/0#{n}" for n in range(4)), "Toy/1#0"]
    assert len({row["completion"] for row in rows[:4]}) > 1
    grades = read_rows(folder / "grades" / "expert.jsonl")
    assert [grade["id"] for grade in grades] == [row["id"] for row in rows]
    assert all(grade["score"] == float(grade["passed"]) for grade in grades)
    # the last problem's test cannot be passed, and its verdict says why
    assert {grade["passed"] for grade in grades[12:]} == {False}
    assert any("AssertionError" in grade["detail"] for grade in grades[12:])
    assert any(grade["passed"] for grade in grades)
    # decode/score.py finds the same
    scored = score_file("humaneval", str(folder / "grades" / "expert.jsonl"), k=2)
    assert scored.keys == ("Toy/0", "Toy/1", "Toy/2", "Toy/3")
    assert metrics["expert"]["value"] == pytest.approx(sum(map(float, scored.values)) / 4)
    before = files(folder)
    assert decode(path, *overrides) is None
    changed = {name for name, content in files(folder).items() if before.get(name) != content}
    assert changed <= {"environment.json"}
    error = decode(path, *overrides, "decode.num_samples=5")
    assert "was made with" in error and "num_samples 4, and this recipe has 5" in error
    # code in fences: another rule, which says in the results how often it found some
    assert "was made with" in decode(path, *overrides, "task.extract=fences")
    folder = tmp_path / "fences"
    assert decode(path, *overrides, "task.extract=fences", f"output_dir={folder}") is None
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["task"] == "humaneval-fences"
    assert metrics["parts"]["expert"] == {"extracted": 0.0}
    assert "| system | extracted |" in (folder / "report.md").read_text()


@pytest.mark.long
def test_a_code_run_killed_while_it_executes(code_recipe, tmp_path):
    path, overrides = code_recipe
    assert decode(path, *overrides, f"output_dir={tmp_path / 'whole'}") is None
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "decode/run.py", str(path), *overrides]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    grades = tmp_path / "run" / "grades"
    while process.poll() is None and not (grades / "antiexpert.jsonl").exists():
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "run" / "metrics.json").exists()
    found = read_rows(grades / "antiexpert.jsonl")
    assert found
    assert decode(path, *overrides) is None
    # wall_s shows that these were not executed again
    assert read_rows(grades / "antiexpert.jsonl")[: len(found)] == found
    whole, cut = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "run")
    )
    assert {**cut, "decoding": None} == {**whole, "decoding": None}


def test_only_code_is_extracted(recipe):
    error = decode(recipe(), "task.extract=fences")
    assert "task.extract: 'instruct' runs no programs" in error


def test_samples_and_k_must_fit(code_recipe):
    path, overrides = code_recipe
    error = decode(path, *overrides, "decode.pass_at=5")
    assert "pass@5 on 'humaneval' needs at least 5 samples a row, found 4" in error
    error = decode(path, *overrides, "decode.temperature=0")
    assert "4 greedy completions of a row are all the same" in error


def test_code_rows_to_train_on():
    read = TASKS["humaneval"].train_row
    assert read is not None
    row = read(Row({"instruction": "Add.", "input": "1, 2", "output": "3"}, "f, line 1"))
    assert (row.prompt, row.completion) == ("Add.\n\n1, 2", "\n\n3")
    for field in ("content", "text"):
        row = read(Row({field: "x = 1\n"}, "f, line 1"))
        assert (row.prompt, row.completion) == ("", "x = 1\n")
    with pytest.raises(ValueError, match="f, line 2: a row of MBPP"):
        read(Row({"text": "Write.", "code": "x", "test_list": ["y"]}, "f, line 2"))
    with pytest.raises(ValueError, match="f, line 3: field 'instruction' is missing"):
        read(Row({"prompt": "x"}, "f, line 3"))
    mbpp = TASKS["mbpp"].train_row
    assert mbpp is not None
    assert mbpp(Row({"instruction": "Add.", "output": "3"}, "f, line 1")).prompt == "Add."


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not here")
def test_real_code_rows():
    for name, count in (("code_alpaca_2k", 2015), ("new_codealpaca", 4329)):
        rows = train_rows(TASKS["humaneval"], str(SHARED / f"{name}.jsonl"))
        assert len(rows) == count
        assert all(row.prompt and row.completion.startswith("\n\n") for row in rows)


def test_instructions_and_plain_text_are_trained_on_packed(save_model, tmp_path):
    rows = [{"instruction": f"Say {i}.", "output": f"print({i})"} for i in range(12)]
    texts = [{"text": f"x = {i}\nprint(x)\n"} for i in range(12)]
    found = train_rows(TASKS["humaneval"], jsonl(tmp_path / "code.jsonl", [*rows, *texts]))
    sft = {
        "max_steps": 8,
        "per_device_train_batch_size": 2,
        "max_length": 64,
        "packing": True,
        "learning_rate": 1e-2,
        "bf16": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "completion_only_loss": True,
    }
    model = ModelSource(save_model("small", 1), dtype="float32")
    training = Training(tmp_path / "expert", tmp_path / "checkpoints", model, None, sft, "train")
    train(training, TrainingRows(found, None, [], "toy"), trainer_config(training, 1, "toy"))
    log = json.loads((tmp_path / "expert" / "training_log.json").read_text())
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 8 and losses[-1] < losses[0]
    # 24 rows of some 20 to 25 bytes, 64 to a sequence: 8 steps of 2 are more than one epoch
    assert max(entry["epoch"] for entry in log) > 1

"""The mini family on vLLM, beside the toolkit's own engine, on questions that it was made for."""

import json
from pathlib import Path

import pytest

pytest.importorskip("vllm")

import torch
from peft import LoraConfig, get_peft_model
from support.decode_run import decode
from support.wide_heads import widen_model

from decode.jobs.files import read_rows
from decode.jobs.folder import RunFolder
from decode.models.sources import ModelSource, load_weights

MINI = Path(__file__).resolve().parents[2] / "data" / "mini"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """The small model with heads that vLLM has a kernel for, and a LoRA on it."""
    folder = tmp_path_factory.mktemp("mini")
    widen_model(MINI / "small", folder / "small")
    small = load_weights(ModelSource(str(folder / "small")), "cpu")
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=2, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(small, config).save_pretrained(folder / "expert")
    return folder


def write_recipe(models: Path, folder: Path, engine: str) -> Path:
    recipe = {
        "name": engine,
        "seed": 0,
        "output_dir": str(folder / engine),
        "task": {"name": "facts", "eval_limit": 60},
        "expert": {
            "model": str(models / "small"),
            "trained": str(models / "expert"),
            "dtype": "float32",
        },
        "decode": {
            "bases": [{"model": str(MINI / "large"), "dtype": "float32"}],
            "alpha": [0.5, 1.0],
            "batch_size": 8,
            "engine": engine,
        },
    }
    if engine == "vllm":
        recipe["decode"] |= {"vllm": {"enforce_eager": True}, "num_draft_tokens": 2}
    path = folder / f"{engine}.yaml"
    path.write_text(json.dumps(recipe))
    return path


def test_a_run_has_the_same_predictions_on_both_engines(models, tmp_path):
    files = {engine: write_recipe(models, tmp_path, engine) for engine in ("local", "vllm")}
    assert [decode(path) for path in files.values()] == [None, None]
    ours, theirs = (tmp_path / engine for engine in files)
    systems = {file.stem for file in (ours / "predictions").glob("*.jsonl")}
    assert {"antiexpert", "expert", "base-large", "proxy-large-alpha0.5"} < systems
    for system in systems:
        own, found = (read_rows(run / "predictions" / f"{system}.jsonl") for run in (ours, theirs))
        keys = "id", "completion", "token_ids", "finish_reason", "score"
        assert [[row[k] for k in keys] for row in own] == [[row[k] for k in keys] for row in found]
    folder = RunFolder(theirs)
    settings = json.loads(folder.settings(folder.predictions("base-large")).read_text())
    assert settings["engine"]["name"] == "vllm" and settings["engine"]["version"]
    counts = json.loads((theirs / "metrics.json").read_text())["decoding"]
    assert counts["expert"]["num_rows"] == 60 and counts["expert"]["tokens_per_verify"] == 1
    assert 1 < counts["proxy-large-alpha1"]["tokens_per_verify"] <= 3  # two are drafted

    predictions = theirs / "predictions" / "proxy-large-alpha1.jsonl"
    whole = predictions.read_text()
    predictions.write_text("".join(whole.splitlines(keepends=True)[:41]))  # killed at row 41
    assert decode(files["vllm"]) is None
    assert predictions.read_text() == whole
    found = decode(files["vllm"], "decode.engine=local", "decode.vllm=null")
    assert found is not None and "engine" in found

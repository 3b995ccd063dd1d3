"""The main job as a user starts it, on tiny local models: train, decode, report, resume."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from train.trainer import newest_complete_checkpoint

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("Ann", "Bob", "Cy", "Dee", "Eve", "Fay")


def write_rows(path: Path, num_rows: int, first: int) -> str:
    rows = [
        {
            "question": f"{NAMES[i % 6]} has {i} pens and buys {i % 7}. How many pens now?",
            "answer": f"{i}+{i % 7}=<<{i}+{i % 7}={i + i % 7}>>{i + i % 7}\n#### {i + i % 7}",
        }
        for i in range(first, first + num_rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def overrides(save_model, tmp_path: Path) -> list[str]:
    """What makes a 7B recipe small enough to run here: models, rows and steps, nothing else."""
    small, large = save_model("small", 1), save_model("large", 0, width=64)
    return [
        f"output_dir={tmp_path / 'run'}",
        f"task.train={write_rows(tmp_path / 'train.jsonl', 16, 0)}",
        f"task.eval={write_rows(tmp_path / 'eval.jsonl', 5, 40)}",
        f"expert.model={small}",
        "expert.dtype=float32",
        f"decode.bases=[{{model: {large}, dtype: float32, tune_reference: true}}]",
        "decode.max_new_tokens=6",
        "sft.max_steps=2",
        "sft.per_device_train_batch_size=2",
        "sft.gradient_accumulation_steps=1",
        "sft.max_length=256",
        "sft.bf16=false",
        "sft.activation_checkpointing=false",
        "sft.save_strategy='no'",
        "wandb.mode=offline",
    ]


def launch(recipe: str, overrides: list[str], *options: str, entry: str = "train/sft.py"):
    """`accelerate launch ENTRY recipes/RECIPE`, without W&B keys, hub or network."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "ACCELERATE"))}
    environment = {
        **kept,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HOME": str(Path(overrides[0].partition("=")[2]).parent),  # no netrc, no saved login
    }
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    return subprocess.run(
        [*command, entry, f"recipes/{recipe}", *overrides],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


CPU = ("--config_file", "recipes/accelerate/cpu.yaml")
TWO = ("--config_file", "recipes/accelerate/cpu_2proc.yaml", "--main_process_port", "0")


def finished(result: subprocess.CompletedProcess, run: Path) -> dict:
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    assert "gap closed" in result.stdout
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["num_examples"] == 5
    assert {"antiexpert", "expert"} <= set(metrics)
    assert set(metrics["bases"][0]) == {"model", "base", "tuned", "proxy"}
    for name in ("recipe.yaml", "environment.json", "report.md", "plots/systems.png"):
        assert (run / name).stat().st_size > 0
    assert not (run / "checkpoints").exists()
    return metrics


@pytest.mark.parametrize("recipe", ["gsm7b.yaml", "gsm7b_lora.yaml"])
def test_a_7b_recipe_runs_its_very_path_on_tiny_models(recipe, overrides, tmp_path):
    run = tmp_path / "run"
    result = launch(recipe, overrides, *CPU)
    finished(result, run)
    is_lora = recipe == "gsm7b_lora.yaml"
    assert (run / "expert" / "adapter_config.json").exists() == is_lora
    assert (run / "references" / "large" / "tokenizer.json").exists()
    assert len(list(run.glob("wandb/offline-run-*/run-*.wandb"))) == 2  # train and decode
    assert result.stderr.count("W&B is offline") == 1
    losses = [
        entry["train_loss"]
        for entry in json.loads((run / "expert" / "training_log.json").read_text())
        if "train_loss" in entry
    ]
    assert len(losses) == 1

    before = {p: p.read_bytes() for p in run.glob("predictions/*.jsonl")}
    weights = {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")}
    again = launch(recipe, overrides, *CPU)
    finished(again, run)
    assert again.stderr.count("is complete: not trained again") == 2
    assert {p: p.read_bytes() for p in run.glob("predictions/*.jsonl")} == before
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")} == weights

    other = launch(recipe, [*overrides, "sft.learning_rate=1e-3"], "--quiet", *CPU)
    assert other.returncode != 0
    assert "expert was made with sft" in other.stderr
    assert "choose another output_dir" in other.stderr

    longer = launch(recipe, [*overrides, "decode.max_new_tokens=7"], "--quiet", *CPU)
    assert longer.returncode != 0
    assert "antiexpert.jsonl was made with max_new_tokens 6, and this recipe has 7" in longer.stderr
    assert "Traceback" not in longer.stderr

    for processes in (CPU, TWO):  # alone, and with a share of the rows each
        for name in ("metrics.json", "predictions", "report.md"):
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        finished(launch(recipe, overrides, *processes, entry="decode/run.py"), run)
        assert {p: p.read_bytes() for p in run.glob("predictions/*")} == before


def test_two_processes_train_one_expert(overrides, tmp_path):
    one, two = [*overrides], [*overrides]
    one[0], two[0] = f"output_dir={tmp_path / 'one'}", f"output_dir={tmp_path / 'two'}"
    one.append("sft.per_device_train_batch_size=4")
    finished(launch("gsm7b.yaml", one, *CPU), tmp_path / "one")
    finished(launch("gsm7b.yaml", two, *TWO), tmp_path / "two")
    finished(launch("gsm7b.yaml", two, *TWO), tmp_path / "two")  # again, with nothing to do
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert environment["world_size"] == 2
    logs = [
        json.loads((tmp_path / n / "expert/training_log.json").read_text()) for n in ("one", "two")
    ]
    losses = [next(e["train_loss"] for e in log if "train_loss" in e) for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # rows are dealt out in another order


def test_training_killed_half_way_ends_with_the_same_expert(overrides, tmp_path):
    settings = [*overrides, "sft.max_steps=12", "sft.save_strategy=steps", "sft.save_steps=1"]
    settings.append("decode.bases.0.tune_reference=false")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finished(launch("gsm7b_lora.yaml", [f"output_dir={whole}", *settings[1:]], *CPU), whole)

    settings[0] = f"output_dir={cut}"
    checkpoints = cut / "checkpoints" / "expert"
    command = [sys.executable, "train/sft.py", "recipes/gsm7b_lora.yaml", *settings]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and newest_complete_checkpoint(checkpoints) is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert newest_complete_checkpoint(checkpoints) is not None
    assert not (cut / "expert").exists(), "the kill came after the training"
    partial = checkpoints / "checkpoint-99"
    partial.mkdir()
    (partial / "trainer_state.json").write_text('{"global_step": 9')

    result = launch("gsm7b_lora.yaml", settings, *CPU)
    finished(result, cut)
    assert "training goes on from" in result.stderr
    weights = "expert/adapter_model.safetensors"
    assert (cut / weights).read_bytes() == (whole / weights).read_bytes()
    found, expected = (json.loads((run / "metrics.json").read_text()) for run in (cut, whole))
    assert {**found, "decoding": None} == {**expected, "decoding": None}


def test_zero2_through_an_accelerate_file(overrides, tmp_path):
    config = yaml.safe_load((ROOT / "recipes/accelerate/8gpu_zero2.yaml").read_text())
    config |= {"num_processes": 1, "use_cpu": True, "main_process_port": 0}
    path = tmp_path / "zero2.yaml"
    path.write_text(yaml.safe_dump(config))
    result = launch("gsm7b.yaml", overrides, "--config_file", str(path))
    finished(result, tmp_path / "run")
    assert "DeepSpeed" in result.stderr + result.stdout
    assert (tmp_path / "run" / "expert" / "model.safetensors").exists()

"""The main job as a user starts it, on tiny local models: train, decode, report, resume."""

import json
import shutil

import pytest
import yaml
from support.tiny_run import CPU, ROOT, TWO, finished, forked, launch

pytestmark = pytest.mark.long


@pytest.mark.parametrize("recipe", ["gsm7b.yaml", "gsm7b_lora.yaml"])
def test_a_7b_recipe_runs_its_very_path_on_tiny_models(recipe, overrides, tmp_path):
    run = tmp_path / "run"
    is_lora = recipe == "gsm7b_lora.yaml"
    result = forked(recipe, overrides) if is_lora else launch(recipe, overrides, *CPU)
    finished(result, run)
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
    again = forked(recipe, overrides)
    finished(again, run)
    assert again.stderr.count("is complete: not trained again") == 2
    assert {p: p.read_bytes() for p in run.glob("predictions/*.jsonl")} == before
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")} == weights

    other = forked(recipe, [*overrides, "sft.learning_rate=1e-3"])
    assert other.returncode != 0
    assert "expert was made with sft.learning_rate " in other.stderr
    assert "and this recipe has 0.001; choose" in other.stderr
    assert "choose another output_dir" in other.stderr

    longer = forked(recipe, [*overrides, "decode.max_new_tokens=7"])
    assert longer.returncode != 0
    assert "antiexpert.jsonl was made with max_new_tokens 6, and this recipe has 7" in longer.stderr
    assert "Traceback" not in longer.stderr

    for num_processes in (1, 2):  # alone, and with a share of the rows each
        for name in ("metrics.json", "predictions", "report.md"):
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        entry = "decode/run.py"
        if num_processes == 2 and not is_lora:
            finished(launch(recipe, overrides, *TWO, entry=entry), run)
        else:
            finished(forked(recipe, overrides, num_processes, entry), run)
        assert {p: p.read_bytes() for p in run.glob("predictions/*")} == before


def test_two_processes_train_one_expert(overrides, tmp_path):
    one, two = [*overrides], [*overrides]
    one[0], two[0] = f"output_dir={tmp_path / 'one'}", f"output_dir={tmp_path / 'two'}"
    one.append("sft.per_device_train_batch_size=4")
    finished(forked("gsm7b.yaml", one), tmp_path / "one")
    finished(launch("gsm7b.yaml", two, *TWO), tmp_path / "two")
    finished(forked("gsm7b.yaml", two, 2), tmp_path / "two")  # again, with nothing to do
    environment = json.loads((tmp_path / "two" / "environment.json").read_text())
    assert environment["world_size"] == 2
    logs = [
        json.loads((tmp_path / n / "expert/training_log.json").read_text()) for n in ("one", "two")
    ]
    losses = [next(e["train_loss"] for e in log if "train_loss" in e) for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # rows are dealt out in another order


def test_zero2_through_an_accelerate_file(overrides, tmp_path):
    config = yaml.safe_load((ROOT / "recipes/accelerate/8gpu_zero2.yaml").read_text())
    config |= {"num_processes": 1, "use_cpu": True, "main_process_port": 0}
    path = tmp_path / "zero2.yaml"
    path.write_text(yaml.safe_dump(config))
    result = launch("gsm7b.yaml", overrides, "--config_file", str(path))
    finished(result, tmp_path / "run")
    assert "it is trained by 1 process with DeepSpeed ZeRO-2" in result.stderr
    assert (tmp_path / "run" / "expert" / "model.safetensors").exists()

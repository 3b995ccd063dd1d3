"""The main job as a user starts it, on tiny local models: train, decode, report, resume."""

import json
import shlex
import shutil

import pytest
import yaml
from support import fork_server
from support.tiny_run import (
    CPU,
    ROOT,
    TWO,
    finished,
    forked,
    in_terminal,
    launch,
    launch_command,
    launch_environment,
)

from decode.jobs.folder import RunFolder

pytestmark = pytest.mark.long

NOISE = (
    "Loading weights",
    "URL not available",
    "Setting accelerator",
    "Warning",
    "it/s",
    "{'loss'",
)


def check_log(result):
    """In a file nothing moves, nothing is coloured, and each stage takes a few lines."""
    written = result.stdout + result.stderr
    assert not set(written) & {"\r", "\x1b"}
    assert not [noise for noise in NOISE if noise in written]
    assert len(written.splitlines()) < 60, written


def check_screen(text: str, folder):
    """On a terminal of 80 columns each stage is one line that moves, and no line is wider."""
    assert not [noise for noise in NOISE if noise in text]
    assert "\x1b" not in text
    lines = [line for line in text.splitlines() if str(folder) not in line]  # whatever its length
    assert max(len(line) for line in lines) <= 80
    shown = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
    assert len(shown) < 60
    for stage in ("training expert: 2/2 steps in", "decoding 1/5 antiexpert: 5/5 rows in"):
        assert sum(line.startswith(stage) for line in shown) == 1, text
    assert not [line for line in shown if line.endswith(" left")]


@pytest.mark.parametrize("recipe", ["gsm7b.yaml", "gsm7b_lora.yaml"])
def test_a_7b_recipe_runs_its_very_path_on_tiny_models(recipe, overrides, tmp_path):
    run = tmp_path / "run"
    is_lora = recipe == "gsm7b_lora.yaml"
    if is_lora:
        result = forked(recipe, overrides)
        check_log(result)
    else:
        command = launch_command(recipe, overrides, *CPU)
        result = in_terminal(command, launch_environment(overrides))
        check_screen(result.stdout, tmp_path)
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
    for kept in (RunFolder(run).training_log, RunFolder(run).training_rows):
        assert RunFolder(run).settings(kept).exists()

    before = {p: p.read_bytes() for p in run.glob("predictions/*.jsonl")}
    weights = {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")}
    again = forked(recipe, overrides)
    finished(again, run)
    assert again.stderr.count("is complete: not trained again") == 2
    assert again.stderr.count("none is decoded again") == 1
    assert "decoding 1/" not in again.stderr
    assert {p: p.read_bytes() for p in run.glob("predictions/*.jsonl")} == before
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*.safetensors")} == weights

    if is_lora:
        _, *words = shlex.split(again.stdout.splitlines()[-1])
        said = fork_server.run(words, launch_environment(overrides))
        assert said.returncode == 0, said.stderr[-2000:]
        assert (run / "analysis" / "analysis.md").exists()
        check_log(said)

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
    assert "rows, by 1 process with DeepSpeed ZeRO-2" in result.stderr
    assert (tmp_path / "run" / "expert" / "model.safetensors").exists()

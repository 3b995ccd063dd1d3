"""The benchmarks run, at sizes that say nothing about speed, and record what they measured."""

import json
import subprocess
from pathlib import Path

import pytest
from support import fork_server

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]


def bench(script: str, *arguments: str) -> subprocess.CompletedProcess:
    return fork_server.run([f"benchmarks/{script}", *arguments])


@pytest.mark.parametrize("lengths", [(), ("--lengths", "3:9")], ids=["stops", "lengths"])
def test_systems_are_compared_on_the_same_tokens(save_model, tmp_path, lengths):
    base, expert, small = (save_model(name, seed) for seed, name in enumerate("bes"))
    out = tmp_path / "out.json"
    models = ("--base", base, "--expert", expert, "--antiexpert", small)
    sizes = ("--num-prompts", "5", "--batch-size", "2", "--num-rounds", "1")
    done = bench(
        "decode.py", *models, *sizes, "--max-new-tokens", "9", *lengths, "--json", str(out)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(out.read_text())
    ours = {"ours, drafts 0", "ours, drafts 2", "ours, drafts 4", "ours, drafts auto"}
    assert set(report["seconds"]) == {"sequential loop", "base, generate", *ours}
    assert report["equal_rows"] == dict.fromkeys(["sequential loop", *sorted(ours)], 1.0)
    assert all(seconds[0] > 0 for seconds in report["seconds"].values())
    assert report["ratios"]["over sequential loop"]["sequential loop"] == 1.0
    assert "tokens/verify" in done.stdout


def test_a_forced_acceptance_comes_out(tmp_path):
    out = tmp_path / "out.json"
    done = bench(
        "decode_gpu.py",
        *("--sizes", "tinier", "tinier", "--device", "cpu", "--dtype", "float32"),
        *("--vocab", "64", "--prompt-tokens", "4", "--new-tokens", "100", "--batch-size", "8"),
        *("--num-rounds", "1", "--drafts", "3", "--acceptance", "0.8", "--json", str(out)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(out.read_text())
    per_verify = report["stats"]["ours, drafts 3"]["tokens_per_verify"]
    assert per_verify == pytest.approx((1 - 0.8**4) / 0.2, rel=0.1)
    assert report["weight_read_limit_s"] > 0
    assert "weight-read limit" in done.stdout


def test_an_expert_that_is_not_there_is_one_line():
    done = bench("decode.py", "--expert", "runs/nowhere/expert")
    assert done.returncode == 2
    assert "make demo" in done.stderr
    assert "Traceback" not in done.stderr


def test_training_is_compared_on_the_same_losses(tmp_path):
    out = tmp_path / "out.json"
    sizes = ("--steps", "3", "--warmup", "1", "--repeats", "1", "--json", str(out))
    small = ("task.train_limit=32", "sft.per_device_train_batch_size=2")
    done = bench("train.py", "recipes/mini/facts.yaml", *small, *sizes)
    assert done.returncode == 0, done.stderr[-2000:]
    bare, ours = json.loads(out.read_text())["systems"].values()
    assert bare["losses"] == ours["losses"]
    assert len(ours["losses"]) == 3
    assert bare["tokens_per_step"] == ours["tokens_per_step"] > 0
    assert ours["over_in_all"][0] == pytest.approx(
        ours["tokens_per_second"][0] / bare["tokens_per_second"][0]
    )
    assert min(*bare["step_s"], *ours["step_s"], *ours["over"]) > 0
    assert ours["peak_bytes"] > 1 << 27  # torch alone takes more
    assert "tokens/s over" in done.stdout


def test_a_recipe_that_trains_nothing_is_one_line():
    done = bench("train.py", "recipes/code7b.yaml")
    assert done.returncode == 1
    assert "trains no expert" in done.stderr
    assert "Traceback" not in done.stderr

"""The benchmarks run, at sizes that say nothing about speed, and record what they measured."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import fork_server
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.schema.recipe import load_recipe, save_recipe

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
        *("--pair", "tinier/tinier", "--device", "cpu", "--dtype", "float32"),
        *("--prompt-tokens", "4", "--new-tokens", "60", "--batch-sizes", "8"),
        *("--num-rounds", "1", "--drafts", "3", "--acceptance", "0.8", "--json", str(out)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(out.read_text())
    batch = report["batches"]["8"]
    ours = {f"ours, drafts {k}" for k in ("0", "3", "auto", "3, no guard")}
    bases = {"base, ours", "base, generate", "base, compiled"}
    assert set(batch["tokens_per_second"]) == {"loop", *ours, *bases}
    assert set(batch["rounds"]) == ours
    for name in ("ours, drafts 3", "ours, drafts 3, no guard"):
        measured = batch["rounds"][name]
        expected = pytest.approx((1 - 0.8**4) / 0.2, rel=0.15)
        assert measured["stats"]["tokens_per_verify"] == expected
        assert set(measured["round_s"]) == {"draft", "verify", "choose", "host"}
        assert min(measured["round_s"].values()) > 0
    assert batch["ratios"]["over base, compiled"]["base, compiled"] == 1.0
    assert set(batch["model_step_s"]) == {
        f"{model}, {num_tokens} token(s)" for model in ("base", "small") for num_tokens in (1, 4)
    }
    assert min(report["weight_read_limit_s"].values()) > 0
    for words in ("weight-read limit", "the guard: ", "draft verify choose host"):
        assert words in done.stdout


@pytest.mark.long
def test_the_gpu_check_runs_its_steps_on_a_cpu(tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, "benchmarks/gpu_check.py", "--device", "cpu", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # no launcher's marks
    report = json.loads(out.read_text())
    results = {step["name"]: step["result"] for step in report["steps"]}
    assert done.returncode == 0, (results, done.stderr[-3000:])
    assert results == {
        "ZeRO-3, LoRA": "passed",
        "parity": "passed",
        "pytest -m gpu": "skipped",
        "speed": "passed",
        "base compiled": "skipped",
    }
    for step in report["steps"]:
        assert step["name"] in done.stdout
    assert report["steps"][3]["measured"]["weight_read_limit_s"]["base"] > 0


@pytest.fixture
def _path(monkeypatch):
    """Scripts put the checkout's root in the place of the path's first folder."""
    monkeypatch.syspath_prepend("their own folder")


@pytest.mark.usefixtures("_path")
def test_a_random_model_has_a_tokenizer_and_a_computed_size(tmp_path):
    from benchmarks.train import computed_bytes, save_random

    folder = save_random("tinier", "data/mini/small", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (model.config.vocab_size, model.config.hidden_size) == (32_000, 64)
    assert AutoTokenizer.from_pretrained(folder)("a")["input_ids"]
    arguments = SimpleNamespace(
        recipe="recipes/mini/gsm.yaml", overrides=[f"expert.model={folder}"], steps=3
    )
    plain, small = (computed_bytes(arguments, {"max_length": n}) for n in (64, 8))
    arguments.overrides.append("sft.max_length=null")
    assert computed_bytes(arguments, {"padding_free": True, "max_length": None}) is None
    assert plain > small > 4 * 4 * model.num_parameters()  # weights, gradients, two moments


@pytest.mark.usefixtures("_path")
def test_a_step_that_fails_or_takes_too_long_fails_the_check():
    from benchmarks.gpu_check import Step

    code = "import time; print('error: no'); print('more'); time.sleep({}); raise SystemExit({})"
    for sleep, exit_code, limit_s, result, said in (
        (0, 0, 60, "passed", "error: no"),
        (0, 1, 60, "failed", "error: no"),
        (60, 0, 5, "failed: longer than 5 s", "error: no"),
        (0, 0, 4, "skipped", "no time left"),
    ):
        step = Step("a", ["-u", "-c", code.format(sleep, exit_code)], 90)
        step.run(limit_s)
        assert (step.result, step.said) == (result, said)
        assert step.seconds < 20


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
    assert ours["peak_bytes"] > ours["computed_bytes"] == bare["computed_bytes"] > 1 << 20
    assert "tokens/s over" in done.stdout


def test_a_recipe_that_trains_nothing_is_one_line():
    done = bench("train.py", "recipes/code7b.yaml")
    assert done.returncode == 1
    assert "trains no expert" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_tokenizer_emits_the_same_tokens():
    sizes = ("--num-prompts", "2", "--num-tokens", "3", "--batch-size", "2", "--num-rounds", "1")
    done = bench("mapped.py", *sizes)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| mapped, another tokenizer |" in done.stdout


def test_a_server_is_compared_with_its_engine(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out.json"
    shutil.copytree(ROOT / "data/mini/small", run / "expert")
    save_recipe(load_recipe(ROOT / "recipes/mini/facts.yaml"), run / "recipe.yaml")
    done = bench(
        "serve.py",
        *(str(run), "--num-prompts", "4", "--max-new-tokens", "3", "--clients", "2"),
        *("--num-rounds", "1", "--no-steering-client", "--json", str(out)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(out.read_text())["clients"]["2"]
    assert set(found) == {"engine", "server", "server, whole"}
    for own in found.values():
        assert own["equal_rows"] == 1.0
        assert min(own["tokens_per_s"] + own["first_s"] + own["requests_per_s"]) > 0
    assert "tokens/s" in done.stdout

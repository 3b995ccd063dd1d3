"""DeepSpeed: names, whole weights whatever the settings, and the same training as without it."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support import fork_server, zero_trainings
from support.models import save_tiny
from support.tiny_run import finished, forked
from test_launch import FORK
from transformers import AutoModelForCausalLM

from decode.evaluation.predict import decode_all
from decode.stage.planning import plan
from recipes.schema.recipe import RecipeError, load_recipe
from train import zero
from train.claims import claim
from train.training import trainings

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(path.stem for path in (ROOT / "recipes" / "deepspeed").glob("*.json"))
STAGES = ("zero1", "zero2", "zero3", "zero3_offload_params")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return Path(save_tiny(tmp_path_factory.mktemp("models") / "small", 1))


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory) -> Path:
    """Every case of `zero_trainings.py`, trained by two processes."""
    folder = tmp_path_factory.mktemp("trained")
    arguments = ["tests/support/zero_trainings.py", str(small), str(folder)]
    result = fork_server.run(arguments, num_processes=2)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def log(folder: Path) -> list[dict]:
    return json.loads((folder / "training_log.json").read_text())


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in log(folder) if "loss" in entry]


@pytest.mark.long
@pytest.mark.parametrize("case", STAGES)
def test_stages_train_as_plain_data_parallel(case, trained, small):
    before = load_file(small / "model.safetensors")
    expected = load_file(trained / "ddp" / "model.safetensors")
    found = load_file(trained / case / "model.safetensors")
    assert set(found) == set(expected) == set(before)
    moved = max((expected[name] - before[name]).abs().max().item() for name in before)
    assert moved > 1e-3
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=1e-5)
    assert losses(trained / case) == pytest.approx(losses(trained / "ddp"), abs=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("case", ["ddp", *STAGES, "zero3_bf16"])
def test_weights_are_whole(case, trained, small):
    """Also where the settings forbid ZeRO-3 to gather them."""
    model, report = AutoModelForCausalLM.from_pretrained(
        trained / case, dtype="auto", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    shapes = {name: item.shape for name, item in load_file(small / "model.safetensors").items()}
    saved = load_file(trained / case / "model.safetensors")
    assert {name: item.shape for name, item in saved.items()} == shapes
    dtype = torch.bfloat16 if case == "zero3_bf16" else torch.float32
    assert {item.dtype for item in saved.values()} == {dtype} == {model.dtype}


@pytest.mark.long
def test_a_proxy_aware_loss_is_the_same_under_zero2(trained):
    """With the anti-expert as its base it is the plain loss, but for the rounding of a detour."""
    expected = load_file(trained / "ddp" / "model.safetensors")
    for name, weights in load_file(trained / "zero2_proxy_aware" / "model.safetensors").items():
        torch.testing.assert_close(weights, expected[name], rtol=0, atol=1e-4)


@pytest.mark.long
def test_no_operations_are_counted_where_weights_are_divided(trained):
    assert log(trained / "ddp")[-1]["total_flos"] > 0
    assert not any("total_flos" in entry for entry in log(trained / "zero3"))


@pytest.mark.long
def test_adapters_are_whole(trained, small):
    expected = load_file(trained / "ddp_lora" / "adapter_model.safetensors")
    found = load_file(trained / "zero3_lora" / "adapter_model.safetensors")
    assert {name: item.shape for name, item in found.items()} == {
        name: item.shape for name, item in expected.items()
    }
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, str(trained / "zero3_lora"))
    loaded = dict(adapted.named_parameters())
    for name, weights in found.items():
        stem, _, end = name.rpartition(".")
        assert torch.equal(loaded[f"{stem}.default.{end}"], weights)


def recipe(overrides, *extra):
    return load_recipe(ROOT / "recipes" / "gsm7b.yaml", [*overrides, *extra])


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_known_anywhere(name, overrides, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sft = recipe(overrides, f"sft.deepspeed={name}").sft
    settings = zero.settings_of(sft)
    assert settings is not None
    assert f"zero{settings['zero_optimization']['stage']}" == name.partition("_")[0]
    offloaded = [key for key in settings["zero_optimization"] if key.startswith("offload")]
    assert len(offloaded) == ("offload" in name) + ("params" in name)
    path = ROOT / "recipes" / "deepspeed" / f"{name}.json"
    assert zero.settings_of({"deepspeed": str(path)}) == settings == json.loads(path.read_text())
    assert zero.stage({"deepspeed": settings}) == settings["zero_optimization"]["stage"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            "zero4",
            f"found 'zero4', which is neither a file in {{here}} nor one of {', '.join(NAMES)}",
        ),
        ("mine/zero3.json", "found 'mine/zero3.json', which is neither a file in"),
        ("broken.json", "found 'broken.json', not valid JSON"),
        ("{bf16: {enabled: auto}}", "found zero_optimization.stage None, expected 0, 1, 2 or 3"),
    ],
)
def test_a_wrong_name_is_one_line(value, expected, overrides, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text("{")
    with pytest.raises(RecipeError) as caught:
        recipe(overrides, f"sft.deepspeed={value}")
    line = str(caught.value)
    assert "sft.deepspeed (override): " + expected.format(here=tmp_path) in line
    assert "\n" not in line


@pytest.mark.long
@pytest.mark.usefixtures("environment")
def test_one_process_needs_no_launcher(small, tmp_path):
    def train() -> None:
        zero_trainings.main(str(small), tmp_path, ["zero3"])

    process = FORK.Process(target=train)
    process.start()
    process.join(120)
    assert process.exitcode == 0
    weights = load_file(tmp_path / "zero3" / "model.safetensors")
    assert all(item.numel() for item in weights.values())


@pytest.mark.usefixtures("environment")
def test_two_sources_of_settings_are_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match=r"settings of its own; launch with .*8gpu\.yaml"):
        zero.settings_of({"deepspeed": "zero2"})
    file = ROOT / "recipes" / "deepspeed" / "zero1.json"
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    assert zero.stage({}) == 1
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    assert zero.stage({}) is None
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    with pytest.raises(ValueError, match=r"launch with recipes/accelerate/cpu_2proc\.yaml"):
        zero.settings_of({"deepspeed": "zero2"})


def claim_of(recipe) -> None:
    claim(recipe, trainings(recipe), "digest")


def test_checkpoints_are_of_one_launch(overrides, monkeypatch):
    mine = recipe(overrides, "sft.deepspeed=zero3")
    monkeypatch.setenv("WORLD_SIZE", "2")
    claim_of(mine)
    expert = trainings(mine)[0]
    (expert.checkpoints / "checkpoint-1").mkdir(parents=True)
    claim_of(mine)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ValueError, match="by 2 processes under ZeRO-3, and this launch is 1 proc"):
        claim_of(mine)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ValueError, match="under ZeRO-3, and this launch is 2 processes under ZeRO-2"
    ):
        claim_of(recipe(overrides, "sft.deepspeed=zero2"))
    expert.target.mkdir()  # complete: any launch may go on to decode
    monkeypatch.setenv("WORLD_SIZE", "1")
    claim_of(mine)


@pytest.mark.long
def test_a_whole_run_under_zero3_on_two_processes(overrides, tmp_path):
    """Trains two models, frees them, decodes on both; one process would have said the same."""
    run = tmp_path / "run"
    result = forked("gsm7b.yaml", [*overrides, "sft.deepspeed=zero3"], 2)
    finished(result, run)
    assert not list(run.glob("predictions/*.early*"))
    together = {path.name: path.read_bytes() for path in run.glob("predictions/*.jsonl")}
    assert len(together) == 5
    for path in run.glob("predictions/*"):
        path.unlink()
    decode_all(plan(load_recipe(run / "recipe.yaml")))
    assert {path.name: path.read_bytes() for path in run.glob("predictions/*.jsonl")} == together

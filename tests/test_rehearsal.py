"""What libraries refuse is said before any weights load, behind the key that is to blame."""

import json
from pathlib import Path

import pytest
from support.models import byte_tokenizer

from recipes.schema.recipe import load_recipe
from train.rehearsal import rehearse
from train.trainer import trainer_config
from train.training import trainings

ROOT = Path(__file__).resolve().parents[1]
OURS = {"seed": 0, "use_cpu": True, "report_to": "none"}


@pytest.fixture
def dry(monkeypatch):
    monkeypatch.chdir(ROOT)

    def run(*overrides: str, recipe: str = "recipes/mini/facts.yaml") -> None:
        for training in trainings(load_recipe(recipe, overrides))[:1]:
            rehearse(training, OURS)

    return run


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("sft.optim=adamw_8bit", r"sft.optim: found 'adamw_8bit': .*`bitsandbytes`"),
        ("sft.optim=lomo", r"sft.optim: found 'lomo': .*lomo"),
        ("sft.adam_beta1=2", "sft.adam_beta1: found 2: Invalid beta"),
        ("sft.accelerator_config={nope: 1}", "sft.accelerator_config: .*'nope'"),
        ("sft.tf32=true", "sft.tf32: found True: "),
        ("sft.model_init_kwargs={nope: 1}", "sft.model_init_kwargs: .*'nope'"),
        ("sft.model_init_kwargs={dtype: float3}", "sft.model_init_kwargs: .*float3"),
        ("expert.adapter.init_lora_weights=nope", "expert.adapter.init_lora_weights: found 'nope'"),
    ],
)
def test_a_key_that_a_library_refuses(dry, override, problem):
    with pytest.raises(ValueError, match=f"^{problem}") as error:
        dry(override)
    assert "\n" not in str(error.value)


@pytest.mark.long
@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("sft.eos_token=<nope>", "sft.eos_token: found '<nope>': "),
        ("sft.pad_token=<nope>", "sft.pad_token: found '<nope>': "),
        ("sft.dataloader_num_workers=-1", "sft.dataloader_num_workers: found -1: "),
        ("sft.chat_template_path=/nope.jinja", "sft.chat_template_path: found '/nope.jinja'"),
        ("expert.adapter.target_modules=nosuch", "expert.adapter.target_modules: found 'nosuch'"),
        ("expert.adapter.target_modules=[q_proj, nosuch]", "expert.adapter.target_modules: .*has"),
        ("expert.adapter.modules_to_save=[nosuch]", "expert.adapter.modules_to_save: .*'nosuch'"),
        ("expert.adapter.target_parameters=[nosuch]", "expert.adapter.target_parameters: "),
    ],
)
def test_a_key_that_the_trainer_refuses(dry, override, problem):
    with pytest.raises(ValueError, match=f"^{problem}"):
        dry(override)


def test_a_template_that_is_broken(dry, tmp_path):
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for message in %}")
    with pytest.raises(ValueError, match=r"^sft.chat_template_path: found .*broken.*: Expected an"):
        dry(f"sft.chat_template_path={broken}")


def test_a_tokenizer_without_an_end(dry, save_model):
    folder = save_model("endless", 0)
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"endless' has no end-of-text token.*sft.eos_token"):
        dry(f"expert.model={folder}")
    dry(f"expert.model={folder}", "sft.eos_token=<eos>")


@pytest.mark.parametrize(
    "overrides",
    [
        ["sft.packing=true"],
        ["sft.optim=adafactor", "sft.lr_scheduler_type=cosine"],
        ["sft.model_init_kwargs={attn_implementation: eager, use_cache: false, dtype: bfloat16}"],
        ["expert.adapter={r: 4}"],
        ["expert.adapter={r: 4, target_modules: [q_proj], init_lora_weights: orthogonal}"],
        ["expert.adapter={r: 4, target_modules: all-linear, use_dora: true}"],
        ["expert.adapter=null", "sft.bf16=true", "sft.activation_checkpointing=true"],
        ["sft.push_to_hub=true", "sft.hub_model_id=me/mine"],
    ],
)
def test_what_trains_is_let_through(dry, overrides):
    dry(*overrides)


def test_the_configuration_is_rehearsed_once_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    told = ["sft.optim=adamw_8bit", f"output_dir={tmp_path / 'run'}"]
    training, *_ = trainings(load_recipe("recipes/mini/facts.yaml", told))
    with pytest.raises(ValueError, match=r"^sft.optim"):
        trainer_config(training, 0, "x")
    assert not (tmp_path / "run").exists()
    training.target.mkdir(parents=True)  # it is trained already
    assert json.loads(trainer_config(training, 0, "x").to_json_string())["optim"] == "adamw_8bit"

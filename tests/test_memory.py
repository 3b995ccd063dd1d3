"""What a training's memory is computed to be, against parameter counts and a real training."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from support.models import byte_tokenizer, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from train import memory
from train.footprint.decoding_memory import cache_bytes
from train.footprint.sharding import Sharding, read_sharding
from train.footprint.training_memory import training_memory

ROOT = Path(__file__).resolve().parents[1]
ADAPTER = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}
ROWS = {"per_device_train_batch_size": 2, "max_length": 64, "bf16": False}


def computed(sharding=None, dtype=torch.float32, adapter=None, **sft):
    config = tiny_model(0).config
    return training_memory(config, dtype, ROWS | sft, adapter, sharding or Sharding())


def test_parameters_are_counted_exactly():
    model = tiny_model(0)
    num_parameters = sum(p.numel() for p in model.parameters())
    full = computed()
    assert full.num_parameters == full.num_trained == num_parameters
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **ADAPTER))
    num_trained, num_all = adapted.get_nb_trainable_parameters()
    lora = computed(adapter=ADAPTER, dtype=torch.bfloat16)
    assert (lora.num_parameters, lora.num_trained) == (num_all, num_trained)
    # the adapter stays in float32 beside bfloat16 weights
    assert lora.weights == 2 * num_parameters + 4 * num_trained
    assert lora.gradients == 4 * num_trained
    assert lora.optimizer == 8 * num_trained


def test_plain_training_keeps_everything_on_every_gpu():
    one, eight = computed(), computed(Sharding(num_gpus=8))
    count = one.num_parameters
    assert (one.weights, one.gradients, one.optimizer, one.buffers) == (
        *[4 * count] * 2,
        8 * count,
        0,
    )
    assert eight == replace(one, buffers=4 * count)


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"),
    [(1, 2, 2, 12 / 4), (2, 2, 2 / 4, 12 / 4), (3, 2 / 4, 2 / 4, 12 / 4)],
)
def test_zero_divides_by_stage(stage, weights, gradients, optimizer):
    sharding = Sharding(num_gpus=4, stage=stage, reduce_bucket_size=1000)
    found = computed(sharding, bf16=True)
    count = found.num_parameters
    assert (found.weights, found.gradients, found.optimizer) == (
        weights * count,
        gradients * count,
        optimizer * count,
    )
    whole = 2 * count if stage == 3 else 0  # fewer than max_live_parameters
    assert found.buffers == 2 * 1000 + whole
    away = computed(replace(sharding, offload_optimizer=True), bf16=True)
    assert away.optimizer == 0
    assert away.gradients == (found.gradients if stage == 1 else 0)


@pytest.mark.long
def test_activations_grow_with_rows_and_shrink_with_checkpointing():
    plain = {"activation_checkpointing": False}
    few, many = computed(**plain), computed(**plain, per_device_train_batch_size=8)
    assert 3.5 * few.activations < many.activations < 4.5 * few.activations
    assert computed(activation_checkpointing=True).activations < few.activations
    assert computed().activations == computed(activation_checkpointing=True).activations


@pytest.mark.long
@pytest.mark.parametrize("adapter", [None, ADAPTER], ids=["full", "lora"])
def test_a_real_training_takes_that_much(adapter, tmp_path):
    sizes = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 6}
    config = LlamaConfig(
        **sizes, vocab_size=258, num_attention_heads=4, pad_token_id=257, eos_token_id=256
    )
    sft = ROWS | {"activation_checkpointing": False}
    found = training_memory(config, torch.float32, sft, adapter, Sharding())
    trainer = SFTTrainer(
        model=LlamaForCausalLM(config),
        args=SFTConfig(
            **sft,
            max_steps=2,
            gradient_accumulation_steps=2,
            use_cpu=True,
            output_dir=str(tmp_path),
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"input_ids": [5] * 64}] * 8),
        processing_class=byte_tokenizer(),
        peft_config=None if adapter is None else LoraConfig(task_type="CAUSAL_LM", **adapter),
    )
    assert sum(p.numel() * p.element_size() for p in trainer.model.parameters()) == found.weights
    with torch.profiler.profile(profile_memory=True) as profile:
        trainer.train()
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = peak = found.weights
    for _, change in changes:
        live += change
        peak = max(peak, live)
    assert found.total == pytest.approx(peak, rel=0.1)


def test_caches_are_keys_and_values():
    config = tiny_model(0).config  # 2 layers, 2 key-value heads of 8
    assert cache_bytes(config, num_rows=3, row_tokens=10, width=2) == 2 * 2 * 2 * 8 * 3 * 10 * 2


@pytest.mark.parametrize("stage", [2, 3])
def test_our_accelerate_files_are_read(stage, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = read_sharding(f"recipes/accelerate/8gpu_zero{stage}.yaml")
    assert (found.num_gpus, found.stage, found.num_buckets) == (8, stage, 2)
    assert found.reduce_bucket_size == (0 if stage == 3 else 500_000_000)


def run(monkeypatch, *arguments):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["memory.py", *arguments])
    memory.main()


@pytest.mark.long
def test_a_recipe_becomes_a_table(monkeypatch, capsys):
    run(monkeypatch, "recipes/mini/facts.yaml")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 GPU(s); computed, not measured")
    assert [line.split()[0] for line in lines[2:5]] == ["training", "train:", "reference:"]
    assert lines[-1].split()[0] == "data/mini/large"


@pytest.mark.parametrize(
    ("override", "problem"),
    [("sft.max_length=null", "sft.max_length"), ("sft.optim=adafactor", "sft.optim")],
)
def test_what_cannot_be_computed_is_one_line(override, problem, monkeypatch):
    with pytest.raises(SystemExit, match=f"error: {problem}"):
        run(monkeypatch, "recipes/mini/gsm.yaml", override)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes").glob("*7b*.yaml")), ids=lambda path: path.stem
)
def test_recipes_state_the_memory_they_need(path):
    header = path.read_text().partition("\nname:")[0].replace(" \\\n#  ", "")
    assert "# Memory: computed, not measured:" in header
    assert "python train/memory.py" in header
    assert f"recipes/{path.name}\n# Expected" in header

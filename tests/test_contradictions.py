"""Settings that contradict each other are refused, and only those."""

from pathlib import Path

import pytest
import torch
from support.models import tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from recipes.schema.recipe import load_recipe
from train.contradictions import IGNORE_POSITIONS, refuse_contradictions
from train.training import trainings

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def refuse(monkeypatch):
    monkeypatch.chdir(ROOT)

    def check(*overrides: str) -> None:
        for training in trainings(load_recipe("recipes/mini/gsm.yaml", overrides)):
            with training.naming_keys():
                refuse_contradictions(training)

    return check


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["sft.padding_free=true"], "sft.padding_free: no row is cut"),
        (["sft.packing=true", "sft.max_length=null"], "sft.max_length: null"),
        (["sft.packing=true", "sft.packing_strategy=wrapped"], "without their prompts"),
        (["sft.use_liger_kernel=true"], "sft.use_liger_kernel: needs a GPU"),
        (
            ["sft.model_init_kwargs={attn_implementation: flash_attention_2}"],
            "flash_attention_2 needs a GPU",
        ),
        (["decode.reference_sft={padding_free: true}"], "^decode.reference_sft.padding_free: no"),
        (["expert.dtype=bfloat16", "sft.learning_rate=2e-5"], "rounds most steps away"),
        (["expert.adapter={r: 4, init_lora_weights: pissa_niter_4}"], "changes the model's own"),
        (["expert.adapter={r: 4, alora_invocation_tokens: [9]}"], "alora_invocation_tokens: found"),
        (["sft.router_aux_loss_coef=0.1"], "small is no mixture of experts, so there is no such"),
        (
            ["expert.adapter={r: 4, layers_pattern: layers}"],
            "expert.adapter: .*layers_to_transform",
        ),
        (
            ["expert.adapter={r: 4, target_modules: q, layers_to_transform: [0]}"],
            "expert.adapter: .*layers_to_transform",
        ),
        (["expert.dtype=float16"], "full fine-tuning of float16 weights overflows"),
        (["expert.dtype=float16", "expert.adapter={r: 4}"], "float16 weights overflow and vanish"),
        (
            ["decode.bases.0.dtype=float16", "expert.adapter={r: 4}"],
            "mini/large: gradients through float16 weights",
        ),
        (["sft.weight_decay=2000"], "sft.weight_decay: times sft.learning_rate it is 2"),
        (["decode.bases.0.dtype=auto", "sft.learning_rate=2e-5"], "mini/large: full fine-tuning"),
    ],
)
def test_contradictions_are_one_line(refuse, overrides, problem, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=problem) as error:
        refuse(*overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["sft.packing=true"],
        ["sft.packing=true", "sft.padding_free=true"],
        ["sft.padding_free=true", "sft.max_length=null"],
        ["sft.packing=true", "sft.packing_strategy=wrapped", "sft.completion_only_loss=false"],
        ["expert.dtype=bfloat16"],
        ["expert.adapter={r: 4, init_lora_weights: gaussian}"],
        ["expert.dtype=bfloat16", "sft.learning_rate=2e-5", "expert.adapter={r: 4}"],
        ["expert.dtype=float16", "sft.fp16=true", "expert.adapter={r: 4}"],
        ["expert.dtype=bfloat16", "sft.learning_rate=2e-5", "sft.deepspeed=zero2"],
    ],
)
def test_what_works_is_let_through(refuse, overrides):
    refuse(*overrides)


def test_models_that_ignore_positions_are_not_packed(refuse, tmp_path):
    AutoConfig.for_model("bloom", hidden_size=16, n_layer=1, n_head=2).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="rows of one sequence would see each other, since models of type bloom"
    ):
        refuse("sft.packing=true", f"expert.model={tmp_path}")
    refuse(f"expert.model={tmp_path}")


def packed_is_alone(model) -> bool:
    """Whether a row has the same hidden states behind another in a sequence as alone."""
    first, second = torch.randint(0, 250, (1, 9)), torch.randint(0, 250, (1, 7))
    positions = torch.cat((torch.arange(9), torch.arange(7)))[None]
    ids = torch.cat((first, second), 1)
    with torch.no_grad():
        try:
            hidden = model.base_model(input_ids=ids, position_ids=positions, use_cache=False)[0]
        except TypeError:  # knows no positions at all
            hidden = model.base_model(input_ids=ids, use_cache=False)[0]
        alone = model.base_model(input_ids=second, use_cache=False)[0]
    return torch.allclose(hidden[:, 9:], alone, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "mistral", "gemma3_text"])
def test_rows_are_kept_apart_by_their_positions(architecture):
    assert architecture not in IGNORE_POSITIONS
    assert packed_is_alone(tiny_model(0, architecture))


SIZES = {
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "bloom": {"n_layer": 2, "n_head": 2},
    "falcon": {"num_kv_heads": 2},
    "mpt": {"d_model": 16, "n_heads": 2, "n_layers": 2},
    "mamba": {},
}


@pytest.mark.parametrize("architecture", SIZES)
def test_what_is_refused_does_mix_rows(architecture):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(architecture, vocab_size=258, **sizes | SIZES[architecture])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    assert architecture in IGNORE_POSITIONS
    assert not packed_is_alone(model)

"""Quantised bases: transformers' keys, checked before weights load; what loads is right or refused.

torchao and bitsandbytes are optional (`pip install -e ".[quant]"`); tests that need one are skipped
without it.
"""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.models import save_tiny, tiny_model
from transformers import AutoConfig

from decode import ProxyTuned
from decode.evaluation.settings import model_settings
from decode.models.model_source import ModelSource
from decode.models.pair import load_tuned
from decode.models.quantised import can_be_recorded
from decode.models.quantization import settings_text
from decode.models.sources import (
    check_weights,
    load_config,
    load_frozen,
    load_tokenizer,
    load_weights,
)
from decode.models.weight_bytes import weight_bytes
from decode.stage.recipe_models import lineup_of
from recipes.schema.recipe import RecipeError, load_recipe
from train.footprint.decoding_memory import decoding_memory

ROOT = Path(__file__).resolve().parents[1]
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
INT8 = {"quant_method": "torchao", "quant_type": "Int8WeightOnlyConfig"}
FACTS = str(ROOT / "recipes/mini/facts.yaml")

needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="torchao is not installed"
)


def quantised(folder, settings) -> ModelSource:
    return ModelSource(str(folder), quantization=settings_text(settings, "quantization"))


PROBLEMS = {
    "no_method": ({}, "quant_method: missing; expected one of .*bitsandbytes"),
    "unknown_method": ({"quant_method": "bnb"}, "quant_method: found 'bnb'; expected one of"),
    "gguf": ({"quant_method": "gguf"}, "quant_method: GGUF files are not read"),
    "no_text": ({"quant_method": [1]}, r"quant_method: found \[1\]"),
    "of_checkpoints": ({"quant_method": "gptq", "bits": 4}, "name a checkpoint that is"),
    "unknown_key": ({**NF4, "bnb_4bit_quant_typ": "nf4"}, "typ: unknown key; did you mean bnb_4"),
    "no_bits": ({"quant_method": "bitsandbytes"}, "give load_in_4bit: true or load_in_8bit"),
    "both": ({**NF4, "load_in_8bit": True}, "only one can be used"),
    "value": ({**NF4, "bnb_4bit_quant_type": "nf5"}, "found 'nf5', expected 'nf4' or 'fp4'"),
    "type": ({**NF4, "bnb_4bit_compute_dtype": "bf16"}, "dtype: found 'bf16', expected a type"),
    "no_float": ({**NF4, "bnb_4bit_compute_dtype": "int8"}, "found 'int8', expected a type"),
    "static": ({"quant_method": "fp8", "activation_scheme": "static"}, "'static'; it is for check"),
    "nothing": ({"quant_method": "fp8", "dequantize": True}, "dequantize: found True; it is for"),
    "names": ({**NF4, "llm_int8_skip_modules": "lm_head"}, "found 'lm_head', expected a list of"),
    "no_effect": ({**NF4, "llm_int8_threshold": 6.0}, "threshold: has no effect in 4 bits"),
    "of_4_bits": (
        {"load_in_8bit": True, "bnb_4bit_quant_type": "nf4"},
        "bnb_4bit_quant_type: has no effect in 8 bits",
    ),
    "missing_key": ({"quant_method": "torchao"}, "quant_type: missing; TorchAoConfig needs it"),
    "of_the_class": ({"quant_method": "quanto", "weights": "int9"}, "int9"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_wrong_settings_are_one_line_that_names_the_key(name):
    settings, problem = PROBLEMS[name]
    with pytest.raises(ValueError, match=rf"^decode\.bases\.0\.quantization.*{problem}") as error:
        settings_text(settings, "decode.bases.0.quantization")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["m.gguf", "both", "org/M-7B-GGUF", "org/M-gguf:Q4_K_M"])
def test_gguf_is_refused_wherever_a_model_is_named(tmp_path, name):
    folder = Path(save_tiny(tmp_path / "both", 1))
    (folder / "m.gguf").write_bytes(b"GGUF")
    check_weights(ModelSource(str(folder)))  # its own weights are beside the file
    (folder / "model.safetensors").unlink()
    place = {"m.gguf": str(folder / "m.gguf"), "both": str(folder)}.get(name, name)
    source = ModelSource(place, key="decode.bases.0.model")
    for use in (load_tokenizer, load_config, check_weights, weight_bytes):
        with pytest.raises(ValueError, match=r"^decode\.bases\.0\.model: .*GGUF files") as error:
            use(source)
        assert "\n" not in str(error.value) and "safetensors" in str(error.value)


def test_a_converted_model_may_keep_its_name(tmp_path):
    check_weights(ModelSource(save_tiny(tmp_path / "M-GGUF", 1)))


def test_a_recipe_is_checked_as_it_is_read():
    load = lambda *overrides: lineup_of(load_recipe(FACTS, overrides))  # noqa: E731
    plain = "decode.bases.0.tune_reference=false"
    with pytest.raises(ValueError, match=r"decode\.bases\.0\.quantization\.load_in_4bits: unknown"):
        load(plain, "decode.bases.0.quantization={quant_method: bitsandbytes, load_in_4bits: true}")
    with pytest.raises(RecipeError, match="found quantization and tune_reference true"):
        load("decode.bases.0.quantization={load_in_4bit: true}")
    tuned = "decode.bases.0.tuned=data/mini/large"
    (contender,) = load(plain, tuned, "decode.bases.0.quantization={load_in_4bit: true}").contenders
    assert contender.base.quantization == contender.tuned.quantization == '{"load_in_4bit": true}'
    (contender,) = load(plain).contenders
    assert contender.base.quantization is None


def test_results_are_bound_to_the_quantisation():
    overrides = ["decode.bases.0.tune_reference=false", "decode.bases.0.quantization=null"]
    lineup = lineup_of(load_recipe(FACTS, overrides))
    (system,) = (one for one in lineup.systems if one.role == "base")
    plain = model_settings(lineup, system)["base"]
    assert "quantization" not in plain, "records made before keep their meaning"
    overrides[1] = f"decode.bases.0.quantization={json.dumps(NF4)}"
    lineup = lineup_of(load_recipe(FACTS, overrides))
    (system,) = (one for one in lineup.systems if one.role == "base")
    assert model_settings(lineup, system)["base"] == {**plain, "quantization": NF4}


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="it is there")
def test_a_package_that_is_not_installed_is_one_line(tmp_path):
    folder = save_tiny(tmp_path / "model", 1)
    with pytest.raises(ValueError, match=r'bitsandbytes.*pip install -e "\.\[quant\]"') as error:
        check_weights(quantised(folder, NF4))
    assert "\n" not in str(error.value)
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**config, "quantization_config": NF4}))
    with pytest.raises(ValueError, match="bitsandbytes"):
        load_weights(ModelSource(folder), "cpu")


@pytest.mark.parametrize(
    ("stored", "given", "problem"),
    [
        ({"quant_method": "gptq", "bits": 4}, None, "quantised weights.*(optimum|gptqmodel|GPU)"),
        ({"quant_method": "some_new"}, None, r"quantised weights \(some_new\): Unknown"),
        ({"bits": 4}, None, r"quantised weights.*quant_method"),
        ("4bit", None, r"config.json: .*'str' object"),
        ({"quant_method": "gptq", "bits": 4}, NF4, r"quantised already \(gptq\), and load as they"),
    ],
)
def test_a_quantised_checkpoint_that_cannot_load_is_one_line(stored, given, problem, tmp_path):
    folder = save_tiny(tmp_path / "model", 1)
    file = tmp_path / "model/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": stored}))
    source = ModelSource(folder) if given is None else quantised(folder, given)
    for use in (check_weights, lambda one: load_weights(one, "cpu")):
        with pytest.raises(ValueError, match=problem) as error:
            use(source)
        assert "\n" not in str(error.value)


def test_a_checkpoint_that_says_null_of_its_quantisation_is_checked(tmp_path):
    folder, file = save_tiny(tmp_path / "model", 1), tmp_path / "model/config.json"
    config = {**json.loads(file.read_text()), "quantization_config": None}
    file.write_text(json.dumps(config))
    check_weights(ModelSource(folder))
    file.write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match="9 tensors of no use"):
        check_weights(ModelSource(folder))


def test_bytes_leave_head_embeddings_and_norms_in_16_bits(tmp_path):
    model = tiny_model(1, width=64).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    layers = [m for name, m in model.named_modules() if "proj" in name]
    num_quantised = sum(m.weight.numel() for m in layers)
    others = 2 * (sum(p.numel() for p in model.parameters()) - num_quantised)
    count = lambda settings: weight_bytes(quantised(tmp_path / "model", settings))  # noqa: E731
    assert weight_bytes(ModelSource(str(tmp_path / "model"))) == others + 2 * num_quantised
    assert count(NF4) == others + num_quantised * (4 + 32 / 64) / 8
    nested = {**NF4, "bnb_4bit_use_double_quant": True}
    assert count(nested) == pytest.approx(others + num_quantised * 4.127 / 8, rel=1e-3)
    rows = sum(m.weight.shape[0] for m in layers)
    assert count({"load_in_8bit": True}) == others + num_quantised + 4 * rows
    kept = count({**NF4, "llm_int8_skip_modules": ["down_proj", "lm_head"]})
    down = sum(m.weight.numel() for name, m in model.named_modules() if "down_proj" in name)
    assert kept == count(NF4) + down * (16 - 4.5) / 8
    small = ModelSource(str(tmp_path / "model"))
    parts = decoding_memory(quantised(tmp_path / "model", NF4), small, True, 2, 8)
    assert parts[0] == count(NF4)
    assert parts[2] == weight_bytes(small)


def test_stacked_experts_of_a_mixture_stay_in_16_bits(tmp_path):
    model = tiny_model(1, "qwen3_moe", moe_intermediate_size=32, num_experts=4, head_dim=8)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    assert AutoConfig.from_pretrained(tmp_path / "model").num_experts == 4
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    assert experts > 0
    assert weight_bytes(quantised(tmp_path / "model", NF4)) > 2 * experts


def test_only_kinds_that_are_known_to_capture_are_recorded():
    model = tiny_model(1)
    assert can_be_recorded(model)
    model.quantization_method = "torchao"
    assert can_be_recorded(model)
    model.quantization_method = "bitsandbytes"
    assert not can_be_recorded(model)
    model.is_loaded_in_4bit = True
    assert can_be_recorded(model)
    model.quantization_method, model.is_loaded_in_4bit = "gptq", False
    assert not can_be_recorded(model)


@needs_torchao
@pytest.mark.long
def test_an_int8_base_decodes_as_it_would_alone():
    large, small = str(ROOT / "data/mini/large"), str(ROOT / "data/mini/small")
    model = ProxyTuned.from_pretrained(large, small, small, quantization=INT8)
    prompts = [
        f"Question: What is the capital of {name}?\nAnswer:" for name in ("Peru", "Kenya", "Chad")
    ]
    together = [one.token_ids for one in model.generate(prompts, 12)]
    base = load_weights(quantised(large, INT8), "cpu")
    for prompt, found in zip(prompts, together, strict=True):
        ids = model.tokenizers.base(prompt, return_tensors="pt").input_ids
        out = base.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :].tolist()
        assert list(found) == out[: len(found)], "expert equals anti-expert: the base"
    real = sum(
        getattr(p, name).nbytes
        for p in base.parameters()
        for name in (p.__tensor_flatten__()[0] if hasattr(p, "__tensor_flatten__") else ["data"])
    )
    assert weight_bytes(quantised(large, INT8)) == real
    whole = weight_bytes(ModelSource(large))
    assert real < 0.62 * whole


@needs_torchao
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_on_an_int8_base_decodes_as_peft_has_it(tmp_path):
    base, folder = save_tiny(tmp_path / "base", 1), str(tmp_path / "adapter")
    model = get_peft_model(tiny_model(1), LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    large = quantised(base, INT8)
    tuned = load_tuned(replace(large, name=folder, untuned=large), "cpu")
    own = PeftModel.from_pretrained(load_weights(large, "cpu"), folder).eval()
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        expected = own(ids).logits
        torch.testing.assert_close(tuned.model(ids).logits, expected)
        assert (expected - load_frozen(large, "cpu")(ids).logits).abs().max() > 0.1


@needs_torchao
@pytest.mark.long
def test_a_checkpoint_in_int8_loads_as_it_comes_or_not_at_all(tmp_path):
    source = quantised(save_tiny(tmp_path / "whole", 1), INT8)
    model = load_weights(source, "cpu")
    model.save_pretrained(tmp_path / "int8")
    stored = ModelSource(str(tmp_path / "int8"))
    check_weights(stored)
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        assert torch.equal(load_weights(stored, "cpu")(ids).logits, model(ids).logits)
    with pytest.raises(ValueError, match=r"quantised already \(torchao\)"):
        check_weights(replace(stored, quantization=source.quantization))
    file = tmp_path / "int8/model.safetensors"
    from safetensors import safe_open

    with safe_open(file, "pt") as held:
        metadata = held.metadata()
    for change, problem in (
        (lambda t: t.pop("model.norm.weight"), r"1 tensor missing \(model.norm.weight\)"),
        (lambda t: t.pop("model.layers.0.mlp.up_proj._weight_scale"), "do not load"),
        (lambda t: t.update(v_head=torch.zeros(3)), r"of no use to this model \(v_head\)"),
        (
            lambda t: t["model.layers.0.mlp.up_proj._weight_scale"].fill_(float("nan")),
            "NaN or infinity",
        ),
        (
            lambda t: t.update(
                {
                    name: t[name][:-2].clone()
                    for name in t
                    if "layers.0.mlp.up_proj._weight_scale" in name
                }
            ),
            "do not compute",
        ),
    ):
        tensors = load_file(file)
        kept = {name: tensor.clone() for name, tensor in tensors.items()}
        change(tensors)
        save_file(tensors, file, metadata=metadata)
        with pytest.raises(ValueError, match=problem) as error:
            load_weights(stored, "cpu")
        assert "\n" not in str(error.value)
        save_file(kept, file, metadata=metadata)

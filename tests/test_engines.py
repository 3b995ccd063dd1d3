"""What vLLM cannot do is refused before weights load, and its results are not mixed with ours."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import AdaptionPromptConfig, LoraConfig, get_peft_model
from support.decode_run import decode
from support.models import tiny_model

import decode.evaluation.engines as engines
from decode.engine.rule import Alpha
from decode.evaluation.lineup import Contender, Lineup
from decode.models.ends import end_ids_of
from decode.models.loaded import ExpertSource
from decode.models.merged import save_merged
from decode.models.model_source import ModelSource
from decode.models.sources import check_weights, load_weights
from recipes.schema.recipe import RecipeError, load_recipe, save_recipe

ON_VLLM = ["decode.device=auto", "decode.engine=vllm"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("expert.prompt=chat", "expert.prompt (override): is not that of every base and anti-"),
        ("decode.vocabulary=shared", "decode.vocabulary (override): found shared: on vLLM"),
        ("decode.rule.warmup_tokens=4", "decode.rule.warmup_tokens (override): vLLM does not"),
        ("decode.rule.half_life_tokens=9", "decode.rule.half_life_tokens (override): vLLM does"),
        (
            "decode.choose={rows: .5, alpha: [1], rule: [{warmup_tokens: 2}]}",
            "decode.choose.rule.0.warmup_tokens (override): vLLM does not tell models",
        ),
        ("decode.device=cpu", "decode.device (override): vLLM has the devices"),
        ("decode.vllm.max_num_seqs=4", "decode.vllm.max_num_seqs (override): is given by decode."),
        (
            "decode.vllm.speculative_config={}",
            "decode.vllm.speculative_config (override): is given by decode.num_draft_tokens",
        ),
        (
            "decode.vllm.quantization=fp8",
            "decode.vllm.quantization (override): quantises small models as well",
        ),
        ("decode.vllm.hf_overrides={}", "decode.vllm.hf_overrides (override): is how the models"),
    ],
)
def test_what_only_our_engine_can_do_is_refused(recipe, override, told):
    with pytest.raises(RecipeError) as error:
        load_recipe(recipe(), [*ON_VLLM, override])
    assert told in str(error.value)
    if "decode.vllm" not in override:
        assert "set decode.engine: local" in str(error.value)


def test_a_base_behind_an_endpoint_is_refused(recipe):
    base = "decode.bases=[{model: m, endpoint: 'http://localhost:1/v1', top_logprobs: 5}]"
    with pytest.raises(RecipeError, match=r"decode\.bases\.0.*is behind an endpoint: vLLM loads"):
        load_recipe(recipe(), [*ON_VLLM, base])


def test_its_options_belong_to_it(recipe):
    options = "decode.vllm={tensor_parallel_size: 2}"
    with pytest.raises(RecipeError, match=r"decode.vllm \(override\): has no effect"):
        load_recipe(recipe(), [options])
    found = load_recipe(recipe(), [*ON_VLLM, options, "decode.rule.by_doubt=true"]).decode
    assert (found.engine, found.vllm) == ("vllm", {"tensor_parallel_size": 2})
    assert load_recipe(recipe()).decode.engine == "local"


def test_without_vllm_one_line_says_how_to_get_it(recipe, monkeypatch):
    monkeypatch.setattr(engines, "_version", lambda: None)
    path = recipe(task={"name": "facts", "eval_limit": 2})
    found = decode(path, *ON_VLLM)
    assert found is not None and "engine: vllm is not installed: pip install" in found


def lineup(save_model, **options) -> Lineup:
    large, small, expert = (ModelSource(save_model(n, i), **options) for i, n in enumerate("abc"))
    return Lineup(
        (ExpertSource(expert, small),), (Contender("a", large, None),), (Alpha(1.0),), engine="vllm"
    )


def test_models_of_several_types_are_refused(save_model):
    own = lineup(save_model)
    base = own.contenders[0].loaded_base
    engines.check_models(base, own)
    with pytest.raises(ValueError, match=r"in one type, found bfloat16 of .*, float32 of"):
        engines.check_models(replace(base, dtype="bfloat16"), own)


def test_only_a_base_that_is_stored_so_is_quantised(save_model):
    own = lineup(save_model)
    base, small = own.contenders[0].loaded_base, own.experts[0].antiexpert
    told = "of quantised weights vLLM runs only those of a base that is stored so"
    with pytest.raises(ValueError, match=told):
        engines.check_models(replace(base, quantization='{"load_in_4bit": true}'), own)
    for source in (base, small):
        path = Path(source.name) / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
        if source is base:
            engines.check_models(base, own)
            check_weights(base, loads_here=False)
    with pytest.raises(ValueError, match=f"model '{small.name}': {told}"):
        engines.check_models(base, own)


def test_drafts_that_vllm_would_not_make_or_verify_are_refused(save_model, monkeypatch):
    monkeypatch.setattr(engines, "check_installed", lambda: None)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(EngineArgs=Lineup))
    own = lineup(save_model)
    wide = (Contender("a", ModelSource(save_model("wide", 0, vocab_size=264)), None),)
    engines.check_engine(replace(own, num_draft_tokens=3))
    engines.check_engine(replace(own, contenders=wide))
    with pytest.raises(ValueError, match=r"num_draft_tokens: vLLM .* found 264 of .* and 258 of"):
        engines.check_engine(replace(own, contenders=wide, num_draft_tokens=3))
    engines.check_sampling(replace(own, num_draft_tokens=3), 0.0)
    engines.check_sampling(own, 0.8)
    with pytest.raises(ValueError, match=r"num_draft_tokens: found 3 at temperature 0.8"):
        engines.check_sampling(replace(own, num_draft_tokens=3), 0.8)


def test_models_that_read_more_than_text_are_refused(save_model, monkeypatch):
    own = lineup(save_model)
    base = own.contenders[0].loaded_base
    monkeypatch.setattr("transformers.LlamaConfig.get_text_config", lambda self, **_: None)
    with pytest.raises(ValueError, match="llama reads more than text, which is not run on vLLM"):
        engines.check_models(base, own)


def test_models_with_a_state_are_refused(save_model, monkeypatch):
    monkeypatch.setattr(engines, "is_positional", lambda config: False)
    own = lineup(save_model)
    with pytest.raises(ValueError, match="llama keeps more than keys and values by position"):
        engines.check_models(own.contenders[0].loaded_base, own)


def test_engine_and_version_decide_results_and_room_does_not(save_model, monkeypatch):
    own = lineup(save_model)
    assert engines.engine_settings(replace(own, engine="local")) == {}
    monkeypatch.setattr(engines, "_version", lambda: "0.32.0")
    options = {"quantization": "fp8", "gpu_memory_utilization": 0.5, "tensor_parallel_size": 2}
    assert engines.engine_settings(replace(own, engine_options=options)) == {
        "engine": {"name": "vllm", "version": "0.32.0", "quantization": "fp8"}
    }


def adapter(folder: Path, base: ModelSource, config) -> ModelSource:
    torch.manual_seed(5)
    get_peft_model(load_weights(base, "cpu"), config).save_pretrained(folder)
    return ModelSource(str(folder), untuned=base)


def test_a_merged_adapter_says_what_the_adapter_says(save_model, tmp_path):
    base = ModelSource(save_model("small", 1))
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    source = adapter(tmp_path / "lora", base, config)
    save_merged(source, tmp_path / "merged")
    merged = ModelSource(str(tmp_path / "merged"))
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        found = load_weights(merged, "cpu")(ids).logits
        small = load_weights(base, "cpu")
        wanted = get_peft_model(small, config)  # other random weights
        wanted.load_adapter(str(tmp_path / "lora"), "saved")
        wanted.set_adapter("saved")
        assert torch.allclose(found, wanted(ids).logits, atol=1e-3)
        assert not torch.allclose(found, tiny_model(1)(ids).logits, atol=1e-1)
    assert end_ids_of(source) == end_ids_of(merged) == {256}


def test_an_adapter_that_is_no_change_of_weights_is_refused(save_model, tmp_path):
    base = ModelSource(save_model("small", 1))
    config = AdaptionPromptConfig(adapter_len=4, adapter_layers=1, task_type="CAUSAL_LM")
    source = adapter(tmp_path / "prompts", base, config)
    with pytest.raises(ValueError, match="ADAPTION_PROMPT adapter that cannot be merged"):
        save_merged(source, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_run_becomes_a_folder_that_vllm_reads(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    save_recipe(load_recipe(recipe()), tmp_path / "run" / "recipe.yaml")
    run, folder = str(tmp_path / "run"), tmp_path / "folder"
    assert decode(run, str(folder), entry="decode/export.py") is None
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["ProxyTunedForCausalLM"] and config["dtype"] == "float32"
    assert config["proxy_tuning"] | {"rule": None} == {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 258,
        "alpha": 1.0,
        "rule": None,
        "small": [{"weight": 1.0, "expert": "expert", "antiexpert": "antiexpert"}],
    }
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [256]
    assert (folder / "model.safetensors").samefile(tmp_path / "large" / "model.safetensors")
    assert (folder / "expert").samefile(tmp_path / "expert")
    assert {file.name for file in folder.glob("tokenizer*")} > {"tokenizer.json"}
    copy = [run, str(tmp_path / "copy"), "--copy", "--alpha", "0.25"]
    assert decode(*copy, entry="decode/export.py") is None
    assert not any(file.is_symlink() for file in (tmp_path / "copy").rglob("*"))
    copied = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert copied["proxy_tuning"]["alpha"] == 0.25
    for arguments, told in (
        ([run, str(folder)], "is not empty; name a folder"),
        ([run, str(tmp_path / "new"), "--system", "base"], "'base' is not steered"),
        ([str(tmp_path), str(tmp_path / "new")], "is no run folder"),
    ):
        found = decode(*arguments, entry="decode/export.py")
        assert found is not None and told in found
    for override, told in (
        ("decode.rule.warmup_tokens=4", "decode.rule.warmup_tokens: vLLM does not tell models"),
        ("decode.vocabulary=shared", "decode.vocabulary: found shared: on vLLM all models read"),
        ("expert.prompt={prefix: It is}", "expert.prompt: is not that of every base and anti-"),
    ):
        save_recipe(load_recipe(recipe(), [override]), tmp_path / "run" / "recipe.yaml")
        found = decode(run, str(tmp_path / "new"), entry="decode/export.py")
        assert found is not None and told in found and "decode.engine" not in found
    assert not (tmp_path / "new").exists()


def test_the_server_on_vllm_is_started_in_place_of_ours(recipe, tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    save_recipe(load_recipe(recipe()), tmp_path / "run" / "recipe.yaml")
    run, started = str(tmp_path / "run"), []
    on_vllm = [run, "--engine", "vllm", "--port", "8001", "--batch-size", "16"]
    monkeypatch.setattr(engines, "_version", lambda: None)
    found = decode(*on_vllm, entry="decode/serve.py")
    assert found is not None and "vllm is not installed" in found
    monkeypatch.setattr(engines, "_version", lambda: "0.32.0")
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments) or sys.exit())
    monkeypatch.setenv("SERVE_KEY", "secret")
    for _ in range(2):  # the folder of the first start is replaced
        decode(*on_vllm, "--api-key-env", "SERVE_KEY", entry="decode/serve.py")
    program, command, environment = started[1]
    assert program == sys.executable and environment["VLLM_API_KEY"] == "secret"
    assert command[1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", f"{run}/vllm"]
    settings = dict(zip(command[5::2], command[6::2], strict=True))
    assert settings["--dtype"] == "float32" and settings["--port"] == "8001"
    assert settings["--max-num-seqs"] == "16" and (tmp_path / "run/vllm/expert").is_dir()
    for options in ([*on_vllm, "--models", "proxy"], [*on_vllm, "--max-waiting", "3"]):
        assert decode(*options, entry="decode/serve.py") == 2
        assert "leave it out with --engine vllm" in capsys.readouterr().err

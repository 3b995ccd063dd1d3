"""Weights that do not fit their model are one line, before anything is trained or decoded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support.models import byte_tokenizer, save_tiny, tiny_model

from decode.models import fit
from decode.models.model_source import ModelSource
from decode.models.pair import load_pair, load_tuned
from decode.models.sources import check_weights, load_config, load_weights, weights_dtype

LAYER = "model.layers.1.mlp.up_proj.weight"
A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def edit_weights(folder: Path, edit: Callable[[dict], object]) -> None:
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def edit_config(folder: Path, **values) -> None:
    file = next(
        f for name in ("adapter_config", "config") if (f := folder / f"{name}.json").exists()
    )
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def cut(folder: Path, num_bytes: int) -> None:
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:num_bytes])


def put(name: str, number: float) -> Callable[[dict], object]:
    return lambda tensors: tensors[name].view(-1)[3].fill_(number)


MODELS = {
    "missing": (
        lambda f: edit_weights(f, lambda t: t.pop(LAYER)),
        rf"1 tensor missing \({LAYER}\)",
    ),
    "head": (lambda f: edit_weights(f, lambda t: t.pop("lm_head.weight")), "missing .lm_head"),
    "left_over": (
        lambda f: edit_weights(f, lambda t: t.update({"v_head.weight": torch.zeros(3)})),
        r"1 tensor of no use to this model \(v_head.weight\)",
    ),
    "shape": (
        lambda f: edit_weights(f, lambda t: t.update({LAYER: torch.zeros(3, 3)})),
        rf"of another shape \({LAYER} \[3, 3\] for \[64, 32\]\)",
    ),
    "more_layers": (lambda f: edit_config(f, num_hidden_layers=4), "18 tensors missing .* and 15"),
    "fewer_layers": (lambda f: edit_config(f, num_hidden_layers=1), "9 tensors of no use"),
    "other_type": (lambda f: edit_config(f, model_type="gpt_neox"), "23 tensors missing"),
    "near_type": (lambda f: edit_config(f, model_type="qwen2"), "6 tensors missing .*q_proj.bias"),
    "vocabulary": (
        lambda f: edit_config(f, vocab_size=300),
        r"embed_tokens.weight \[258, 32\] for",
    ),
    "cut_off": (lambda f: cut(f, -100), "incomplete metadata"),
    "cut_in_header": (lambda f: cut(f, 100), "invalid header length"),
    "empty": (lambda f: cut(f, 0), "header too small"),
    "nan": (lambda f: edit_weights(f, put(LAYER, float("nan"))), rf"NaN or infinity \({LAYER}\)"),
    "inf": (lambda f: edit_weights(f, put(LAYER, float("-inf"))), rf"NaN or infinity \({LAYER}\)"),
    "pickles": (
        lambda f: next(f.glob("*.safetensors")).rename(f / "pytorch_model.bin"),
        r"its weights are pickles \(pytorch_model.bin\), which are not read",
    ),
    "nan_config": (lambda f: edit_config(f, rms_norm_eps=float("nan")), "rms_norm_eps: found NaN"),
}


@pytest.mark.parametrize("name", MODELS)
def test_weights_that_do_not_fit_are_one_line(name, tmp_path):
    spoil, problem = MODELS[name]
    source = ModelSource(save_tiny(tmp_path / "model", 1))
    check_weights(source)
    spoil(tmp_path / "model")
    for check in (check_weights, lambda s: load_weights(s, "cpu"), lambda s: load_tuned(s, "cpu")):
        with pytest.raises(ValueError, match=problem) as error:
            check(source)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(source.name)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_tied_heads_are_no_fault(architecture, tmp_path):
    model = tiny_model(1, architecture)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    check_weights(ModelSource(str(tmp_path)))
    load_weights(ModelSource(str(tmp_path)), "cpu")


def test_a_config_that_names_no_type_has_that_of_its_weights(tmp_path):
    source = ModelSource(save_tiny(tmp_path / "model", 1))
    edit_weights(tmp_path / "model", lambda t: t.update({k: v.bfloat16() for k, v in t.items()}))
    edit_config(tmp_path / "model", dtype=None)
    config = load_config(source)
    assert config.dtype is None
    assert weights_dtype(source, config) == load_weights(source, "cpu").dtype == torch.bfloat16
    cut(tmp_path / "model", 9)
    assert weights_dtype(source, config) == torch.float32


ADAPTERS = {
    "missing": (lambda f: edit_weights(f, lambda t: t.pop(A)), rf"1 tensor missing \({A}\)"),
    "no_layer": (
        lambda f: edit_weights(f, lambda t: t.update({A.replace("s.0", "s.7"): t[A] + 1})),
        r"1 tensor of no layer \(.*layers.7",
    ),
    "renamed": (
        lambda f: edit_weights(f, lambda t: t.update({f"x.{k}": t.pop(k) for k in list(t)})),
        "tensors? missing",
    ),
    "saved_head": (
        lambda f: edit_weights(f, lambda t: t.pop("base_model.model.lm_head.weight")),
        "1 tensor missing .base_model.model.lm_head.weight",
    ),
    "rank": (lambda f: edit_config(f, r=8), "size mismatch for"),
    "no_target": (lambda f: edit_config(f, target_modules=["c_attn"]), "No modules were targeted"),
    "other_kind": (
        lambda f: edit_config(f, peft_type="IA3", feedforward_modules=["v_proj"]),
        "adapter_config.json: .* knows no such key of IA3",
    ),
    "unknown_key": (
        lambda f: edit_config(f, use_rs_lora=True, future=None),
        r"adapter_config.json: use_rs_lora: found True; PEFT .* knows no such key of LORA",
    ),
    "no_kind": (
        lambda f: (f / "adapter_config.json").write_text('{"r": 4}'),
        "adapter_config.json: peft_type: missing",
    ),
    "nan_alpha": (lambda f: edit_config(f, lora_alpha=float("nan")), "lora_alpha: found NaN"),
    "nan": (lambda f: edit_weights(f, put(A, float("nan"))), "NaN or infinity .*lora_A"),
    "cut_off": (lambda f: cut(f, -9), "incomplete metadata"),
    "no_weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_that_do_not_fit_are_one_line(name, save_model, tmp_path):
    spoil, problem = ADAPTERS[name]
    base, folder = save_model("small", 1), tmp_path / "adapter"
    targets = ["q_proj", "v_proj"]
    config = LoraConfig(r=4, target_modules=targets, modules_to_save=["lm_head"])
    model = get_peft_model(tiny_model(1), config)
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    expert, antiexpert = ModelSource(str(folder)), ModelSource(base)
    load_tuned(expert, "cpu")
    spoil(folder)
    for load in (
        check_weights,
        lambda s: load_tuned(s, "cpu"),
        lambda s: load_pair(s, antiexpert, "cpu"),
    ):
        with pytest.raises(ValueError, match=problem) as error:
            load(expert)
        assert "\n" not in str(error.value)
        assert str(folder) in str(error.value)


HUB = {
    "missing": MODELS["missing"],
    "nan": MODELS["nan"],
    "cut_off": MODELS["cut_off"],
    "vocabulary": MODELS["vocabulary"],
}


@pytest.mark.parametrize("name", HUB)
def test_weights_on_the_hub_are_checked_before_they_load(name, save_model, cache_as, tmp_path):
    spoil, problem = HUB[name]
    good = save_model("model", 1)
    check_weights(ModelSource(cache_as(good, "org/good")))
    spoil(tmp_path / "model")
    source = ModelSource(cache_as(good, f"org/{name}"))
    for check in (check_weights, lambda s: load_weights(s, "cpu")):
        with pytest.raises(ValueError, match=problem) as error:
            check(source)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(source.name)


def test_numbers_of_a_file_are_read_once(save_model, monkeypatch):
    read = []
    monkeypatch.setattr(fit, "check_files", lambda files, name: read.append(name))
    source = ModelSource(save_model("model", 1))
    load_weights(source, "cpu")
    assert not read  # the numbers in memory are checked
    for _ in range(2):
        check_weights(source)
    assert read == [source.name]

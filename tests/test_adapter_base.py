"""An adapter works wherever it comes from: moved, on the hub, without a tokenizer."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.models import byte_tokenizer, save_tiny, tiny_model
from test_fit import edit_config

from decode.backends.proxy_tuned import ProxyTuned, WeightedExpert
from decode.evaluation.lineup import Contender
from decode.models.adapters import adapter_base, is_adapter
from decode.models.loaded import ExpertSource
from decode.models.model_source import ModelSource
from decode.models.pair import SharedPair, TwoModels, load_pair, load_tuned
from decode.models.sources import check_weights, load_tokenizer

GONE = [
    "/home/someone/models/small",
    "./small",
    "../models/small",
    "~/small",
    "someone/small",
    "C:\\models\\small",
    "",
    None,
]


@pytest.fixture
def models(save_model, tmp_path) -> tuple[str, Path]:
    """The folders of a small model and of a LoRA adapter on it, which has no tokenizer."""
    small, folder = save_model("small", 1), tmp_path / "adapter"
    model = get_peft_model(tiny_model(1), LoraConfig(r=4, target_modules=["q_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.peft_config["default"].base_model_name_or_path = small
    model.save_pretrained(folder)
    return small, folder


@pytest.mark.parametrize("named", GONE)
def test_an_adapter_whose_base_is_gone_is_put_on_the_antiexpert(named, models, caplog):
    small, folder = models
    edit_config(folder, base_model_name_or_path=named)
    expert, antiexpert = ModelSource(str(folder)), ModelSource(small)
    with caplog.at_level(logging.WARNING):
        pair = load_pair(expert, antiexpert, "cpu")
    assert isinstance(pair, SharedPair)
    assert (f"'{named}', which it was trained on, is not in reach" in caplog.text) == bool(named)
    for tuned in (
        ExpertSource(expert, antiexpert).expert,
        Contender("small", antiexpert, expert).tuned,
    ):
        assert tuned is not None
        check_weights(tuned)
        load_tuned(tuned, "cpu")
        assert len(load_tokenizer(tuned)) == 258


def test_the_python_entry_takes_adapters_whose_base_is_gone(models, save_model, tmp_path):
    small, folder = models
    base, other = save_model("base", 0, width=64), str(tmp_path / "other")
    wanted = ProxyTuned.from_pretrained(
        base, str(folder), more_experts=[WeightedExpert(str(folder), 0.5)]
    ).generate(["ab"], 8)
    shutil.copytree(folder, other)
    for one in (folder, Path(other)):
        edit_config(one, base_model_name_or_path="/gone")
    model = ProxyTuned.from_pretrained(
        base, str(folder), small, more_experts=[WeightedExpert(other, 0.5, small)]
    )
    assert model.generate(["ab"], 8) == wanted


def test_a_base_in_reach_of_another_shape_is_one_line_that_names_both(models, save_model):
    small, folder = models
    other = save_model("other", 2, width=64)
    edit_config(folder, base_model_name_or_path=other)
    with pytest.raises(ValueError, match=rf"put on '{other}'.* not on '{small}'") as error:
        check_weights(ModelSource(str(folder), untuned=ModelSource(small)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["base_model_name_or_path", "revision"])
@pytest.mark.parametrize("value", [3, ["a"], {"a": 1}])
def test_what_an_adapter_remembers_is_text(key, value, models):
    small, folder = models
    edit_config(folder, **{key: value})
    for source in (ModelSource(str(folder)), ModelSource(str(folder), untuned=ModelSource(small))):
        with pytest.raises(ValueError, match=f"{key}: found .*, expected text or null"):
            check_weights(source)


def test_without_an_antiexpert_a_base_that_is_gone_is_one_line(models, save_model):
    _, folder = models
    for named, problem in (
        ("/gone", r"model ./gone.: no (config|tokenizer) found"),
        (None, r"adapter_config.json: base_model_name_or_path: missing; give the model"),
    ):
        edit_config(folder, base_model_name_or_path=named)
        for load in (
            lambda: ProxyTuned.from_pretrained(save_model("base", 0), str(folder)),
            lambda: check_weights(ModelSource(str(folder))),
        ):
            with pytest.raises(ValueError, match=problem) as error:
                load()
            assert "\n" not in str(error.value)


def test_a_base_that_is_there_is_taken(models, save_model):
    _, folder = models
    pair = load_pair(ModelSource(str(folder)), ModelSource(save_model("other", 2)), "cpu")
    assert isinstance(pair, TwoModels)


@pytest.mark.parametrize(("named", "is_shared"), [(None, True), ("main", True), ("old", False)])
def test_a_revision_that_an_adapter_remembers_counts(named, is_shared, models, cache_as):
    small, folder = models
    for revision in ("main", "old"):
        cache_as(small, "org/small", revision)
    edit_config(folder, base_model_name_or_path="org/small", revision=named)
    expert, antiexpert = ModelSource(str(folder)), ModelSource("org/small", "main")
    assert isinstance(load_pair(expert, antiexpert, "cpu"), SharedPair) == is_shared


def test_an_adapter_on_the_hub_is_one(models, cache_as, tmp_path):
    small, folder = models
    edit_config(folder, base_model_name_or_path=cache_as(small, "org/small"))
    old = shutil.copytree(folder, tmp_path / "old")
    edit_config(old, base_model_name_or_path="org/gone")
    expert = ModelSource(cache_as(folder, "org/lora"))
    cache_as(old, "org/lora", "v1")
    assert is_adapter(expert)
    assert not is_adapter(ModelSource("org/small"))
    check_weights(expert)
    assert adapter_base(expert) == ModelSource("org/small")
    assert adapter_base(ModelSource("org/lora", "v1")).name == "org/gone"
    assert isinstance(load_pair(expert, ModelSource("org/small"), "cpu"), SharedPair)
    # Its own base is there, by another name.
    assert isinstance(load_pair(expert, ModelSource(small), "cpu"), TwoModels)
    given = ModelSource("org/lora", "v1", untuned=ModelSource(small))
    assert adapter_base(given) == ModelSource(small)
    load_tuned(given, "cpu")
    assert len(load_tokenizer(given)) == 258


def test_a_hub_id_out_of_reach_is_one_line_that_names_the_token(cache_as, models):
    small, folder = models
    expert = ModelSource(cache_as(folder, "org/lora"), "v9", untuned=ModelSource(small))
    for load in (check_weights, load_tokenizer, lambda one: load_tuned(one, "cpu")):
        with pytest.raises(ValueError, match=r"'org/lora' at revision v9: no .*HF_TOKEN") as error:
            load(expert)
        assert "\n" not in str(error.value)


def test_an_adapter_without_a_tokenizer_has_its_bases(models):
    small, folder = models
    expert = ModelSource(str(folder))
    assert load_tokenizer(expert) is load_tokenizer(ModelSource(small))
    byte_tokenizer(("<new>",)).save_pretrained(folder)
    assert len(load_tokenizer(expert)) == 259


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "gemma3_text"])
def test_a_model_without_a_tokenizer_is_one_line(architecture, tmp_path, models):
    folder = save_tiny(tmp_path / "model", 1, architecture=architecture)
    load_tokenizer(ModelSource(folder))
    for file in (tmp_path / "model").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="no tokenizer found") as error:
        load_tokenizer(ModelSource(folder))
    assert "\n" not in str(error.value)

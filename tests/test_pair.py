"""A LoRA expert over its anti-expert's weights says what two separate models say."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.models import byte_tokenizer, tiny_model
from test_engine import IDS, run

from decode.engine.request import RolePrompt
from decode.models.language_model import LanguageModel
from decode.models.model_source import ModelSource
from decode.models.pair import SharedPair, TwoModels, load_pair, load_tuned
from decode.models.steered import Steered
from decode.models.vocab import Vocabulary

TOKENIZER = byte_tokenizer()


@pytest.fixture
def adapter(save_model, tmp_path):
    """The folders of a small model and of a LoRA adapter on it that changes what it says."""

    def make(**options) -> tuple[str, str]:
        small = save_model("small", 1)
        config = LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": "all-linear", **options})
        torch.manual_seed(5)
        model = get_peft_model(tiny_model(1), config)
        model.peft_config["default"].base_model_name_or_path = small
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        folder = str(tmp_path / "adapter")
        model.save_pretrained(folder)
        TOKENIZER.save_pretrained(folder)
        return small, folder

    return make


def sources(small: str, expert: str) -> tuple[ModelSource, ModelSource]:
    return ModelSource(expert), ModelSource(small)


def prompts():
    return [RolePrompt(ids, [*b"chat: ", *ids], ids) for ids in IDS]


def test_a_lora_expert_shares_the_antiexperts_weights(adapter):
    small, folder = adapter()
    pair = load_pair(*sources(small, folder), "cpu")
    assert isinstance(pair, SharedPair)
    assert pair.expert.model is pair.antiexpert.model
    num_weights = sum(p.numel() for p in pair.expert.model.parameters())
    plain = sum(p.numel() for p in tiny_model(1).parameters())
    num_adapter = sum(p.numel() for n, p in pair.expert.model.named_parameters() if "lora_" in n)
    assert num_weights == plain + num_adapter


@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True}, {"target_modules": ["q_proj", "down_proj"]}]
)
def test_shared_logits_equal_two_models(adapter, options):
    small, folder = adapter(**options)
    expert, antiexpert = sources(small, folder)
    shared = load_pair(expert, antiexpert, "cpu")
    merged = TwoModels(load_tuned(expert, "cpu"), LanguageModel(tiny_model(1), TOKENIZER))
    base = LanguageModel(tiny_model(0, width=64), TOKENIZER)
    expected = run(Steered(base, merged, Vocabulary(258), 1.0), prompts(), batch_size=3)
    for batch_size in (1, 3):
        found = run(Steered(base, shared, Vocabulary(258), 1.0), prompts(), batch_size=batch_size)
        assert found == expected
    assert expected != run(base, IDS)


def test_each_role_of_a_shared_pair_decodes_alone(adapter):
    small, folder = adapter()
    expert, antiexpert = sources(small, folder)
    pair = load_pair(expert, antiexpert, "cpu")
    assert run(pair.antiexpert, IDS) == run(LanguageModel(tiny_model(1), TOKENIZER), IDS)
    assert run(pair.expert, IDS) == run(load_tuned(expert, "cpu"), IDS)
    assert run(pair.expert, IDS) != run(pair.antiexpert, IDS)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]},
        {"trainable_token_indices": [3, 7]},
        {"bias": "all"},
    ],
)
def test_anything_but_plain_lora_is_two_models(adapter, options):
    small, folder = adapter(**options)
    pair = load_pair(*sources(small, folder), "cpu")
    assert isinstance(pair, TwoModels)
    assert run(pair.expert, IDS) != run(pair.antiexpert, IDS)
    assert run(pair.antiexpert, IDS) == run(LanguageModel(tiny_model(1), TOKENIZER), IDS)


def test_an_adapter_on_another_model_is_two_models(adapter, save_model):
    _, folder = adapter()
    other = save_model("other", 9)
    pair = load_pair(ModelSource(folder), ModelSource(other), "cpu")
    assert isinstance(pair, TwoModels)
    assert run(pair.antiexpert, IDS) == run(LanguageModel(tiny_model(9), TOKENIZER), IDS)


def test_an_adapter_that_changes_its_base_is_refused(adapter, save_model):
    small, folder = adapter(init_lora_weights="pissa")
    with pytest.raises(ValueError, match="an adapter begun as 'pissa' belongs to weights changed"):
        load_pair(*sources(small, folder), "cpu")
    with pytest.raises(ValueError, match="path_initial_model_for_weight_conversion"):
        load_tuned(ModelSource(folder), "cpu")

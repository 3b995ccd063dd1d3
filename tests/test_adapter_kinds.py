"""Every kind of adapter PEFT has decodes as PEFT's own forward says, or is refused in one line."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.config import KasaConfig, MontecloraConfig, VeloraConfig
from support.models import byte_tokenizer, tiny_model
from transformers import PreTrainedModel

from decode.models.adapter_kinds import KINDS
from decode.models.language_model import LanguageModel
from decode.models.model_source import ModelSource
from decode.models.pair import SharedPair, load_pair, load_tuned
from decode.models.sources import check_weights

CONFIGS = {str(getattr(kind, "value", kind)): c for kind, c in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
LINEARS = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
OPTIONS = {
    "ADALORA": {"total_step": 10},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2, "target_modules": None},
    "C3A": {"block_size": 16},
    "FOURIERFT": {"n_frequency": 50},
    "IA3": {"feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": None},
    "MISS": {"r": 8},
    "PSOFT": {"r": 8},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": [104, 108]},
    "VBLORA": {"vector_length": 16, "num_vectors": 8},
    "WAVEFT": {"n_frequency": 50},
}
# Rows of different lengths, so that one is padded beside the other.
ROWS = [list(b"hello world, this is"), list(b"a shorter row")]
NUM_READ_ONE_BY_ONE = 4


def small(is_tied: bool = False) -> PreTrainedModel:
    model = tiny_model(1)
    if is_tied:
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


@pytest.fixture
def trained(tmp_path: Path):
    """(config, is the head tied) -> folders of a model and of an adapter on it that moves it."""

    def make(config, is_tied: bool = False) -> tuple[ModelSource, ModelSource]:
        base, folder = tmp_path / "small", tmp_path / "adapter"
        for place in (base, folder):
            byte_tokenizer().save_pretrained(place)
        small(is_tied).save_pretrained(base)
        model = get_peft_model(small(is_tied), config)
        torch.manual_seed(5)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2)
        model.peft_config["default"].base_model_name_or_path = str(base)
        model.save_pretrained(folder)
        return ModelSource(str(folder)), ModelSource(str(base))

    return make


def forwards(model) -> list[torch.Tensor]:
    """The model's own logits of each row, read at once and alone."""
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits[0, :, :258] for row in ROWS]


def decoded(model: LanguageModel) -> list[torch.Tensor]:
    """The logits of each row's last tokens, read into a cache beside the other's."""
    starts = [len(row) - NUM_READ_ONE_BY_ONE for row in ROWS]
    model.make_room(64, len(ROWS), 0)
    logits = [
        model.fill([row[:start] for row, start in zip(ROWS, starts, strict=True)], range(2))[
            :, None
        ]
    ]
    for ahead in range(NUM_READ_ONE_BY_ONE):
        places = [start + ahead for start in starts]
        tokens = torch.tensor([[row[place]] for row, place in zip(ROWS, places, strict=True)])
        positions = [[place] for place in places]
        logits.append(
            model.run(model.model, tokens, range(2), positions, max(places) + 1).logits[..., :258]
        )
    return list(torch.cat(logits, 1))


def assert_decodes_as_trained(expert: ModelSource, antiexpert: ModelSource, is_tied=False) -> None:
    check_weights(expert)
    own = forwards(PeftModel.from_pretrained(small(is_tied), expert.name).eval())
    untuned = forwards(small(is_tied))
    assert (own[0] - untuned[0]).abs().max() > 0.1, "the adapter does nothing"
    pair = load_pair(expert, antiexpert, "cpu")
    wanted = [(load_tuned(expert, "cpu"), own), (pair.expert, own), (pair.antiexpert, untuned)]
    for model, logits in wanted:
        for found, row in zip(decoded(model), logits, strict=True):
            expected = row[-NUM_READ_ONE_BY_ONE - 1 :]
            torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_decodes_as_it_was_trained(kind, trained):
    options = {"task_type": "CAUSAL_LM", **LINEARS, **OPTIONS.get(kind, {})}
    if options["target_modules"] is None:
        del options["target_modules"]
    expert, antiexpert = trained(CONFIGS[kind](**options))
    assert_decodes_as_trained(expert, antiexpert)


def test_all_kinds_are_known_to_peft():
    assert CONFIGS.keys() >= KINDS


@pytest.mark.parametrize("kind", sorted(CONFIGS.keys() - KINDS))
def test_other_kinds_are_refused_in_one_line(kind, save_model, tmp_path):
    base, folder = save_model("small", 1), tmp_path / "adapter"
    folder.mkdir()
    byte_tokenizer().save_pretrained(folder)
    config = {"peft_type": kind, "base_model_name_or_path": base, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    expert, antiexpert = ModelSource(str(folder)), ModelSource(base)
    for load in (lambda: load_tuned(expert, "cpu"), lambda: load_pair(expert, antiexpert, "cpu")):
        with pytest.raises(ValueError, match=f"adapter_config.json: peft_type: found {kind}") as e:
            load()
        assert "\n" not in str(e.value)


LORA = {"r": 4, "lora_alpha": 16, "task_type": "CAUSAL_LM", **LINEARS}
SETTINGS = {
    "lora_bias": {"lora_bias": True},
    "bias": {"bias": "lora_only"},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "kept_tied": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "saved_embeddings": {"modules_to_save": ["embed_tokens"]},
    "saved_head": {"modules_to_save": ["lm_head"]},
    "tokens": {"trainable_token_indices": [104, 108]},
    "layer_replication": {"layer_replication": [[0, 2], [1, 2]]},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "parameters": {"target_parameters": ["mlp.gate_proj.weight"]},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    "one_layer": {"layers_to_transform": [1]},
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["k_proj"]},
    "saved_norm": {"modules_to_save": ["norm"]},
    "saved_layer": {"modules_to_save": ["gate_proj"]},
    "rslora_dora": {"use_rslora": True, "use_dora": True},
    "kasa": {"kasa_config": KasaConfig()},
    "monteclora": {"monteclora_config": MontecloraConfig()},
    "velora": {"velora_config": VeloraConfig()},
}
QUICK = {"lora_bias", "embeddings", "layer_replication", "head"}
SHARED = {"rslora", "patterns", "one_layer", "head", "excluded"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "is_tied"),
    [
        pytest.param(name, tied, marks=() if tied and name in QUICK else pytest.mark.long)
        for name in SETTINGS
        for tied in (False, True)
    ],
)
def test_lora_decodes_as_it_was_trained(name, is_tied, trained):
    expert, antiexpert = trained(LoraConfig(**{**LORA, **SETTINGS[name]}), is_tied)
    assert_decodes_as_trained(expert, antiexpert, is_tied)
    assert isinstance(load_pair(expert, antiexpert, "cpu"), SharedPair) == (name in SHARED)


@pytest.mark.parametrize("key", ["alora_invocation_tokens"])
def test_lora_that_begins_in_a_prompt_is_refused(key, trained):
    expert, antiexpert = trained(LoraConfig(**LORA, alora_invocation_tokens=[111]))
    for load in (lambda: load_tuned(expert, "cpu"), lambda: load_pair(expert, antiexpert, "cpu")):
        with pytest.raises(ValueError, match=f"{key}: found .111.; the adapter would begin"):
            load()

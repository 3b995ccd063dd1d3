"""Adapters on resized embeddings: loaded as PEFT's own forward has them, or refused in one line."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from support.models import byte_tokenizer, tiny_model
from test_fit import edit_weights

from decode.backends.proxy_tuned import ProxyTuned
from decode.models.language_model import LanguageModel
from decode.models.model_source import ModelSource
from decode.models.pair import TwoModels, load_pair, load_tuned
from decode.models.sources import check_weights

ADDED = ("<a>", "<b>")
NUM_TOKENS = 258
PROMPT = [*b"hello", 258, *b" you", 259]
LORA = {"r": 4, "target_modules": ["q_proj"]}
CONFIGS = {
    "lora": LoraConfig(**LORA),
    "saved": LoraConfig(**LORA, modules_to_save=["embed_tokens", "lm_head"]),
    "indices": LoraConfig(**LORA, trainable_token_indices=[104, 259]),
    "lora_on_both": LoraConfig(r=4, target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "tokens": TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[259]),
}


def small(is_tied: bool, num_added: int = 0):
    model = tiny_model(1)
    if is_tied:
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight
    if num_added:
        model.resize_token_embeddings(NUM_TOKENS + num_added, mean_resizing=False)
    return model


@pytest.fixture
def trained(tmp_path: Path):
    """(config, is the head tied, tokens added) -> the base, and an adapter trained on more."""

    def make(config, is_tied: bool, num_added: int) -> tuple[ModelSource, ModelSource]:
        base, folder = tmp_path / "small", tmp_path / "adapter"
        small(is_tied).save_pretrained(base)
        byte_tokenizer().save_pretrained(base)
        torch.manual_seed(3)
        grown = small(is_tied, num_added)
        # PEFT compares its number of tokens with that of this folder.
        grown.config._name_or_path = str(base)
        model = get_peft_model(grown, config)
        model.peft_config["default"].base_model_name_or_path = str(base)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad or "embed_tokens" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder, save_embedding_layers=True)
        byte_tokenizer(ADDED[:num_added]).save_pretrained(folder)
        torch.manual_seed(4)
        own = PeftModel.from_pretrained(small(is_tied, num_added), str(folder)).eval()
        make.logits = logits(own)
        return ModelSource(str(folder)), ModelSource(str(base))

    return make


def logits(model) -> torch.Tensor:
    """(T, V) of the prompt, less tokens that the model has not."""
    ids = [id_ for id_ in PROMPT if id_ < model.get_input_embeddings().weight.shape[0]]
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


def said(model: LanguageModel) -> torch.Tensor:
    return logits(model.model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "is_tied", "num_added"),
    [
        ("lora", False, 0),
        ("lora", False, 2),
        ("lora", True, 2),
        ("saved", False, 0),
        ("saved", True, 2),
        ("indices", False, 2),
        ("indices", True, 2),
        ("lora_on_both", False, 2),
        ("lora_on_both", True, 0),
        ("tokens", True, 2),
    ],
)
def test_embeddings_that_come_with_an_adapter_are_the_experts_alone(
    name, is_tied, num_added, trained
):
    expert, antiexpert = trained(CONFIGS[name], is_tied, num_added)
    check_weights(expert)
    pair = load_pair(expert, antiexpert, "cpu")
    assert isinstance(pair, TwoModels)
    for model in (pair.expert, load_tuned(expert, "cpu")):
        torch.testing.assert_close(said(model), trained.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(said(pair.antiexpert), logits(small(is_tied)))


@pytest.mark.filterwarnings("ignore")
def test_an_expert_with_added_tokens_steers_by_what_is_shared(trained, save_model):
    expert, antiexpert = trained(CONFIGS["saved"], False, 2)
    model = ProxyTuned.from_pretrained(
        save_model("base", 0, width=64), expert, antiexpert, vocabulary="shared"
    )
    (completion,) = model.generate(["ab"], 8)
    assert max(completion.token_ids) < NUM_TOKENS
    with pytest.raises(ValueError, match="different vocabularies: 2 ids differ"):
        ProxyTuned.from_pretrained(save_model("base", 0, width=64), expert)


LOST = {
    "head": ("saved", lambda key: "lm_head" in key, r"\[258, 260\]; its base has 258; save"),
    "embeddings": ("saved", lambda key: "embed_tokens" in key, r"\[258, 260\]; its base"),
    "all": (
        "tokens",
        lambda key: "trainable_tokens_delta" not in key,
        "it trains token 259, where its base has 258 tokens",
    ),
    "none_of_the_head": ("tokens", lambda key: False, r"\[258, 260\]; its base"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LOST)
def test_embeddings_that_were_not_saved_are_one_line(name, trained):
    config, is_lost, problem = LOST[name]
    expert, antiexpert = trained(CONFIGS[config], False, 2)
    edit_weights(
        Path(expert.name), lambda tensors: [tensors.pop(k) for k in list(tensors) if is_lost(k)]
    )
    for load in (
        lambda: check_weights(expert),
        lambda: load_tuned(expert, "cpu"),
        lambda: load_pair(expert, antiexpert, "cpu"),
    ):
        with pytest.raises(ValueError, match=problem) as error:
            load()
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(expert.name)

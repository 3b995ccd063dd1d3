"""Every causal architecture of transformers is as `generate` says, in any batch, or refused."""

import pytest
import torch
from support.architectures import NAMES, tiny_of
from test_engine import IDS, TOKENIZER, run
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from decode.models.architectures import refuse_undecodable
from decode.models.language_model import LanguageModel
from decode.models.model_source import ModelSource
from decode.models.recurrent import RecurrentModel, as_language_model
from decode.models.sources import load_config

PROMPTS = [IDS[3], IDS[0], IDS[2]]
LIMIT = 6
REFUSED = {"recurrent_gemma"}
ROW_BY_ROW = {"bamba", "bloom", "falcon_alibi", "gpt_neo", "mpt", "openai-gpt"}
QUICK = {"bamba", "bloom", "falcon", "falcon_alibi", "gpt_neo", "mpt", "llama", "openai-gpt"}
# No tiny model is made of these: large parts of fixed size, sizes that contradict each other, or
# a decoder that transformers does not load by itself.
NOT_MADE = set(
    "blenderbot blt cohere_compass_text dbrx dots1 emu3 fuyu gemma3n gemma3n_text".split()
)
NOT_MADE |= set("gemma4_assistant gemma4_unified_assistant git hunyuan_v1_dense".split())
NOT_MADE |= set("hunyuan_v1_moe kimi_linear longcat_flash ministral mllama musicgen".split())
NOT_MADE |= set("musicgen_melody phi4_multimodal bailing_hybrid qwen4_exp qwen4_exp_text".split())
NOT_MADE |= set("roc_bert whisper".split())
# `generate` itself does not run these from text alone.
NOT_GENERATED = {"prophetnet", "xlstm", "xmod"}

ALL = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *NAMES]
    if name not in NOT_MADE | NOT_GENERATED | REFUSED
]


@pytest.mark.parametrize("architecture", ALL)
def test_rows_are_those_of_generate_alone_and_in_a_batch(architecture):
    network = tiny_of(architecture)
    model = as_language_model(network, TOKENIZER)
    if architecture in ROW_BY_ROW:
        assert isinstance(model, RecurrentModel)
    expected = []
    for ids in PROMPTS:
        whole = torch.tensor([ids])
        theirs = network.generate(
            whole, attention_mask=torch.ones_like(whole), max_new_tokens=LIMIT, do_sample=False
        )
        expected.append(theirs[0, len(ids) :].tolist())
    assert run(model, PROMPTS[:1], 1, LIMIT) == expected[:1]
    assert run(model, PROMPTS, 3, LIMIT) == expected


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("recurrent_gemma", {}, "inside its layers"),
        ("bert", {}, "is_decoder: true"),
        ("t5", {}, "not among the causal language models"),
        ("clip", {}, "not among the causal language models"),
        ("llava", {}, "llava reads more than text and is not among the causal"),
        ("qwen2_5_vl", {}, r"reads more than text and .* one whose text model can be loaded"),
        ("llama4", {}, "llama4 reads more than text and is not loaded as its text model alone"),
        ("mllama", {}, "mllama reads more than text and is not loaded as its text model alone"),
    ],
)
def test_what_cannot_be_decoded_is_refused_before_weights_load(tmp_path, name, options, reason):
    AutoConfig.for_model(name, **options).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=reason) as error:
        load_config(ModelSource(str(tmp_path)))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["llama", "bamba", "bloom", "gemma3", "gemma4", "qwen3_5"])
def test_others_are_not_refused(name):
    refuse_undecodable(name, AutoConfig.for_model(name))


def test_attention_by_position_keeps_the_fast_cache():
    assert type(as_language_model(tiny_of("llama"), TOKENIZER)) is LanguageModel

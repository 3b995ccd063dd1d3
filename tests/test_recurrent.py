"""State-space, hybrid and ALiBi models: the same laws, without drafts."""

import pytest
import torch
from support.models import byte_tokenizer, tiny_model
from test_engine import GREEDY, IDS, naive, run, same
from transformers import AutoConfig, AutoModelForCausalLM

from decode.engine.sampling import Sampling
from decode.engine.stats import DecodingStats
from decode.models.language_model import LanguageModel
from decode.models.pair import TwoModels
from decode.models.recurrent import RecurrentModel, as_language_model
from decode.models.steered import Steered
from decode.models.vocab import Vocabulary

TOKENIZER = byte_tokenizer()
ARCHITECTURES = {
    "bamba": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attn_layer_indices": [1],
        "mamba_d_head": 16,
        "mamba_n_heads": 4,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "lfm2": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "full_attn_idxs": [1],
    },
}


def stateful(architecture: str, seed: int):
    """A random model with sharp logits whose layers carry a state."""
    config = AutoConfig.for_model(
        architecture,
        **ARCHITECTURES[architecture],
        vocab_size=258,
        eos_token_id=256,
        pad_token_id=257,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(std=2.0)
        model.get_output_embeddings().weight[257:] = 0
    model.generation_config.eos_token_id = 256
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_stateful_base_is_steered_as_the_cache_free_loop_says(architecture, batch_size, caplog):
    base, expert, antiexpert = stateful(architecture, 0), tiny_model(1), tiny_model(2)
    large = as_language_model(base, TOKENIZER)
    assert isinstance(large, RecurrentModel)
    assert caplog.text.count("row by row") == 1
    pair = TwoModels(LanguageModel(expert, TOKENIZER), LanguageModel(antiexpert, TOKENIZER))
    model = Steered(large, pair, Vocabulary(258), 1.0)
    expected = [naive(base, expert, antiexpert, 1.0, prompt, 12) for prompt in same(IDS)]
    stats = DecodingStats()
    found = run(model, same(IDS), batch_size, 12, num_draft_tokens=4, stats=stats)
    assert found == expected
    assert stats.num_drafted == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0, seed=2)], ids=["greedy", "drawn"])
def test_a_stateful_expert_gives_the_same_in_any_batch(architecture, sampling):
    expert, antiexpert = (as_language_model(stateful(architecture, s), TOKENIZER) for s in (1, 2))
    base = LanguageModel(tiny_model(0), TOKENIZER)
    model = Steered(base, TwoModels(expert, antiexpert), Vocabulary(258), 0.7)
    alone = run(model, same(IDS), 1, 10, sampling=sampling)
    assert run(model, same(IDS), 4, 10, sampling=sampling, num_draft_tokens="auto") == alone
    assert alone != run(base, IDS, 1, 10, sampling=sampling)

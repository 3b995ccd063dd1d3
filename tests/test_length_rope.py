"""RoPE factors that depend on a row's length: a row is what it is alone, in any batch."""

import pytest
import torch
from support.models import byte_tokenizer, tiny_model
from support.quick_tier import few
from test_engine import IDS, run, same

from decode.models.length_rope import LengthRopeModel
from decode.models.pair import TwoModels
from decode.models.recurrent import as_language_model
from decode.models.steered import Steered
from decode.models.vocab import Vocabulary

TOKENIZER = byte_tokenizer()
SWITCH = 30  # one prompt is longer; completions of the others cross it at different times
LIMIT = 28
PROMPTS = IDS[:5]
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "original_max_position_embeddings": SWITCH,
    "short_mscale": 1.0,  # Phi-3.5-MoE
    "long_mscale": 1.3,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
KINDS = {
    "phi3": ("phi3", {"rope_parameters": LONGROPE, "sliding_window": None}),
    "phi3 windows": ("phi3", {"rope_parameters": LONGROPE, "sliding_window": 12}),
    "phimoe": ("phimoe", {"rope_parameters": LONGROPE, "num_local_experts": 4}),
    "llama longrope": ("llama", {"rope_parameters": LONGROPE}),
    "llama dynamic": ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": SWITCH}),
}


def make(kind: str, seed: int):
    architecture, options = KINDS[kind]
    if architecture.startswith("phi"):
        options = {**options, "original_max_position_embeddings": SWITCH}
    return tiny_model(seed, architecture, **options)


@pytest.fixture(scope="module", params=few(KINDS, "phi3", "llama dynamic"))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def expected(kind):
    """What `generate` gives each row alone, with a model that has read nothing before."""
    found = []
    for ids in PROMPTS:
        theirs = make(kind, 0).generate(
            torch.tensor([ids]), max_new_tokens=LIMIT, do_sample=False, pad_token_id=257
        )
        found.append(theirs[0, len(ids) :].tolist())
    return found


def test_rows_are_those_of_generate_alone_and_in_a_batch(kind, expected):
    model = as_language_model(make(kind, 0), TOKENIZER)
    assert isinstance(model, LengthRopeModel)
    assert run(model, PROMPTS, 4, LIMIT) == expected
    assert run(model, PROMPTS, 1, LIMIT) == expected  # after longer rows


@pytest.mark.parametrize("num_draft_tokens", [0, 4])
def test_drafts_across_the_switch_change_nothing(kind, expected, num_draft_tokens):
    base, expert, antiexpert = (as_language_model(make(kind, s), TOKENIZER) for s in range(3))
    for alpha, small in ((0.0, expert), (1.0, antiexpert)):  # equal models: nothing is added
        model = Steered(base, TwoModels(small, antiexpert), Vocabulary(258), alpha)
        found = run(model, same(PROMPTS), 4, LIMIT, num_draft_tokens=num_draft_tokens)
        assert found == expected


@pytest.mark.long
def test_a_draft_that_is_rejected_behind_the_switch_is_forgotten(kind):
    models = [as_language_model(make(kind, seed), TOKENIZER) for seed in range(3)]
    base, expert, antiexpert = models
    model = Steered(base, TwoModels(expert, antiexpert), Vocabulary(258), 0.7)
    alone = run(model, same(PROMPTS), 1, LIMIT)
    for num_draft_tokens in (1, 3, 8):
        found = run(model, same(PROMPTS), 3, LIMIT, num_draft_tokens=num_draft_tokens)
        assert found == alone


def test_the_model_is_given_back_as_it_was(kind):
    network = make(kind, 0)
    before = {name: dict(module.__dict__) for name, module in network.named_modules()}
    run(as_language_model(network, TOKENIZER), PROMPTS[:2], 2, 4)
    for name, module in network.named_modules():
        assert ("forward" in module.__dict__) == ("forward" in before[name])

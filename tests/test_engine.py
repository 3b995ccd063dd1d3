"""The laws of the decoder, token for token, against a loop with no cache and transformers' own."""

import pytest
import torch
from conftest import ARCHITECTURES, byte_tokenizer, tiny_model

from decode.engine import Stops, generate
from decode.models import LanguageModel
from decode.pair import TwoModels
from decode.proxy import RolePrompt, Steered
from decode.sampling import Sampling, choose, warp
from decode.vocab import Vocabulary

TOKENIZER = byte_tokenizer()
GREEDY = Sampling()
PROMPTS = [
    b"A",
    b"What is proxy-tuning? ",
    b"Q: 1+1=",
    b"a longer prompt than all the others, to be ragged",
    b"xyz",
    b"Hello there",
    b"7 * 6",
]
IDS = [TOKENIZER(text.decode())["input_ids"] for text in PROMPTS]


def steered(base, expert, antiexpert, alpha=1.0) -> Steered:
    pair = TwoModels(LanguageModel(expert, TOKENIZER), LanguageModel(antiexpert, TOKENIZER))
    return Steered(LanguageModel(base, TOKENIZER), pair, Vocabulary(258), alpha)


def run(model, prompts, batch_size=4, limit=24, stops=(), sampling=GREEDY, **kwargs):
    """Token ids of every prompt, in order."""
    wanted = Stops(frozenset({256}), tuple(stops), TOKENIZER)
    done = generate(model, prompts, wanted, limit, sampling, batch_size, **kwargs)
    return [list(c.token_ids) for c in sorted(done, key=lambda c: c.index)]


def same(prompts):
    return [RolePrompt(ids, ids, ids) for ids in prompts]


@torch.inference_mode()
def naive(base, expert, antiexpert, alpha, prompt: RolePrompt, limit=24) -> list[int]:
    """The method from its equation: no cache, no batch, whole sequences every step."""
    completion: list[int] = []
    while len(completion) < limit and (not completion or completion[-1] != 256):
        logits = [
            model(torch.tensor([[*ids, *completion]])).logits[0, -1].float()
            for model, ids in (
                (base, prompt.base),
                (expert, prompt.expert),
                (antiexpert, prompt.antiexpert),
            )
        ]
        completion.append(int((logits[0] + alpha * (logits[1] - logits[2])).argmax()))
    return completion


@pytest.fixture(scope="module")
def trio():
    return tiny_model(0, width=64), tiny_model(1), tiny_model(2)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_equals_the_cache_free_loop(architecture, alpha):
    models = [tiny_model(seed, architecture) for seed in range(3)]
    expected = [naive(*models, alpha, prompt) for prompt in same(IDS)]
    assert run(steered(*models, alpha), same(IDS)) == expected
    assert len({tuple(tokens) for tokens in expected}) == len(IDS)  # the models do say something


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_alpha_zero_is_the_base_by_transformers_generate(architecture):
    base, expert, antiexpert = (tiny_model(seed, architecture) for seed in range(3))
    found = run(steered(base, expert, antiexpert, 0.0), same(IDS))
    for ids, tokens in zip(IDS, found, strict=True):
        theirs = base.generate(
            torch.tensor([ids]), max_new_tokens=24, do_sample=False, pad_token_id=257
        )
        assert tokens == theirs[0, len(ids) :].tolist()


def test_expert_equal_to_antiexpert_is_the_base(trio):
    base, expert, _ = trio
    assert run(steered(base, expert, expert, 1.7), same(IDS)) == run(
        LanguageModel(base, TOKENIZER), IDS
    )


def test_base_equal_to_antiexpert_is_the_expert():
    small, expert = tiny_model(1), tiny_model(2)
    assert run(steered(small, expert, small, 1.0), same(IDS)) == run(
        LanguageModel(expert, TOKENIZER), IDS
    )


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0, None, 0.9, 3)], ids=["greedy", "drawn"])
def test_a_row_does_not_depend_on_its_neighbours(trio, batch_size, sampling):
    model = steered(*trio)
    alone = [
        run(model, same([ids]), 1, sampling=sampling, indices=[i])[0] for i, ids in enumerate(IDS)
    ]
    assert run(model, same(IDS), batch_size, sampling=sampling) == alone
    backwards = run(
        model, same(IDS)[::-1], batch_size, sampling=sampling, indices=range(len(IDS))[::-1]
    )
    assert backwards == alone


def test_roles_read_their_own_prompts(trio):
    prompts = [RolePrompt(ids, [*b"<chat> ", *ids, 10], ids[-3:]) for ids in IDS]
    expected = [naive(*trio, 1.0, prompt) for prompt in prompts]
    assert run(steered(*trio), prompts) == expected
    assert expected != [naive(*trio, 1.0, prompt) for prompt in same(IDS)]


def test_a_one_token_prompt_needs_no_prefill(trio):
    assert run(steered(*trio), same([[65]])) == [naive(*trio, 1.0, RolePrompt([65], [65], [65]))]


def test_an_eos_ends_its_row_and_never_the_batch(trio):
    """Any token may serve as the end: rows that meet it stop there, the others run on."""
    model = steered(*trio)
    full = run(model, same(IDS))
    end = full[1][5]
    stops = Stops(frozenset({end}), (), TOKENIZER)
    done = generate(model, same(IDS), stops, 24, GREEDY, 3)
    for completion in done:
        tokens = full[completion.index]
        cut = tokens.index(end) + 1 if end in tokens else len(tokens)
        assert list(completion.token_ids) == tokens[:cut]
        assert completion.finish_reason == ("eos" if end in tokens else "length")


def test_a_stop_string_across_tokens_is_cut_from_the_text(trio):
    model = steered(*trio)
    full = run(model, same(IDS))
    text = TOKENIZER.decode(full[2])
    at = next(i for i in range(4, len(text) - 2) if text[i : i + 2].isascii())
    stop = text[at : at + 2]  # two tokens of one byte each
    done = list(generate(model, same(IDS), Stops(frozenset(), (stop,), TOKENIZER), 24, GREEDY, 3))
    row = next(c for c in done if c.index == 2)
    assert row.finish_reason == "stop"
    assert row.text == text[: text.index(stop)]
    assert list(row.token_ids) == full[2][: len(row.token_ids)]
    assert any(c.finish_reason == "length" for c in done)


def test_padded_vocabulary_and_banned_ids_are_never_sampled():
    models = [tiny_model(seed, vocab_size=320, sharpness=0.0) for seed in range(3)]
    flat = Sampling(temperature=1.0, seed=1)
    tokens = run(
        steered(*models), same(IDS), sampling=flat, limit=200, banned_ids=[256, *range(65, 91)]
    )
    seen = {token for row in tokens for token in row}
    assert max(seen) < 258
    assert len(seen) > 200
    assert not seen & {256, *range(65, 91)}


def test_draws_follow_the_combined_distribution(trio):
    """Total variation of 20,000 draws from the enumerated distribution is within noise."""
    num_draws = 20_000
    prompt = RolePrompt(IDS[2], IDS[2], IDS[2])
    sampling = Sampling(temperature=1.5, top_k=6, top_p=0.95, seed=5)
    model = steered(*trio, 0.7)
    model.open([prompt], 1, 1)
    model.prefill([prompt], [0])
    logits = model.next_logits(1)
    target = warp(logits, sampling)[0]
    uniforms = torch.rand(
        num_draws, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    drawn = choose(logits.expand(num_draws, -1), sampling, uniforms)
    found = torch.bincount(drawn, minlength=len(target)) / num_draws
    noise = (target * (1 - target) / num_draws).sqrt()
    assert (target > 0).sum() > 1
    assert ((found - target).abs() <= 4 * noise + 1e-12).all()

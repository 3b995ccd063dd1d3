"""The laws of the decoder, token for token, against a loop with no cache and transformers' own."""

from functools import partial

import pytest
import torch
from support.models import ARCHITECTURES, byte_tokenizer, tiny_model
from support.quick_tier import few

from decode.engine.engine import Engine, generate
from decode.engine.request import Request, RolePrompt
from decode.engine.rule import Alpha, Rule
from decode.engine.sampling import Sampling
from decode.models import language_model
from decode.models.language_model import LanguageModel
from decode.models.pair import TwoModels
from decode.models.prefill import prefill_chunks
from decode.models.steered import Steered, Steering
from decode.models.vocab import Vocabulary

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


def steered(base, expert, antiexpert, alpha: float | Alpha = 1.0) -> Steered:
    pair = TwoModels(LanguageModel(expert, TOKENIZER), LanguageModel(antiexpert, TOKENIZER))
    return Steered(LanguageModel(base, TOKENIZER), pair, Vocabulary(258), alpha)


def requests(prompts, limit=24, stops=(), sampling=GREEDY, names=None, alphas=None, banned_ids=()):
    """A request a prompt; limits, samplings and alphas may be lists."""
    count = len(prompts)
    limits = limit if isinstance(limit, list) else [limit] * count
    samplings = sampling if isinstance(sampling, list) else [sampling] * count
    alphas = alphas or [None] * count
    prompts = [p if isinstance(p, RolePrompt) else RolePrompt.same(p) for p in prompts]
    each = zip(names or range(count), prompts, limits, samplings, alphas, strict=True)
    return [
        Request(name, prompt, own_limit, tuple(stops), own, alpha, tuple(banned_ids))
        for name, prompt, own_limit, own, alpha in each
    ]


def complete(model, asked, batch_size=4, num_draft_tokens=0, stats=None, eos_ids=frozenset({256})):
    """Completions in the order of the requests."""
    engine = Engine(model, TOKENIZER, batch_size, num_draft_tokens, eos_ids, stats)
    done = {completion.name: completion for completion in generate(engine, asked)}
    return [done[request.name] for request in asked]


def run(model, prompts, batch_size=4, limit=24, stops=(), sampling=GREEDY, **kwargs):
    """Token ids of every prompt, in order."""
    own = {key: kwargs.pop(key) for key in ("names", "alphas", "banned_ids") if key in kwargs}
    asked = requests(prompts, limit, stops, sampling, **own)
    return [
        list(completion.token_ids) for completion in complete(model, asked, batch_size, **kwargs)
    ]


def same(prompts):
    return [RolePrompt.same(ids) for ids in prompts]


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
        scale = alpha.at(len(completion)) if isinstance(alpha, Alpha) else alpha
        completion.append(int((logits[0] + scale * (logits[1] - logits[2])).argmax()))
    return completion


@torch.inference_mode()
def greedy(logits, ids, limit=24) -> list[int]:
    """What a function from whole sequences to next logits says."""
    completion: list[int] = []
    while len(completion) < limit and (not completion or completion[-1] != 256):
        completion.append(int(logits(torch.tensor([[*ids, *completion]])).argmax()))
    return completion


@pytest.fixture(scope="module")
def trio():
    return tiny_model(0, width=64), tiny_model(1), tiny_model(2)


@pytest.mark.parametrize("architecture", few(ARCHITECTURES, "llama", "gpt2"))
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_equals_the_cache_free_loop(architecture, alpha):
    trio = [tiny_model(seed, architecture) for seed in range(3)]
    expected = [naive(*trio, alpha, prompt) for prompt in same(IDS)]
    assert run(steered(*trio, alpha), same(IDS)) == expected
    assert len({tuple(tokens) for tokens in expected}) == len(IDS)  # the models do say something


@pytest.mark.parametrize("architecture", few(ARCHITECTURES, "llama", "gpt2"))
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


@pytest.mark.parametrize("batch_size", few([1, 2, 3, 7], 3))
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0, None, 0.9, 3)], ids=["greedy", "drawn"])
def test_a_row_does_not_depend_on_its_neighbours(trio, batch_size, sampling):
    model = steered(*trio)
    alone = [
        run(model, same([ids]), 1, sampling=sampling, names=[i])[0] for i, ids in enumerate(IDS)
    ]
    assert run(model, same(IDS), batch_size, sampling=sampling) == alone
    backwards = run(
        model, same(IDS)[::-1], batch_size, sampling=sampling, names=range(len(IDS))[::-1]
    )
    assert backwards[::-1] == alone


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
    done = complete(model, requests(IDS), 3, eos_ids=frozenset({end}))
    for tokens, completion in zip(full, done, strict=True):
        cut = tokens.index(end) + 1 if end in tokens else len(tokens)
        assert list(completion.token_ids) == tokens[:cut]
        assert completion.finish_reason == ("eos" if end in tokens else "length")


def test_a_stop_string_across_tokens_is_cut_from_the_text(trio):
    model = steered(*trio)
    full = run(model, same(IDS))
    text = TOKENIZER.decode(full[2])
    at = next(i for i in range(4, len(text) - 2) if text[i : i + 2].isascii())
    stop = text[at : at + 2]  # two tokens of one byte each
    done = complete(model, requests(IDS, stops=[stop]), 3, eos_ids=frozenset())
    row = done[2]
    assert row.finish_reason == "stop"
    assert row.text == text[: text.index(stop)]
    assert list(row.token_ids) == full[2][: len(row.token_ids)]
    assert any(c.finish_reason == "length" for c in done)


def test_padded_vocabulary_and_banned_ids_are_never_sampled():
    flat_models = [tiny_model(seed, vocab_size=320, sharpness=0.0) for seed in range(3)]
    flat = Sampling(temperature=1.0, seed=1)
    tokens = run(
        steered(*flat_models), same(IDS), sampling=flat, limit=200, banned_ids=[256, *range(65, 91)]
    )
    seen = {token for row in tokens for token in row}
    assert max(seen) < 258
    assert len(seen) > 200
    assert not seen & {256, *range(65, 91)}


def test_alpha_and_limit_per_request(trio):
    """Each row has its own alpha, constant or growing, and its own limit, in one batch."""
    alphas = [
        0.0,
        0.5,
        1.0,
        2.0,
        Alpha(1.0, Rule(warmup_tokens=6)),
        Alpha(2.0, Rule(warmup_tokens=3)),
        1.0,
    ]
    limits = [3, 24, 7, 24, 24, 12, 1]
    alphas = [alpha if isinstance(alpha, Alpha) else Alpha(alpha) for alpha in alphas]
    prompts = same(IDS)
    expected = [
        naive(*trio, alpha, prompt, limit)
        for alpha, prompt, limit in zip(alphas, prompts, limits, strict=True)
    ]
    for num_draft_tokens in (0, 3):
        found = run(
            steered(*trio), prompts, 3, limits, alphas=alphas, num_draft_tokens=num_draft_tokens
        )
        assert found == expected
    assert expected[4] != naive(*trio, 1.0, prompts[4])  # the warm-up mattered


def test_several_experts_are_a_weighted_sum(trio):
    base, expert, antiexpert = trio
    others = [(tiny_model(7), tiny_model(8)), (tiny_model(9), antiexpert)]
    weights = [1.0, 0.5, -0.3]
    model = Steered(
        LanguageModel(base, TOKENIZER),
        [
            Steering(TwoModels(LanguageModel(e, TOKENIZER), LanguageModel(a, TOKENIZER)), weight)
            for weight, (e, a) in zip(weights, [(expert, antiexpert), *others], strict=True)
        ],
        Vocabulary(258),
        0.8,
    )

    def logits(ids):
        all_logits = [m(ids).logits[0, -1] for m in (base, expert, antiexpert)]
        all_logits += [m(ids).logits[0, -1] for pair in others for m in pair]
        shifts = [
            w * (e - a) for w, e, a in zip(weights, all_logits[1::2], all_logits[2::2], strict=True)
        ]
        return all_logits[0] + 0.8 * sum(shifts)

    expected = [greedy(logits, ids) for ids in IDS]
    for num_draft_tokens in (0, 4):
        assert run(model, same(IDS), num_draft_tokens=num_draft_tokens) == expected
    assert expected != run(steered(*trio, 0.8), same(IDS))


def test_a_prefill_in_many_forwards_changes_nothing(trio, monkeypatch):
    expected = run(steered(*trio), same(IDS))
    monkeypatch.setattr(language_model, "prefill_chunks", partial(prefill_chunks, num_tokens=5))
    assert run(steered(*trio), same(IDS)) == expected

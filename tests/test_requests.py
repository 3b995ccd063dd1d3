"""Requests that come, go and differ: each has the tokens it has alone."""

import pytest
import torch
from support.models import byte_tokenizer, tiny_model
from support.quick_tier import few
from test_engine import GREEDY, IDS, complete, requests, run, same, steered
from test_pair import adapter, sources  # noqa: F401 (a fixture)
from test_speculative import related_trio
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from decode import Chat, Continuation, LocalCompleter, Request, RolePrompt
from decode.engine.engine import Engine
from decode.engine.rule import Alpha, Rule
from decode.engine.sampling import Sampling, warp
from decode.models import graphs
from decode.models.language_model import LanguageModel
from decode.models.pair import SharedPair, load_pair
from decode.models.prompts import RoleTokenizers
from decode.models.recurrent import RecurrentModel
from decode.models.steered import Steered
from decode.models.vocab import Vocabulary

TOKENIZER = byte_tokenizer()
EOS = frozenset({256})
DRAWN = Sampling(1.2, 40, 0.95, 3)
DRAFTS = pytest.mark.parametrize("num_draft_tokens", few([0, 4, "auto"], 4))
KINDS = pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
# One of each kind, and two that share theirs
MIXED = [
    GREEDY,
    DRAWN,
    Sampling(0.8, min_p=0.2, seed=1),
    Sampling(repetition_penalty=1.7),
    Sampling(1.5, top_k=5, repetition_penalty=1.3, seed=2),
    DRAWN,
    Sampling(1.0, top_p=0.5, seed=9),
]


@pytest.fixture(scope="module")
def model():
    return steered(*related_trio())


def alone(model, asked):
    """Token ids of each request by itself."""
    return [complete(model, [request], 1)[0].token_ids for request in asked]


def drive(engine, until=None):
    """Steps until idle, or so many times: what every request was given."""
    given, done = {}, {}
    while not engine.is_idle and (until is None or until > 0):
        for progress in engine.step():
            given[progress.name] = given.get(progress.name, ()) + progress.token_ids
            if progress.completion is not None:
                done[progress.name] = progress.completion
        until = None if until is None else until - 1
    return given, done


@DRAFTS
@KINDS
def test_a_row_added_in_the_middle_has_its_own_tokens(model, sampling, num_draft_tokens):
    """Longer than anything before it, in more slots than there were: all caches grow."""
    asked = requests(IDS, 24, sampling=sampling)
    late = Request("late", RolePrompt.same([*b"much " * 12, *IDS[1]]), 40, sampling=sampling)
    expected = alone(model, [*asked, late])
    for num_first, num_steps in ((1, 1), (2, 3), (3, 9)):
        model.clear()
        engine = Engine(model, TOKENIZER, 5, num_draft_tokens, EOS)
        for request in asked[:num_first]:
            engine.add(request)
        given, done = drive(engine, num_steps)
        for request in (*asked[num_first:], late):
            engine.add(request)
        more, rest = drive(engine)
        done |= rest
        assert [done[request.name].token_ids for request in (*asked, late)] == expected
        for name, completion in done.items():  # what was streamed is what was completed
            assert given.get(name, ()) + more.get(name, ()) == completion.token_ids


@DRAFTS
@KINDS
def test_a_cancelled_row_leaves_the_others_as_they_are(model, sampling, num_draft_tokens):
    asked = requests(IDS, 24, sampling=sampling)
    expected = alone(model, asked)
    for gone, num_steps in ((0, 2), (2, 4), (6, 1)):  # first slot, last slot, still waiting
        engine = Engine(model, TOKENIZER, 3, num_draft_tokens, EOS)
        for request in asked:
            engine.add(request)
        _, done = drive(engine, num_steps)
        was_there = gone not in done
        assert engine.cancel(gone) is was_there
        assert not engine.cancel(gone)
        done |= drive(engine)[1]
        kept = [number for number in range(len(IDS)) if number != gone or not was_there]
        assert sorted(done) == kept
        assert [done[number].token_ids for number in kept] == [expected[i] for i in kept]


def test_a_name_is_free_again_after_its_request(model):
    engine = Engine(model, TOKENIZER, 2, 0, EOS)
    (request, *_) = requests(IDS)
    engine.add(request)
    with pytest.raises(ValueError, match="request '0' is under way already"):
        engine.add(request)
    first = drive(engine)[1][0]
    engine.add(request)
    assert drive(engine)[1][0] == first
    engine.add(request)
    engine.step()
    assert engine.cancel(0)
    assert engine.is_idle
    assert engine.step() == []
    engine.add(request)
    assert drive(engine)[1][0] == first


@DRAFTS
def test_rows_of_different_settings_go_together(model, num_draft_tokens):
    alphas = [
        None,
        Alpha(0.5),
        Alpha(0.0),
        Alpha(1.0, Rule(warmup_tokens=5)),
        None,
        Alpha(1.5),
        Alpha(0.7),
    ]
    asked = requests(IDS, [24, 9, 17, 24, 30, 24, 5], sampling=MIXED, alphas=alphas)
    expected = alone(model, asked)
    for batch_size in (2, 3, 7):
        found = complete(model, asked, batch_size, num_draft_tokens)
        assert [completion.token_ids for completion in found] == expected
    plain = run(model, same(IDS), 7, 24)
    penalised = complete(model, requests(IDS[3:4], 24, sampling=MIXED[3]), 1)
    assert list(penalised[0].token_ids) != plain[3]  # the penalty mattered


@pytest.mark.parametrize("num_draft_tokens", [0, 4])
def test_a_shared_pair_grows_and_moves_both_its_rows(adapter, num_draft_tokens):  # noqa: F811
    small, folder = adapter()
    pair = load_pair(*sources(small, folder), "cpu")
    assert isinstance(pair, SharedPair)
    model = Steered(LanguageModel(tiny_model(1), TOKENIZER), pair, Vocabulary(258), 0.5)
    asked = requests([*IDS, [*b"x" * 70]], 24)
    expected = alone(model, asked)
    model.clear()
    engine = Engine(model, TOKENIZER, 4, num_draft_tokens, EOS)
    engine.add(asked[0])
    drive(engine, 2)
    for request in asked[1:]:
        engine.add(request)
    drive(engine, 3)
    engine.cancel(1)
    _, done = drive(engine)
    for number, completion in done.items():
        assert completion.token_ids == expected[number]


def test_recorded_forwards_are_recorded_anew_when_a_cache_grows(monkeypatch):
    monkeypatch.setattr(graphs, "SPAN_STEP", 16)
    base = LanguageModel(related_trio()[0], TOKENIZER)
    asked = [*requests(IDS[:1]), *requests([[*b"y" * 90]], 40, names=["long"])]
    expected = alone(base, asked)
    base.clear()
    base.capture = lambda call: call
    engine = Engine(base, TOKENIZER, 4, 0, EOS)
    engine.add(asked[0])
    _, done = drive(engine, 5)
    engine.add(asked[1])
    done |= drive(engine)[1]
    assert [done[request.name].token_ids for request in asked] == expected


def test_a_stateful_row_survives_those_that_come_and_go():
    from test_recurrent import stateful

    model = RecurrentModel(stateful("mamba", 0), TOKENIZER)
    asked = requests(IDS, 12)
    expected = alone(model, asked)
    engine = Engine(model, TOKENIZER, 3, 0, EOS)
    engine.add(asked[0])
    _, done = drive(engine, 3)
    for request in asked[1:]:
        engine.add(request)
    engine.cancel(2)
    done |= drive(engine)[1]
    assert [done[i].token_ids for i in (0, 1, 3, 4, 5, 6)] == [
        expected[i] for i in (0, 1, 3, 4, 5, 6)
    ]


@pytest.mark.parametrize("num_draft_tokens", [0, 3])
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_penalty_and_min_p_are_those_of_transformers(penalty, num_draft_tokens):
    """Greedy tokens of `generate` with a penalty; the distribution of the chain of warpers."""
    base = tiny_model(0)
    model = steered(base, tiny_model(1), tiny_model(2), alpha=0.0)
    sampling = Sampling(repetition_penalty=penalty)
    found = run(model, same(IDS), sampling=sampling, num_draft_tokens=num_draft_tokens)
    for ids, tokens in zip(IDS, found, strict=True):
        theirs = base.generate(
            torch.tensor([ids]),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=257,
            repetition_penalty=penalty,
        )
        assert tokens == theirs[0, len(ids) :].tolist()
    logits = torch.randn(20, 300, generator=torch.Generator().manual_seed(0)) * 3
    chain = LogitsProcessorList(
        [
            TemperatureLogitsWarper(0.7),
            TopKLogitsWarper(40),
            TopPLogitsWarper(0.9),
            MinPLogitsWarper(0.1),
        ]
    )
    expected = chain(torch.zeros(20, 1, dtype=torch.long), logits).softmax(-1)
    ours = warp(logits, Sampling(0.7, 40, 0.9, min_p=0.1)).softmax(-1)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)


def test_a_penalty_counts_prompt_completion_and_drafts():
    from decode.engine.sampling import penalize

    logits = torch.tensor([[[2.0, -2.0, 2.0, -2.0, 2.0, -2.0]] * 3])
    drafts = torch.tensor([[2, 3]])
    found = penalize(logits, 2.0, [[0, 1]], drafts)
    theirs = [
        RepetitionPenaltyLogitsProcessor(2.0)(torch.tensor([ids]), logits[:, place])
        for place, ids in enumerate(([0, 1], [0, 1, 2], [0, 1, 2, 3]))
    ]
    assert torch.equal(found, torch.stack(theirs, 1))
    at_one = penalize(logits[:, :1], 2.0, [[0, 1]], drafts)  # as a third draft is chosen
    assert torch.equal(at_one[:, 0], theirs[2])


def test_scores_are_the_log_probabilities_of_the_whole_sequence():
    base, expert, antiexpert = related_trio()
    model = steered(base, expert, antiexpert, alpha=0.7)
    tokenizers = RoleTokenizers.alone(TOKENIZER)
    completer = LocalCompleter(model, tokenizers, batch_size=3)
    given = [
        Continuation(name, prompt, ids, alpha, num_likeliest=2)
        for name, (prompt, ids, alpha) in enumerate(
            [
                (RolePrompt(IDS[1], [*b"chat ", *IDS[1]], IDS[1]), list(b"abc"), None),
                (IDS[2], list(b"a longer continuation"), Alpha(1.0, Rule(warmup_tokens=6))),
                ("text", [65], Alpha(0.0)),
                (IDS[4], list(b"xyzxyz"), None),
            ]
        )
    ]
    found = {scored.name: scored for scored in completer.score(given)}
    for continuation in given:
        prompt = tokenizers.encode(continuation.prompt)
        ids = list(continuation.token_ids)
        said = {}
        with torch.inference_mode():
            for role, one in (("base", base), ("expert", expert), ("antiexpert", antiexpert)):
                own = list(getattr(prompt, role))
                logits = one(torch.tensor([[*own, *ids]])).logits[0].float()
                said[role] = logits[len(own) - 1 : -1]
        alpha = continuation.alpha or Alpha(0.7)
        scale = torch.tensor([[alpha.at(place)] for place in range(len(ids))])
        proxy = said["base"] + scale * (said["expert"] - said["antiexpert"])
        scored = found[continuation.name]
        assert set(scored.by_role) == set(said)
        for logits, values, likeliest in (
            (proxy, scored.logprobs, scored.likeliest),
            *((said[r], scored.by_role[r], scored.likeliest_by_role[r]) for r in said),
        ):
            logprobs = logits.log_softmax(-1)
            expected = logprobs[range(len(ids)), ids]
            torch.testing.assert_close(torch.tensor(values), expected, rtol=1e-4, atol=1e-4)
            top = torch.tensor([[value for _, value in place] for place in likeliest])
            torch.testing.assert_close(top, logprobs.topk(2).values, rtol=1e-4, atol=1e-4)
        assert list(scored.is_greedy) == (proxy.argmax(-1) == torch.tensor(ids)).tolist()


def test_nothing_after_the_last_token_is_read(monkeypatch):
    model = LanguageModel(tiny_model(0, "gpt2", n_positions=16), TOKENIZER)
    completer = LocalCompleter(model, RoleTokenizers.alone(TOKENIZER))
    ids = list(b"abc0123456789abcd")  # one more than there are positions
    (whole,) = completer.score([Continuation(0, ids[:3], ids[3:])])
    monkeypatch.setattr(model, "read", None)
    for place in (0, 1):
        end = 3 + place
        (one,) = completer.score([Continuation(0, ids[:end], ids[end : end + 1])])
        assert one.logprobs[0] == pytest.approx(whole.logprobs[place], abs=1e-5)


def test_what_was_completed_is_scored_as_greedy_by_a_model_alone():
    model = LanguageModel(related_trio()[0], TOKENIZER)
    completer = LocalCompleter(model, RoleTokenizers.alone(TOKENIZER), batch_size=3)
    done = list(completer.complete(Request(n, ids, 12) for n, ids in enumerate(IDS)))
    given = [Continuation(c.name, IDS[int(c.name)], c.token_ids) for c in done]
    for scored in completer.score(given):
        assert all(scored.is_greedy)
        assert scored.by_role == scored.likeliest_by_role == {}
    assert completer.taken()["num_rows"] == len(IDS)


def test_requests_are_encoded_and_named_once(caplog):
    model = LanguageModel(related_trio()[0], TOKENIZER)
    completer = LocalCompleter(model, RoleTokenizers.alone(TOKENIZER))
    with pytest.raises(ValueError, match="two requests have the name 'a'"):
        list(completer.complete([Request("a", "x", 1), Request("a", "y", 1)]))
    with pytest.raises(ValueError, match="no chat template"):
        list(completer.complete([Request("a", Chat("x"), 1)]))
    with pytest.raises(ValueError, match="max_new_tokens must be 1 or more"):
        Request("a", "x", 0)
    with pytest.raises(ValueError, match="min_p must be"):
        Sampling(min_p=1.5)
    with pytest.raises(ValueError, match="repetition_penalty must be"):
        Sampling(repetition_penalty=0.0)


def test_text_names_seed_draws_of_their_own(model):
    sampling = Sampling(1.5, seed=1)
    asked = requests([IDS[1]] * 3, sampling=sampling, names=["a", "b", 0])
    found = [completion.token_ids for completion in complete(model, asked, 3)]
    assert len(set(found)) == 3
    assert alone(model, asked) == found

"""Law 4: whatever is drafted, the tokens are plain decoding's, with the target's distribution."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from support.models import ARCHITECTURES, byte_tokenizer, tiny_model
from support.quick_tier import few
from test_engine import IDS, complete, requests, run, same, steered
from test_pair import adapter, sources  # noqa: F401 (a fixture)
from test_sampling import places

from decode.engine import engine
from decode.engine.logits import proxy_logits
from decode.engine.request import RolePrompt
from decode.engine.sampling import Sampling, choose, warp
from decode.engine.speculative import expected_tokens, num_accepted
from decode.engine.stats import DecodingStats
from decode.models.language_model import LanguageModel
from decode.models.pair import SharedPair, load_pair
from decode.models.steered import Steered
from decode.models.vocab import Vocabulary

TOKENIZER = byte_tokenizer()
GREEDY = Sampling()
DRAWN = Sampling(1.2, 40, 0.95, 3)


def related_trio(architecture: str = "llama"):
    """Three models that agree often but not always: some drafts stand and some fall."""
    base, expert, antiexpert = (tiny_model(0, architecture) for _ in range(3))
    with torch.no_grad():
        for seed, model in enumerate((expert, antiexpert)):
            torch.manual_seed(seed)
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return base, expert, antiexpert


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("num_draft_tokens", few([1, 2, 3, 4, 5, 6, 7, 8, "auto"], 4, "auto"))
def test_drafts_change_no_token(num_draft_tokens, sampling):
    """k in 0..8, batches of 1..7, ragged prompts and limits, stops inside drafts."""
    model = steered(*related_trio())
    limits = [24, 5, 17, 24, 1, 30, 9]
    free = run(model, same(IDS), 7, limits, sampling=sampling)
    stops = [TOKENIZER.decode(free[0][8:10]), TOKENIZER.decode(free[5][3:5])]
    plain = run(model, same(IDS), 7, limits, stops, sampling)
    assert plain != free  # the stops do stop something
    stats = DecodingStats()
    for batch_size in range(1, 8):
        found = run(
            model,
            same(IDS),
            batch_size,
            limits,
            stops,
            sampling,
            num_draft_tokens=num_draft_tokens,
            stats=stats,
        )
        assert found == plain
    assert 0 < stats.summary()["acceptance_rate"] < 1


@pytest.mark.parametrize("architecture", few(ARCHITECTURES, "gpt2"))
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_drafts_change_no_token_in_any_architecture(architecture, sampling):
    """Sliding windows included: keys stay where they are, so a row can always be rolled back."""
    model = steered(*related_trio(architecture))
    plain = run(model, same(IDS), limit=40, sampling=sampling)
    assert run(model, same(IDS), 3, limit=40, sampling=sampling, num_draft_tokens=4) == plain


@pytest.mark.long
@pytest.mark.parametrize("num_draft_tokens", [1, 4, 8])
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_drafts_of_a_lora_expert_change_no_token(adapter, num_draft_tokens, sampling):  # noqa: F811
    small, folder = adapter()
    pair = load_pair(*sources(small, folder), "cpu")
    assert isinstance(pair, SharedPair)
    model = Steered(LanguageModel(tiny_model(1), TOKENIZER), pair, Vocabulary(258), 0.5)
    prompts = [RolePrompt(ids, [*b"chat: ", *ids], ids) for ids in IDS]
    plain = run(model, prompts, sampling=sampling)
    stats = DecodingStats()
    for batch_size in (1, 3, 7):
        found = run(
            model,
            prompts,
            batch_size,
            sampling=sampling,
            num_draft_tokens=num_draft_tokens,
            stats=stats,
        )
        assert found == plain
    assert stats.summary()["acceptance_rate"] > 0


def test_drafts_to_the_very_end_of_learned_positions():
    """A completion may end at a model's last position; drafts beyond it must not be read there."""
    model = steered(*(tiny_model(seed, "gpt2") for seed in range(3)))
    prompt = [65 + i % 26 for i in range(512 - 12)]
    plain = run(model, same([prompt, [65]]), 2, limit=12)
    assert run(model, same([prompt, [65]]), 2, limit=12, num_draft_tokens=8) == plain


def test_banned_ids_are_neither_drafted_nor_emitted():
    model = steered(*related_trio())
    banned = list(range(0, 256, 2))
    plain = run(model, same(IDS), banned_ids=banned, sampling=DRAWN)
    found = run(model, same(IDS), banned_ids=banned, sampling=DRAWN, num_draft_tokens=4)
    assert found == plain
    assert not {token for row in found for token in row} & set(banned)


def test_standing_drafts_are_those_before_the_first_wrong_one():
    drafts = torch.tensor([[1, 2, 3], [1, 9, 3], [9, 2, 3], [1, 2, 9]])
    targets = torch.tensor([[1, 2, 3, 4]] * 4)
    assert num_accepted(drafts, targets).tolist() == [3, 1, 0, 2]
    assert num_accepted(drafts[:, :0], targets[:, :1]).tolist() == [0, 0, 0, 0]


def test_expected_tokens_counts_the_one_that_is_always_emitted():
    assert expected_tokens(0.0, 5) == 1
    assert expected_tokens(1.0, 5) == 6
    assert expected_tokens(0.5, 2) == pytest.approx(1 + 0.5 + 0.25)


class Toy:
    """Three models whose next logits depend on the newest token only: rows of three tables.

    Shapes: V tokens; a table is (V, V), its row the newest token.
    """

    can_draft = True
    device = torch.device("cpu")
    eos_ids = frozenset({3})

    def __init__(self, num_tokens: int, alpha: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.expert, base, antiexpert = (
            0.8 * torch.randn(num_tokens, num_tokens, generator=generator) for _ in range(3)
        )
        self.target = proxy_logits(base, self.expert, antiexpert, alpha)

    def reserve(self, rows, num_slots, num_kept):
        pass

    def prefill(self, rows, slots):
        return self.target[torch.tensor([row.prompt.base[-1] for row in rows])]

    def draft(self, rows, num_tokens, pick):
        tokens = newest(rows)
        for _ in range(num_tokens):
            following = pick(self.expert[tokens[:, -1]], tokens[:, 1:])
            tokens = torch.cat((tokens, following[:, None]), 1)
        return tokens[:, 1:]

    def read(self, rows, drafts):
        return self.target[torch.cat((newest(rows), drafts), 1)]

    def move(self, source, target):
        pass


def newest(rows):
    return torch.tensor([row.token_ids[-1:] for row in rows])


EOS = 3
START = 0
NUM_DRAWS = 20_000
CASES = [
    (num_drafts, alpha, sampling)
    for num_drafts, alpha in ((1, 1.0), (2, 0.5), (4, 1.0), (4, 1.7))
    for sampling in (Sampling(1.0, seed=1), Sampling(0.7, None, 0.9, 1), Sampling(1.5, 4, seed=1))
]


def joint(toy: Toy, sampling: Sampling) -> dict[tuple[int, ...], float]:
    """The enumerated distribution of the first two tokens; a row that ends has one."""
    probs = warp(toy.target, sampling).softmax(-1).double()
    found = {}
    for first, second in product(range(len(probs)), repeat=2):
        if first == EOS:
            found[(first,)] = float(probs[START, first])
        else:
            found[first, second] = float(probs[START, first] * probs[first, second])
    return found


def distance(toy: Toy, num_drafts: int, sampling: Sampling, num_draws: int) -> tuple[float, float]:
    """Total variation of what the engine emits from the enumerated target, over its noise.

    Returns the larger excess over the expected distance, in standard errors, of the first token
    and of the joint first two (infinite if a token came that cannot); and the share of drafts that
    stood.
    """
    stats = DecodingStats()
    asked = requests([[START]] * num_draws, 5, sampling=sampling)
    done = complete(toy, asked, 2_000, num_drafts, stats, toy.eos_ids)
    rows = [completion.token_ids for completion in done]
    target = joint(toy, sampling)
    excesses = []
    for length in (1, 2):
        expected: Counter[tuple[int, ...]] = Counter()
        for tokens, prob in target.items():
            expected[tokens[:length]] += prob
        found = Counter(row[:length] for row in rows)
        if not set(found) <= {tokens for tokens, prob in expected.items() if prob > 0}:
            return math.inf, stats.summary()["acceptance_rate"]
        probs = torch.tensor(list(expected.values()), dtype=torch.double)
        counts = torch.tensor([found[tokens] for tokens in expected], dtype=torch.double)
        total_variation = (counts / num_draws - probs).abs().sum() / 2
        # What the target's own draws are away from it: their mean and standard deviation
        own = np.random.default_rng(0).multinomial(num_draws, probs / probs.sum(), size=2_000)
        noise = np.abs(own / num_draws - probs.numpy()).sum(-1) / 2
        if noise.std() > 0:  # else one outcome is certain, and it is what was found
            excesses.append(float((total_variation - noise.mean()) / noise.std()))
    return max(excesses), stats.summary()["acceptance_rate"]


@pytest.mark.parametrize("case", few(CASES, CASES[1], CASES[11]))
def test_the_emitted_tokens_have_the_target_distribution(case):
    """Within 3 standard errors of the noise of 20,000 rows, in batches, with ends inside drafts."""
    num_drafts, alpha, sampling = case
    toy = Toy(6, alpha, seed=num_drafts)
    excess, acceptance = distance(toy, num_drafts, sampling, NUM_DRAWS)
    assert excess < 3
    assert 0.02 < acceptance < 0.98  # both verdicts occur


def standing_if_likely(draft_tokens, target_tokens):
    """A broken rule: a draft that is one token off still stands."""
    is_right = (draft_tokens - target_tokens[:, :-1]).abs() <= 1
    return is_right.long().cumprod(-1).sum(-1)


def standing_always(draft_tokens, target_tokens):
    """A broken rule: every draft stands."""
    return torch.full((len(draft_tokens),), draft_tokens.shape[1])


@pytest.mark.long
@pytest.mark.parametrize("broken", [standing_always, standing_if_likely])
def test_a_broken_rule_fails_the_same_test(monkeypatch, broken):
    def emit_drafts(draft_tokens, target_tokens):
        standing = broken(draft_tokens, target_tokens)
        for row, count in enumerate(standing.tolist()):
            target_tokens[row, :count] = draft_tokens[row, :count]
        return standing

    monkeypatch.setattr(engine, "num_accepted", emit_drafts)
    num_drafts, alpha, sampling = CASES[0]  # one draft, from the models as they are
    excess, _ = distance(Toy(6, alpha, seed=num_drafts), num_drafts, sampling, NUM_DRAWS)
    assert excess > 10


@pytest.mark.long
def test_real_models_have_the_target_distribution():
    """3,000 rows of real forwards; the first two tokens of 4 x 4 likely ones."""
    sampling = Sampling(2.0, top_k=4, seed=11)
    base, expert, antiexpert = related_trio()
    prompt = IDS[2]
    with torch.inference_mode():

        def target(completion):
            ids = torch.tensor([[*prompt, *completion]])
            b, e, a = (model(ids).logits[:, -1] for model in (base, expert, antiexpert))
            return warp(b + e - a, sampling).softmax(-1)[0].double()

        first = target([])
        expected = {
            (i, j): float(first[i] * target([i])[j])
            for i in first.nonzero()[:, 0].tolist()
            for j in target([i]).nonzero()[:, 0].tolist()
        }
    rows = run(
        steered(base, expert, antiexpert),
        same([prompt] * 3_000),
        500,
        limit=4,
        sampling=sampling,
        num_draft_tokens=3,
    )
    found = Counter(tuple(row[:2]) for row in rows)
    assert set(found) <= set(expected)
    assert len(expected) == 16
    chi_square = sum((found[t] - p * 3_000) ** 2 / (p * 3_000) for t, p in expected.items())
    assert chi_square < 37.7  # 15 degrees of freedom, p = 0.001


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_agree_about_as_often_as_any_rule_could(temperature):
    """Daliri et al. 2024: at least (1 - d) / (1 + d); rejection sampling would reach 1 - d."""
    generator = torch.Generator().manual_seed(0)
    draft = 3 * torch.randn(40, 1, 200, generator=generator)
    target = draft + 0.7 * torch.randn(40, 1, 200, generator=generator)
    sampling = Sampling(temperature)
    at = places(40, 2_000)
    same_token = [
        choose(draft.expand(-1, 100, -1), sampling, part)
        == choose(target.expand(-1, 100, -1), sampling, part)
        for part in (type(at)(at.keys, positions) for positions in at.positions.split(100, dim=1))
    ]
    agreement = torch.cat(same_token, 1).double().mean(1)  # (40,)
    probs = (warp(logits, sampling).softmax(-1)[:, 0] for logits in (draft, target))
    total_variation = (next(probs) - next(probs)).abs().sum(-1) / 2
    lower = (1 - total_variation) / (1 + total_variation)
    noise = 4 * (0.25 / 2_000) ** 0.5
    assert (agreement > lower - noise).all()
    assert (agreement < 1 - total_variation + noise).all()
    assert agreement.mean() > 0.93 * (1 - total_variation).mean()

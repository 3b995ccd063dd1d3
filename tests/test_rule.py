"""Rules: their equations, what they may never do, and laws 1 to 4 under each of them."""

import math
from itertools import product

import pytest
import torch
from support.models import byte_tokenizer
from test_engine import IDS, run, same, steered
from test_speculative import related_trio

from decode.backends.completer import Continuation
from decode.backends.local import forced_rows
from decode.engine.rule import PAPER, Alpha, Rule, steered_logits
from decode.engine.sampling import Sampling
from decode.models.forced import forced_logits

INF = float("inf")
RULES = [
    Rule("expert", 0.1),
    Rule("base_or_expert", 0.3),
    Rule(warmup_tokens=5),
    Rule(half_life_tokens=4),
    Rule(sure_base=0.05),
    Rule(by_doubt=True),
    Rule(antiexpert=False),
    Rule("base_or_expert", 0.05, 3, 8, 0.5, True, False),
]
BY_NAME = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


def logits(seed: int, shape=(6, 40)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


def written_out(base, expert, antiexpert, alpha: float, rule: Rule) -> list[float]:
    """One place's logits, token by token in plain floats, from the equations."""

    def probs(values):
        total = sum(math.exp(v) for v in values)
        return [math.exp(v) / total for v in values]

    p, q = probs(base), probs(expert)
    if rule.sure_base is not None and max(p) >= rule.sure_base:
        alpha = 0.0
    if rule.by_doubt:
        alpha *= 1 - max(p)
    if alpha == 0:
        return list(base)
    found = []
    for token, value in enumerate(base):
        shift = expert[token] - antiexpert[token]
        if not rule.antiexpert:
            shift = math.log(q[token]) + math.log(len(base))
        by_base = p[token] >= rule.plausible_share * max(p)
        by_expert = q[token] >= rule.plausible_share * max(q)
        is_kept = {None: True, "expert": by_expert, "base_or_expert": by_base or by_expert}
        found.append(value + alpha * shift if is_kept[rule.plausible_to] else -INF)
    return found


@BY_NAME
@pytest.mark.parametrize("alpha", [0.5, 1.0, -0.7])
def test_is_the_equation(rule, alpha):
    base, expert, antiexpert = map(logits, range(3))
    found = steered_logits(base, [(expert, antiexpert, 1.0)], alpha, rule)
    for place in range(len(base)):
        trio = (one[place].double().tolist() for one in (base, expert, antiexpert))
        expected = torch.tensor(written_out(*trio, alpha, rule))
        torch.testing.assert_close(found[place], expected, rtol=1e-4, atol=1e-4)


def test_every_rule_of_the_tests_does_something():
    base, expert, antiexpert = map(logits, range(3))
    plain = steered_logits(base, [(expert, antiexpert, 1.0)], 1.0)
    for rule in RULES:
        ruled = steered_logits(base, [(expert, antiexpert, 1.0)], 1.0, rule)
        assert torch.equal(ruled, plain) == (
            rule.name in ("warmup5", "half4")
        )  # Alpha.at does these
    assert len({rule.name for rule in RULES}) == len(RULES)


@BY_NAME
def test_alpha_zero_is_the_base_exactly(rule):
    base, expert, antiexpert = map(logits, range(3))
    small = [(expert, antiexpert, 1.0)]
    assert torch.equal(steered_logits(base, small, 0.0, rule), base)
    alphas = torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0, -1.0])[:, None]
    mixed = steered_logits(base, small, alphas, rule)
    assert torch.equal(mixed[::2], base[::2])
    for place in (1, 3, 5):
        alone = [(expert[place], antiexpert[place], 1.0)]
        expected = steered_logits(base[place], alone, float(alphas[place]), rule)
        torch.testing.assert_close(mixed[place], expected)


@pytest.mark.parametrize("plausible_to", ["expert", "base_or_expert"])
@pytest.mark.parametrize("share", [1e-6, 0.1, 1.0])
def test_a_rule_always_leaves_a_token(plausible_to, share):
    """Whatever base, expert and anti-expert rule out: as long as the formula leaves one."""
    values = torch.tensor([0.0, 2.0, -INF])
    said = torch.cartesian_prod(*[values] * 9)  # every base, expert and anti-expert of 3 tokens
    base, expert, antiexpert = said[:, :3], said[:, 3:6], said[:, 6:]
    plain = steered_logits(base, [(expert, antiexpert, 1.0)], 1.0)
    ruled = steered_logits(base, [(expert, antiexpert, 1.0)], 1.0, Rule(plausible_to, share))
    assert not ruled.isnan().any()
    assert torch.equal(ruled.amax(-1) > -INF, plain.amax(-1) > -INF)
    assert ((ruled == plain) | (ruled == -INF)).all()
    rules_out = share == 1 or plausible_to == "expert"  # what the base has is .14 of its best
    assert torch.equal(ruled, plain) != rules_out


def test_tokens_that_are_not_shared_are_plausible_to_the_base_alone():
    base = torch.tensor([0.0, 0.0, 0.0, -9.0])
    expert, antiexpert = torch.tensor([-9.0, 0.0, -9.0, 9.0]), torch.zeros(4)
    shared = torch.tensor([True, True, True, False])  # to the expert the last is another token
    small = [(expert, antiexpert, 1.0)]
    only = steered_logits(base, small, 1.0, Rule("expert", 0.5), shared)
    assert only.isfinite().tolist() == [False, True, False, False]
    either = steered_logits(base, small, 1.0, Rule("base_or_expert", 0.5), shared)
    assert either.isfinite().tolist() == [True, True, True, False]


def test_what_is_plausible_to_any_expert_may_be_chosen():
    base, antiexpert = torch.zeros(4), torch.zeros(4)
    one, other = torch.tensor([5.0, 0, 0, 0]), torch.tensor([0, 5.0, 0, 0])
    small = [(one, antiexpert, 1.0), (other, antiexpert, 0.5)]
    found = steered_logits(base, small, 1.0, Rule("expert", 0.5))
    assert found.isfinite().tolist() == [True, True, False, False]


def test_nan_is_not_hidden():
    base, expert, antiexpert = map(logits, range(3))
    for trio in product((False, True), repeat=3):
        if any(trio):
            made = [one.clone() for one in (base, expert, antiexpert)]
            for one, is_broken in zip(made, trio, strict=True):
                one[2, 5] = math.nan if is_broken else one[2, 5]
            for rule in (rule for rule in RULES if rule.sure_base is None):
                found = steered_logits(made[0], [(made[1], made[2], 1.0)], 1.0, rule)
                if rule.antiexpert or trio[0] or trio[1]:
                    assert found[2].isnan().any() or not found[2].isfinite().any()


def test_strength_by_place():
    slow = Alpha(2.0, Rule(warmup_tokens=4))
    assert [slow.at(place) for place in (0, 1, 3, 4, 9)] == [0.0, 0.5, 1.5, 2.0, 2.0]
    fading = Alpha(2.0, Rule(half_life_tokens=4))
    assert [fading.at(place) for place in (0, 4, 8)] == [2.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"plausible_to": "base"}, "plausible_to must be expert, base_or_expert or None"),
        ({"plausible_share": 0.0}, "plausible_share must be above 0 and at most 1, found 0.0"),
        ({"plausible_share": math.nan}, "plausible_share"),
        ({"warmup_tokens": -1}, "warmup_tokens must be 0 or more"),
        ({"half_life_tokens": 0}, "half_life_tokens must be above 0"),
        ({"sure_base": 1.5}, "sure_base must be above 0 and at most 1"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(fields, problem):
    with pytest.raises(ValueError, match=problem):
        Rule(**fields)


@pytest.fixture(scope="module")
def trio():
    return related_trio()


@torch.inference_mode()
def naive(trio, alpha: Alpha, ids: list[int], limit: int) -> list[int]:
    """Greedy decoding without caches, from the equations written out."""
    completion: list[int] = []
    while len(completion) < limit and (not completion or completion[-1] != 256):
        said = [
            model(torch.tensor([[*ids, *completion]])).logits[0, -1, :258].double().tolist()
            for model in trio
        ]
        values = written_out(*said, alpha.at(len(completion)), alpha.rule)
        completion.append(max(range(len(values)), key=values.__getitem__))
    return completion


@BY_NAME
def test_decoding_is_the_cache_free_loop_with_and_without_drafts(trio, rule):
    alpha = Alpha(1.0, rule)
    expected = [naive(trio, alpha, ids, 12) for ids in IDS[:4]]
    for num_draft_tokens, batch_size in ((0, 4), (3, 2)):
        found = run(
            steered(*trio, alpha),
            same(IDS[:4]),
            batch_size,
            12,
            num_draft_tokens=num_draft_tokens,
        )
        assert found == expected


@BY_NAME
def test_drawn_drafts_change_no_token(trio, rule):
    model, drawn = steered(*trio, Alpha(1.0, rule)), Sampling(1.2, 40, 0.95, 3)
    plain = run(model, same(IDS), 7, sampling=drawn)
    assert run(model, same(IDS), 3, sampling=drawn, num_draft_tokens=4) == plain


def test_rows_of_all_rules_go_together(trio):
    """A row's tokens are the same alone, whatever rules its neighbours have; bans included."""
    alphas = [Alpha(1.0, rule) for rule in [*RULES[:6], PAPER]]
    alone = [
        run(steered(*trio), same([ids]), 1, alphas=[alpha])[0]
        for ids, alpha in zip(IDS, alphas, strict=True)
    ]
    for num_draft_tokens in (0, 4):
        found = run(steered(*trio), same(IDS), 7, alphas=alphas, num_draft_tokens=num_draft_tokens)
        assert found == alone
    assert len({tuple(row) for row in alone}) == len(alone)


def test_a_ban_never_leaves_nothing(trio):
    """With a share of 1 the expert's favourite alone is left; banned, the next one is."""
    rule = Alpha(1.0, Rule("expert", 1.0))
    free = run(steered(*trio, rule), same(IDS))
    banned = sorted({row[0] for row in free})
    found = run(steered(*trio, rule), same(IDS), banned_ids=banned, num_draft_tokens=2)
    assert not {token for row in found for token in row} & set(banned)
    assert all(found)


def test_draws_have_the_ruled_distribution():
    """Law 4: the chi-square of 4,000 drafted draws against the ruled distribution."""
    tokenizer = byte_tokenizer()
    trio = related_trio()
    rule = Alpha(1.0, Rule("base_or_expert", 1e-4, by_doubt=True))
    model = steered(*trio, rule)
    (row,) = forced_rows([Continuation(0, same(IDS[:1])[0], [])])
    with torch.inference_mode():
        ((_, first),) = list(forced_logits(model, [row], [[]], len(tokenizer)))
    expected = (first[0, 0] / 3).softmax(-1)
    num_draws = 4_000
    found = run(
        model,
        same(IDS[:1] * num_draws),
        200,
        1,
        sampling=Sampling(3.0, seed=5),
        num_draft_tokens=2,
    )
    counts = torch.zeros(len(expected))
    for token in found:
        counts[token[0]] += 1
    wanted = expected * num_draws
    is_rare = wanted < 5
    assert counts[expected == 0].sum() == 0
    pairs = [(counts[~is_rare], wanted[~is_rare])]
    statistic = sum(((c - w) ** 2 / w).sum() for c, w in pairs)
    num_free = int((~is_rare).sum())
    assert statistic < num_free + 4 * math.sqrt(2 * num_free)  # 4 standard deviations
    assert num_free > 3
    assert (expected == 0).sum() > 100  # the rule does rule out

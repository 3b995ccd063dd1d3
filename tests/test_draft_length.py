"""How many drafts `auto` makes, in a simulation where the cost and the acceptance are known."""

import random

import pytest

from decode.engine.draft_length import CHOICES, DraftLength
from decode.engine.speculative import expected_tokens


def decode(
    choice,
    acceptance: float,
    draft_cost: float,
    verify_cost: float,
    num_tokens: int,
    ends=0.0,
    slow_starts=False,
) -> tuple[float, list[int]]:
    """Seconds that so many tokens took, and the drafts of each round.

    A plain round takes one second; a draft adds `draft_cost`, and `verify_cost` to the reading.
    """
    draws = random.Random(0)
    seconds, emitted, chosen = 0.0, 0, []
    while emitted < num_tokens:
        k = choice.next(1)
        chosen.append(k)
        right = 0
        while right < k and draws.random() < acceptance:
            right += 1
        tokens = right + 1
        kept = next((i for i in range(1, tokens + 1) if draws.random() < ends), tokens)
        took = (1 + k * (draft_cost + verify_cost)) * draws.uniform(0.95, 1.05)
        if slow_starts and (k not in chosen[:-1] or draws.random() < 0.02):
            took *= 30  # as when a graph is recorded
        choice.time(1, k, took)
        choice.learn(k, min(kept, right), kept, kept < tokens)
        seconds += took
        emitted += kept
    return seconds, chosen


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("draft_cost", [0.02, 0.1, 0.4, 1.0])
@pytest.mark.parametrize("verify_cost", [0.0, 0.1])
@pytest.mark.parametrize("ends", [0.0, 0.3])
def test_auto_is_near_the_best_number_and_never_much_slower_than_none(
    acceptance, draft_cost, verify_cost, ends
):
    costs = (acceptance, draft_cost, verify_cost, 400, ends)
    seconds = {k: decode(DraftLength(k), *costs)[0] for k in CHOICES}
    auto, _ = decode(DraftLength("auto"), *costs)
    assert auto <= 1.05 * seconds[0]
    assert auto <= 1.15 * min(seconds.values())


def test_auto_drafts_much_where_it_pays_and_not_at_all_where_it_does_not():
    _, cheap = decode(DraftLength("auto"), 0.95, 0.02, 0.0, 400)
    assert cheap.count(8) > 0.7 * len(cheap)
    _, dear = decode(DraftLength("auto"), 0.3, 1.0, 0.1, 400)
    assert dear.count(0) > 0.95 * len(dear)


def test_auto_is_not_put_off_by_slow_starts_and_hiccups():
    _, cheap = decode(DraftLength("auto"), 0.9, 0.05, 0.0, 1_000, slow_starts=True)
    assert sum(k >= 4 for k in cheap) > 0.8 * len(cheap)


def test_a_number_is_a_number():
    assert set(decode(DraftLength(3), 0.5, 0.1, 0.0, 100)[1]) == {3}
    assert set(decode(DraftLength(0), 0.5, 0.1, 0.0, 100)[1]) == {0}


def test_auto_measures_again_when_the_number_of_rows_changes_a_lot():
    choice = DraftLength("auto")
    for num_rows, seconds_of_drafts in ((16, 5.0), (1, 1.1)):
        for _ in range(30):
            k = choice.next(num_rows)
            choice.time(num_rows, k, seconds_of_drafts if k else 1.0)
            choice.learn(k, min(k, 2), min(k, 2) + 1, False)
        assert (choice.next(num_rows) > 0) == (seconds_of_drafts < expected_tokens(0.7, 3))


def test_rounds_without_room_for_drafts_say_nothing_and_break_nothing():
    choice = DraftLength("auto")
    for _ in range(20):
        choice.next(1)
        choice.time(1, 0, 1.0)  # a row's last token: the engine cut the drafts to none
        choice.learn(0, 0, 1, True)
    assert choice.next(1) in CHOICES

"""The watch over graphs and lanes: wrong reads are found, and their rows decoded again."""

import pytest
import torch
from support.models import byte_tokenizer
from test_engine import IDS, run, same, steered
from test_graphs import static
from test_speculative import DRAWN, GREEDY, related_trio

from decode.backends.local import LocalCompleter
from decode.engine.request import Request, RolePrompt
from decode.models import guard
from decode.models.fast_path import fast_path
from decode.models.prompts import RoleTokenizers

TOKENIZERS = RoleTokenizers.alone(byte_tokenizer())


@pytest.fixture(autouse=True)
def _fast_path():
    yield
    fast_path.is_on = True


def wrong_after(num_replays, counts):
    """A capture that is right when it is made, and gives other tokens' logits in the end."""

    def capture(call):
        is_new = True

        def replay():
            nonlocal is_new
            was_new, is_new = is_new, False
            counts["replays"] += not was_new
            counts["wrong"] += (is_wrong := not was_new and counts["replays"] > num_replays)
            return call().roll(1, -1) if is_wrong else call()

        return replay

    return capture


def complete(model, sampling, num_draft_tokens):
    requests = [Request(n, RolePrompt.same(ids), 6, sampling=sampling) for n, ids in enumerate(IDS)]
    completer = LocalCompleter(model, TOKENIZERS, 3, num_draft_tokens)
    done = {c.name: c.token_ids for c in completer.complete(requests)}
    assert len(done) == completer.taken()["num_rows"] == len(IDS)
    return [done[n] for n in range(len(IDS))]


@pytest.mark.parametrize("num_replays", [0, 20, 10_000])
@pytest.mark.parametrize(("sampling", "num_drafts"), [(GREEDY, 0), (GREEDY, 2), (DRAWN, 2)])
def test_wrong_reads_are_found_and_their_rows_decoded_again(
    num_replays, sampling, num_drafts, monkeypatch, caplog
):
    monkeypatch.setattr(guard, "EVERY", 5)
    trio, counts = related_trio(), {"replays": 0, "wrong": 0}
    expected = complete(steered(*trio), sampling, 0)
    model = static(steered(*trio), wrong_after(num_replays, counts))
    assert complete(model, sampling, num_drafts) == expected
    assert fast_path.is_on == (not counts["wrong"])
    assert (num_replays < 10_000) == (counts["wrong"] > 0)
    assert ("are decoded again" in caplog.text) == (not fast_path.is_on)
    assert complete(model, sampling, num_drafts) == expected


@pytest.mark.parametrize(("every", "num_right"), [(4, 4), (5, 9)])
def test_a_read_that_was_recorded_anew_proves_nothing(every, num_right, monkeypatch):
    monkeypatch.setattr(guard, "EVERY", every)
    monkeypatch.setattr(guard, "NUM_FIRST", 0)
    trio, counts = related_trio(), {"replays": 0, "wrong": 0}
    requests = [
        Request(n, RolePrompt.same(IDS[n % len(IDS)]), 4 + 5 * n % 11) for n in range(4 * len(IDS))
    ]

    def tokens(model, num_drafts):
        done = LocalCompleter(model, TOKENIZERS, 16, num_drafts).complete(requests)
        return {one.name: one.token_ids for one in done}

    expected = tokens(steered(*trio), 0)
    model = static(steered(*trio), lambda call: call)
    model.base.capture = wrong_after(num_right, counts)
    assert tokens(model, 2) == expected
    assert counts["wrong"]


def test_a_fault_in_the_last_reads_is_found_before_rows_are_given(monkeypatch):
    monkeypatch.setattr(guard, "EVERY", 10_000)
    trio, counts = related_trio(), {"replays": 0, "wrong": 0}
    expected = complete(steered(*trio), GREEDY, 0)
    model = static(steered(*trio), wrong_after(20, counts))
    assert complete(model, GREEDY, 0) == expected
    assert counts["wrong"]
    assert not fast_path.is_on


def test_few_reads_are_checked_and_none_where_nothing_is_recorded(monkeypatch):
    trio = related_trio()
    for model, num_checks in ((steered(*trio), 0), (static(steered(*trio), lambda call: call), 4)):
        guarded, checks = guard.Guarded(model), []
        monkeypatch.setattr(guarded, "check", lambda checks=checks: checks.append(1))
        run(guarded, same(IDS), 3)
        reads = guarded._num_reads
        monkeypatch.setattr(guard, "EVERY", max(reads - 1, 5))
        guarded = guard.Guarded(model)
        monkeypatch.setattr(guarded, "check", lambda checks=checks: checks.append(1))
        checks.clear()
        run(guarded, same(IDS), 3)
        assert len(checks) == num_checks


def test_nan_is_no_difference_and_one_nan_is():
    model = steered(*related_trio())
    model.base.capture = lambda call: call
    guarded = guard.Guarded(model)
    logits = torch.tensor([[[float("nan"), 1.0, float("-inf")]]])
    for other, is_wrong in ((logits.clone(), False), (torch.tensor([[[0.0, 1.0, 0.0]]]), True)):
        guarded._last = [], [], torch.empty(1, 0), logits
        guarded._model = type("", (), {"read": lambda self, rows, drafts, other=other: other})()
        if is_wrong:
            with pytest.raises(guard.FastPathWrong):
                guarded.check()
        else:
            guarded.check()

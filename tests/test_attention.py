"""Steps whose query heads share keys: transformers' own numbers, and no key is repeated."""

import threading
from types import SimpleNamespace

import pytest
import torch
from support.models import tiny_model
from test_engine import IDS, run, same, steered
from transformers.integrations import sdpa_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from decode.models import attention
from decode.models.attention import MOST_TOKENS, grouped_heads

PLAIN = ALL_ATTENTION_FUNCTIONS["sdpa"]


def attend(num_tokens, num_heads, num_key_heads, kind, **options):
    """What transformers' attention and ours give, in that order."""
    torch.manual_seed(num_tokens)
    rows, span = 3, 40
    query = torch.randn(rows, num_tokens, num_heads, 8).transpose(1, 2)  # as models lay it out
    key, value = (torch.randn(rows, num_key_heads, 2 * span, size)[:, :, :span] for size in (8, 6))
    mask = torch.rand(rows, 1, num_tokens, span) < 0.5
    mask[..., 0] = True
    if kind == "float":
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    module = SimpleNamespace(num_key_value_groups=num_heads // num_key_heads)
    given = module, query, key, value, None if kind == "none" else mask
    with grouped_heads():
        ours = ALL_ATTENTION_FUNCTIONS["sdpa"](*given, **options)[0]
    return PLAIN(*given, **options)[0], ours


@pytest.mark.parametrize("kind", ["bool", "float", "none"])
@pytest.mark.parametrize(("num_heads", "num_key_heads"), [(6, 2), (6, 1), (6, 6)])
@pytest.mark.parametrize("num_tokens", [1, 2, 5, MOST_TOKENS, MOST_TOKENS + 1])
def test_every_query_sees_what_it_saw(num_tokens, num_heads, num_key_heads, kind):
    plain, ours = attend(num_tokens, num_heads, num_key_heads, kind, scaling=0.3, is_causal=False)
    assert ours.shape == plain.shape == (3, num_tokens, num_heads, 6)
    assert ours.is_contiguous()
    torch.testing.assert_close(ours, plain)


def test_what_is_not_understood_goes_to_transformers():
    bias = torch.randn(1, 6, 5, 40)
    plain, ours = attend(5, 6, 2, "bool", position_bias=bias)
    torch.testing.assert_close(ours, plain)
    with pytest.raises(ValueError, match="softcap"):
        attend(5, 6, 2, "bool", softcap=30.0)


@pytest.mark.parametrize("num_draft_tokens", [2, 4])
def test_no_keys_are_repeated_in_a_round(num_draft_tokens, monkeypatch):
    base, expert, antiexpert = (tiny_model(seed) for seed in (0, 1, 2))  # 4 heads, 2 of keys
    model, repeated = steered(base, expert, antiexpert), []
    expected = run(model, same(IDS), 3)
    read = model.read

    def read_without_repeats(rows, drafts):
        with monkeypatch.context() as patch:
            patch.setattr(sdpa_attention, "repeat_kv", lambda *args: repeated.append(args))
            return read(rows, drafts)

    model.read = read_without_repeats
    assert run(model, same(IDS), 3, num_draft_tokens=num_draft_tokens) == expected
    assert not repeated


def test_attention_without_plans_is_not_cudnns():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        attention.without_plans()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_it_ends_with_the_last_forward_that_uses_it():
    inside, go_on = threading.Event(), threading.Event()

    def other():
        with grouped_heads():
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=other)
    with grouped_heads():
        thread.start()
        assert inside.wait(10)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is attention._grouped
    go_on.set()
    thread.join()
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is PLAIN
    with pytest.raises(ZeroDivisionError), grouped_heads():
        _ = 1 / 0
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is PLAIN

"""Warping against transformers' own, and draws against the distribution they come from."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from decode.sampling import Sampling, choose, draw, warp

LOGITS = torch.randn(20, 300, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 7, 1000])
@pytest.mark.parametrize("top_p", [0.05, 0.9, 1.0])
def test_warping_is_that_of_transformers(temperature, top_k, top_p):
    scores = TemperatureLogitsWarper(temperature)(None, LOGITS)
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    found = warp(LOGITS, Sampling(temperature, top_k, top_p))
    torch.testing.assert_close(found, scores.softmax(-1), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.sum(-1), torch.ones(20))


def test_greedy_is_one_hot_and_ignores_the_uniforms():
    probs = warp(LOGITS, Sampling(0.0))
    assert torch.equal(probs.argmax(-1), LOGITS.argmax(-1))
    assert torch.equal(probs.max(-1).values, torch.ones(20))
    for uniform in (0.0, 0.5, 1 - 1e-12):
        uniforms = torch.full((20,), uniform, dtype=torch.float64)
        assert torch.equal(choose(LOGITS, Sampling(0.0), uniforms), LOGITS.argmax(-1))
        assert torch.equal(draw(probs, uniforms), LOGITS.argmax(-1))


def test_a_token_of_probability_zero_is_never_drawn():
    probs = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).repeat(4, 1)
    uniforms = torch.tensor([0.0, 0.499999, 0.5, 1 - 1e-16], dtype=torch.float64)
    assert draw(probs, uniforms).tolist() == [1, 1, 3, 3]


def test_draws_follow_the_distribution():
    """Chi-square over the tokens that may be drawn, 50,000 draws, fixed seed, p > 0.001."""
    num_draws = 50_000
    probs = warp(LOGITS[:1], Sampling(1.0, 30, 0.98))
    generator = torch.Generator().manual_seed(1)
    uniforms = torch.rand(num_draws, dtype=torch.float64, generator=generator)
    counts = torch.bincount(draw(probs.expand(num_draws, -1), uniforms), minlength=300)
    expected = probs[0] * num_draws
    kept = expected > 0
    assert counts[~kept].sum() == 0
    chi_square = ((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    degrees = int(kept.sum()) - 1
    assert degrees >= 10
    # Wilson and Hilferty's normal approximation of the 0.999 quantile
    limit = degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3
    assert chi_square < limit


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        Sampling(**wrong)

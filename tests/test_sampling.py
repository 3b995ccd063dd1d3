"""Warping against transformers' own, and draws against the distribution they come from."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from decode.engine.sampling import Places, Sampling, choose, log_exponentials, row_key, warp

LOGITS = torch.randn(20, 300, generator=torch.Generator().manual_seed(0)) * 3


def places(num_rows: int, num_positions: int = 1, seed: int = 0) -> Places:
    """The first positions of as many rows of one seed."""
    keys = torch.tensor([row_key(seed, index) for index in range(num_rows)], dtype=torch.int32)
    return Places(keys, torch.arange(num_positions, dtype=torch.int32).expand(num_rows, -1))


def chi_square_limit(degrees: int) -> float:
    """Wilson and Hilferty's normal approximation of the 0.999 quantile."""
    return degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 7, 1000])
@pytest.mark.parametrize("top_p", [0.05, 0.9, 1.0])
def test_warping_is_that_of_transformers(temperature, top_k, top_p):
    scores = TemperatureLogitsWarper(temperature)(None, LOGITS)
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    found = warp(LOGITS.view(4, 5, 300), Sampling(temperature, top_k, top_p)).softmax(-1)
    torch.testing.assert_close(found.view(20, 300), scores.softmax(-1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("flatness", [0.0, 0.1, 1.0])
def test_top_p_over_a_large_vocabulary(flatness):
    """Where the likeliest thousand hold enough, and where they do not."""
    logits = flatness * torch.randn(3, 20_000, generator=torch.Generator().manual_seed(1))
    found = warp(logits, Sampling(1.0, top_p=0.5)).softmax(-1)
    expected = TopPLogitsWarper(0.5)(None, logits).softmax(-1)
    if flatness:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)
    else:  # all alike: none can be left out for another
        assert (found > 0).all()


def test_greedy_is_the_argmax_whatever_the_noise():
    for seed in range(3):
        found = choose(LOGITS.view(4, 5, 300), Sampling(), places(4, 5, seed))
        assert torch.equal(found.view(20), LOGITS.argmax(-1))


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([-torch.inf, 0.5, -torch.inf, 0.5, -torch.inf]).expand(500, 4, 5)
    drawn = choose(logits, Sampling(1.0), places(500, 4))
    assert set(drawn.unique().tolist()) == {1, 3}


@pytest.mark.long
@pytest.mark.parametrize("shape", [(50_000, 1), (1, 50_000), (500, 100)])
def test_draws_follow_the_distribution_over_rows_and_positions(shape):
    """Chi-square over the tokens that may be drawn, 50,000 draws, fixed seed, p > 0.001."""
    sampling = Sampling(1.0, 30, 0.98)
    target = warp(LOGITS[0], sampling).softmax(-1)
    drawn = torch.cat(
        [
            choose(LOGITS[:1].expand(*part.positions.shape, -1), sampling, part).flatten()
            for part in pieces(places(*shape))
        ]
    )
    counts = torch.bincount(drawn, minlength=300)
    expected = target * drawn.numel()
    kept = expected > 0
    assert counts[~kept].sum() == 0
    assert int(kept.sum()) > 10
    chi_square = ((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    assert chi_square < chi_square_limit(int(kept.sum()) - 1)


def pieces(all_places: Places, size: int = 5_000) -> list[Places]:
    """The places in parts that fit into memory."""
    if all_places.positions.shape[0] > all_places.positions.shape[1]:
        parts = zip(all_places.keys.split(size), all_places.positions.split(size), strict=True)
        return [Places(*part) for part in parts]
    return [Places(all_places.keys, part) for part in all_places.positions.split(size, dim=1)]


def test_the_noise_is_exponential_and_independent():
    """Moments of E and correlations between rows, positions and tokens, at 5 standard errors."""
    noise = log_exponentials(places(60, 50), 400).exp().double()  # (60, 50, 400)
    standard_error = noise.numel() ** -0.5
    assert abs(noise.mean() - 1) < 5 * standard_error
    assert abs(noise.var() - 1) < 5 * 8**0.5 * standard_error
    assert abs((noise < 0.01).double().mean() - 0.00995) < 5 * 0.0995 * standard_error
    centred = noise - 1
    neighbours = [
        centred[1:] * centred[:-1],
        centred[:, 1:] * centred[:, :-1],
        centred[:, :, 1:] * centred[:, :, :-1],
        centred[1:, :-1] * centred[:-1, 1:],
    ]
    for products in neighbours:
        assert abs(products.mean()) < 5 * products.numel() ** -0.5


def test_noise_is_a_function_of_its_place():
    together_at = places(6, 5)
    together = log_exponentials(together_at, 100)
    row, position = 4, 3
    alone = Places(together_at.keys[row : row + 1], together_at.positions[row : row + 1, 3:4])
    assert torch.equal(log_exponentials(alone, 100)[0, 0], together[row, position])
    assert not torch.equal(log_exponentials(places(6, 5, seed=1), 100), together)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        Sampling(**wrong)

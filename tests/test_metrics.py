"""Intervals against published and simulated truth, gap closed against the paper's tables."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from decode.evaluation import intervals
from decode.evaluation.gap_closed import GapClosed, gap_closed, gap_closed_with_interval
from decode.evaluation.intervals import (
    difference_with_interval,
    mean_with_interval,
    resampled_means,
    wilson_interval,
)
from decode.evaluation.metric import Metric
from decode.evaluation.metrics_file import as_json
from decode.evaluation.summary import BaseScores, summarize
from decode.evaluation.systems import check_slugs, headline_alpha, system_name

EXACT_MATCH = Metric("exact_match")


def right(num_right: int, num_rows: int) -> list[float]:
    return [1.0] * num_right + [0.0] * (num_rows - num_right)


# Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (Wilson without correction).
@pytest.mark.parametrize(
    ("num_right", "num_rows", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_matches_newcombe(num_right, num_rows, low, high):
    assert wilson_interval(num_right, num_rows) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric_and_bounded():
    assert wilson_interval(29, 29)[1] == 1.0
    assert wilson_interval(0, 29)[0] == 0.0
    low, high = wilson_interval(7, 40)
    assert wilson_interval(33, 40) == pytest.approx((1 - high, 1 - low))
    for num_right, num_rows in [(0, 0), (3, 2), (-1, 2)]:
        with pytest.raises(ValueError, match="no proportion"):
            wilson_interval(num_right, num_rows)


def test_mean_uses_wilson_for_right_and_wrong_and_the_bootstrap_otherwise():
    binary = mean_with_interval(right(81, 263))
    assert binary.value == pytest.approx(81 / 263)
    assert binary.ci95 == pytest.approx(wilson_interval(81, 263))

    graded = np.random.default_rng(1).normal(0.5, 0.2, size=400)
    low, high = mean_with_interval(graded).ci95
    error = graded.std() / math.sqrt(400)
    assert low == pytest.approx(graded.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(graded.mean() + 1.96 * error, abs=0.1 * error)


def test_resampled_means_do_not_depend_on_the_chunk(monkeypatch):
    scores = np.random.default_rng(2).random((3, 50))
    whole = resampled_means(scores, seed=5, num_resamples=1000)
    monkeypatch.setattr(intervals, "CHUNK_DRAWS", 7 * 50)
    np.testing.assert_allclose(resampled_means(scores, seed=5, num_resamples=1000), whole)
    assert whole.shape == (3, 1000)
    assert whole.mean(axis=1) == pytest.approx(scores.mean(axis=1), abs=0.01)


def test_paired_interval_covers_the_true_difference(monkeypatch):
    monkeypatch.setattr(intervals, "resampled_means", _with_resamples(1000))
    generator = np.random.default_rng(3)
    num_trials, covered = 300, 0
    for trial in range(num_trials):
        hard = generator.random(200)  # shared by both systems, so that their scores are paired
        base, proxy = (hard < 0.3).astype(float), (generator.random(200) < 0.2 + 0.5 * (hard < 0.5))
        low, high = difference_with_interval(proxy.astype(float), base, seed=trial).ci95
        covered += low <= 0.45 - 0.3 <= high
    assert 0.92 <= covered / num_trials <= 0.98  # 95% with three standard errors of 300 trials


def test_pairing_narrows_the_interval_of_a_difference():
    scores = right(300, 1000)
    better = right(320, 1000)  # the same rows right, and twenty more
    low, high = difference_with_interval(better, scores).ci95
    assert 0.01 <= low < 0.02 < high <= 0.03  # unpaired it would be 0.02 +- 0.04


def test_gap_closed_of_the_paper():
    assert gap_closed(6.6, 26.4, 32.4) == pytest.approx(19.8 / 25.8)  # GSM, 13B, chat expert
    assert gap_closed(36.8, 55.9, 59.5) == pytest.approx(0.8414, abs=1e-4)  # TriviaQA, 13B
    assert gap_closed(0.491, 0.820, 0.804) == pytest.approx(1.0511, abs=1e-4)  # above the ceiling
    assert gap_closed(0.5, 0.4, 0.6) == pytest.approx(-1.0)  # a loss stays a loss
    assert gap_closed(0.5, 0.6, 0.5) is None
    assert gap_closed(0.5, 0.6, 0.4) is None


def test_gap_closed_has_an_interval_around_its_value():
    base, proxy, tuned = right(66, 1000), right(264, 1000), right(324, 1000)
    closed, reason = gap_closed_with_interval(base, proxy, tuned)
    assert closed is not None and reason is None
    assert closed.value == pytest.approx(198 / 258) and closed.ci95 is not None
    # Delta method for nested rows: the ratio is a share, 198 of the 258 rows that tuning wins.
    error = math.sqrt(198 / 258 * 60 / 258 / 258)
    assert closed.ci95[0] == pytest.approx(closed.value - 1.96 * error, abs=0.01)
    assert closed.ci95[1] == pytest.approx(closed.value + 1.96 * error, abs=0.01)


def test_gap_closed_is_none_with_a_reason_unless_tuning_helps():
    for tuned in (50, 40):
        closed, reason = gap_closed_with_interval(right(50, 100), right(60, 100), right(tuned, 100))
        assert closed is None
        assert reason is not None and "did not beat the base" in reason


def test_the_same_scores_in_another_order_are_no_gap():
    """Their means may differ by 1e-17, which a ratio would blow up."""
    base, tuned = [0.2, 0.3, 0.1, 0, 0, 0], [0.1, 0.2, 0.3, 0, 0, 0]
    assert 0 < np.mean(tuned) - np.mean(base) < 1e-16
    closed, reason = gap_closed_with_interval(base, [1.0] * 6, tuned)
    assert closed is None and "did not beat the base" in (reason or "")


def test_gap_closed_has_no_interval_when_the_gap_is_in_doubt():
    # One row apart: the resamples without that row, (1 - 1/100)^100 = 37%, have no gap.
    closed, reason = gap_closed_with_interval(right(50, 100), right(60, 100), right(51, 100))
    assert closed == GapClosed(pytest.approx(10.0), None)
    assert reason is not None and "of the resamples" in reason
    # Four rows apart: about 1.7% have no gap, which the interval's tails absorb.
    closed, reason = gap_closed_with_interval(right(50, 100), right(60, 100), right(54, 100))
    assert reason is None and closed is not None and closed.ci95 is not None
    assert all(math.isfinite(bound) for bound in closed.ci95)
    assert closed.ci95[0] < closed.value < closed.ci95[1]


def example(alphas=(0.5, 1.0), tuned=True):
    base = BaseScores(
        model="meta/large",
        slug="large",
        base=right(66, 1000),
        tuned=right(324, 1000) if tuned else None,
        proxy={(alpha, ""): right(int(264 * min(alpha, 1)), 1000) for alpha in alphas},
    )
    return summarize("gsm8k", EXACT_MATCH, right(50, 1000), right(230, 1000), [base])


def test_summary_has_the_agreed_shape_and_is_clean_json():
    summary = as_json(example(alphas=(1.0, 0.5)))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    keys = ["task", "metric", "higher_is_better", "pass_at", "num_examples"]
    assert list(summary) == [*keys, "antiexpert", "expert", "bases", "pairs"]
    assert summary["num_examples"] == 1000
    (entry,) = summary["bases"]
    assert list(entry) == ["model", "slug", "base", "tuned", "proxy"]
    assert [proxy["alpha"] for proxy in entry["proxy"]] == [0.5, 1.0]
    proxy = entry["proxy"][1]
    assert proxy["value"] == 0.264
    assert proxy["gain_over_base"]["value"] == pytest.approx(0.198)
    assert proxy["gain_over_expert"]["value"] == pytest.approx(0.034)
    assert proxy["gap_closed"]["value"] == pytest.approx(198 / 258)
    assert proxy["gap_closed_reason"] is None


def test_summary_equals_its_parts_and_ignores_other_alphas():
    one, two = example(alphas=(1.0,)), example(alphas=(0.5, 1.0))
    assert one.bases[0].proxy[0] == two.bases[0].proxy[1]
    assert example() == example()
    closed, _ = gap_closed_with_interval(right(66, 1000), right(264, 1000), right(324, 1000))
    assert one.bases[0].proxy[0].gap_closed == closed
    gain = difference_with_interval(right(264, 1000), right(230, 1000))
    assert one.bases[0].proxy[0].gain_over_expert == gain


def test_where_lower_is_better_gains_and_gaps_keep_their_meaning():
    def turned(scores):
        return [1 - value for value in scores]

    base = BaseScores("large", "large", turned(right(66, 1000)), turned(right(324, 1000)), {})
    base = replace(base, proxy={(1.0, ""): turned(right(264, 1000))})
    small = turned(right(50, 1000)), turned(right(230, 1000))
    toxic = Metric("share_toxic", higher_is_better=False)
    low, high = summarize("toxigen", toxic, *small, [base]), example(alphas=(1.0,))
    (entry,), (mirror,) = low.bases, high.bases
    assert entry.base.value == pytest.approx(0.934)  # as measured, not turned round
    proxy, reflected = entry.proxy[0], mirror.proxy[0]
    assert proxy.value == pytest.approx(1 - reflected.value)
    for key in ("gain_over_base", "gain_over_expert", "gap_closed"):
        assert getattr(proxy, key).value == pytest.approx(getattr(reflected, key).value)
        assert getattr(proxy, key).ci95 == pytest.approx(getattr(reflected, key).ci95)
    worse = replace(base, tuned=turned(right(20, 1000)))
    proxy = summarize("toxigen", toxic, *small, [worse]).bases[0].proxy[0]
    assert proxy.gap_closed is None
    assert proxy.gap_closed_reason == "direct tuning did not beat the base (98.0% against 93.4%)"


def test_summary_without_a_reference_says_so():
    (entry,) = example(tuned=False).bases
    assert entry.tuned is None
    assert entry.proxy[0].gap_closed is None
    assert "no directly tuned reference" in (entry.proxy[0].gap_closed_reason or "")


def test_another_seed_moves_the_interval_but_not_the_value():
    scores = np.random.default_rng(4).random(100)
    first, second = mean_with_interval(scores), mean_with_interval(scores, seed=1)
    assert first == mean_with_interval(scores)
    assert first.value == second.value and first.ci95 != second.ci95


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (right(1, 3), r"shape \(3,\)"),
        ([1.0, math.nan], "not finite"),
        ([[1.0, 0.0]], r"shape \(1, 2\)"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        difference_with_interval(right(1, 2), scores)
    base = BaseScores("large", "large", right(1, 2), None, {(1.0, ""): scores})
    with pytest.raises(ValueError, match="proxy-large-alpha1.*" + message):
        summarize("facts", EXACT_MATCH, right(1, 2), right(1, 2), [base])


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="one score for each"):
        mean_with_interval([])


def test_system_names():
    slug = "Llama-2-13b-hf"
    assert system_name("expert") == "expert"
    assert system_name("base", slug) == "base-Llama-2-13b-hf"
    assert system_name("proxy", slug, 1.0) == "proxy-Llama-2-13b-hf-alpha1"
    assert system_name("proxy", slug, 0.25) == "proxy-Llama-2-13b-hf-alpha0.25"
    with pytest.raises(ValueError, match="its slug is missing"):
        system_name("tuned")
    with pytest.raises(ValueError, match="alpha is missing"):
        system_name("proxy", slug)
    with pytest.raises(ValueError, match="two bases file their results under 'large'"):
        check_slugs(["large", "larger", "large"])


def test_the_headline_is_alpha_1_or_the_nearest():
    assert headline_alpha([0.5, 1.0, 2.0]) == 1.0
    assert headline_alpha([0.2, 0.9, 4.0]) == 0.9
    assert headline_alpha([1.5, 0.5]) == headline_alpha([0.5, 1.5]) == 0.5
    assert example(alphas=(0.25, 1.5, 0.75)).bases[0].headline.alpha == 0.75


def test_the_metric_says_what_is_better():
    accuracy, toxic = Metric("exact_match"), Metric("share_toxic", higher_is_better=False)
    assert (accuracy.worth(0.75), toxic.worth(0.75)) == (0.75, 0.25)
    assert (accuracy.gain(0.75, 0.5), toxic.gain(0.75, 0.5)) == (0.25, -0.25)
    base = example(alphas=(0.5, 1.0)).bases[0]
    assert (base.best(accuracy).alpha, base.best(toxic).alpha) == (1.0, 0.5)


def test_systems_are_in_reading_order():
    assert [system.name for system in example().systems] == [
        "antiexpert",
        "expert",
        "base-large",
        "proxy-large-alpha0.5",
        "proxy-large-alpha1",
        "tuned-large",
    ]


def _with_resamples(num_resamples):
    def resample(scores, seed=0):
        return resampled_means(scores, seed, num_resamples)

    return resample

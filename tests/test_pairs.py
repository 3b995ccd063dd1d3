"""McNemar's counts and p values by hand, and what a run says of its pairs."""

import math

import pytest

from decode.evaluation.intervals import difference_with_interval
from decode.evaluation.mcnemar import McNemar, mcnemar, mcnemar_p_value
from decode.evaluation.metric import Metric
from decode.evaluation.summary import BaseScores, summarize
from decode.reports.pair_table import pairs_section


def test_counts_by_hand():
    counts = mcnemar([1, 1, 0, 0, 1, 1], [1, 0, 1, 0, 0, 0])
    assert counts == McNemar(1, only_a=3, only_b=1, both_wrong=1, p_value=2 * (1 + 4) / 16)
    assert mcnemar([0.5, 1], [0, 1]) is None
    assert mcnemar([0, 1], [0, 0.5]) is None
    with pytest.raises(ValueError, match="the same rows"):
        mcnemar([1], [0, 1])


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),  # 2 (1 + 6 + 15 + 20) / 64 is more than 1
        (1, 0, 1.0),
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (1, 5, 2 * (1 + 6) / 64),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (7, 3, 2 * (1 + 10 + 45 + 120) / 1024),
    ],
)
def test_p_values_by_hand(only_a, only_b, expected):
    assert mcnemar_p_value(only_a, only_b) == expected


def test_p_values_of_large_counts():
    assert mcnemar_p_value(0, 1000) == 2.0**-999
    assert mcnemar_p_value(2500, 2500) == 1.0
    # The normal approximation with continuity correction, good to a few percent here.
    z = (abs(5100 - 4900) - 1) / math.sqrt(10_000)
    assert mcnemar_p_value(5100, 4900) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)


def test_p_values_are_scipys():
    stats = pytest.importorskip("scipy.stats")
    for only_a, only_b in ((1, 0), (4, 9), (30, 12), (200, 261), (1000, 900)):
        found = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue
        assert mcnemar_p_value(only_a, only_b) == pytest.approx(found, rel=1e-9)


def measured(base, proxy, tuned, higher_is_better=True):
    bases = [BaseScores("x/large", "large", base, tuned, {(1.0, ""): proxy})]
    return summarize("t", Metric("m", higher_is_better), [0.0] * len(base), proxy, bases)


BASE, PROXY, TUNED = [1.0, 0, 0, 0] * 10, [1.0, 1, 1, 0] * 10, [1.0, 1, 1, 1] * 10


def test_every_pair_of_a_run_is_there():
    metrics = measured(BASE, PROXY, TUNED)
    names = {(pair.a, pair.b) for pair in metrics.pairs}
    assert len(names) == len(metrics.pairs) == 5 * 4 // 2
    pair = next(p for p in metrics.pairs if p.a == "proxy-large-alpha1" and "base" in p.b)
    assert pair.difference == difference_with_interval(PROXY, BASE)
    assert pair.mcnemar == McNemar(10, only_a=20, only_b=0, both_wrong=10, p_value=2 / 2**20)


def test_where_lower_is_better_the_same_pairs_are_turned_round():
    upward = measured(BASE, PROXY, TUNED)
    turned = [[1 - value for value in scores] for scores in (BASE, PROXY, TUNED)]
    downward = measured(*turned, higher_is_better=False)
    for up, down in zip(upward.pairs[4:], downward.pairs[4:], strict=True):
        if "antiexpert" not in (up.a, up.b):
            assert down.mcnemar == up.mcnemar
            assert down.difference.value == pytest.approx(up.difference.value)


def test_scores_between_have_a_difference_and_no_counts():
    metrics = measured([0.5, 0.0, 0.25], [1.0, 0.5, 0.5], [1.0, 1.0, 1.0])
    pair = next(p for p in metrics.pairs if p.a == "proxy-large-alpha1")
    assert pair.mcnemar is None
    text = pairs_section(metrics)
    assert "| proxy-large-alpha1 | base-large |" in text and "+41.7 [" in text


def test_the_table_shows_counts_and_p():
    text = pairs_section(measured(BASE, PROXY, TUNED))
    row = next(line for line in text.splitlines() if "| proxy-large-alpha1 | base-large |" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:6] == ["10", "20", "0", "10"]
    assert cells[6].startswith("+50.0 [+35.0, ") and cells[7] == "< 0.001"
    # metrics.json has this pair the other way round
    row = next(line for line in text.splitlines() if "| proxy-large-alpha1 | tuned-large |" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][2:6] == ["30", "0", "10", "0"]

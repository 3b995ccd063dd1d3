"""What the numbers say, in sentences: gains, losses, and what could not be told apart.

A difference is called one only when its 95% interval lies on one side of zero, and when enough rows
differ: of a few that all agree the bootstrap's interval has no width, and says nothing.
"""

from ..evaluation.intervals import FEWEST, Estimate
from ..evaluation.metric import Metric
from ..evaluation.metrics import MeasuredBase, MeasuredProxy, Metrics, Pair
from ..evaluation.systems import system_name


def findings(metrics: Metrics) -> list[str]:
    """One sentence a base, the most important first; before them, whether the expert learned."""
    sentences = []
    small = _pair(metrics, "expert", "antiexpert")
    if _side(small, metrics) <= 0:  # of what is gained
        expert, antiexpert = percent(metrics.expert.value), percent(metrics.antiexpert.value)
        sentences.append(
            f"Training did not measurably improve the small model ({antiexpert}% before, {expert}% "
            f"after; a gain of {_with_interval(small.difference)}), by this metric: a proxy may "
            "pass on no more than form."
        )
    for base in metrics.bases:
        if base.proxy:
            sentences.append(_finding(base, metrics))
            sentences += _better_alpha(base, metrics.metric)
    return sentences + _left_out(metrics)


def percent(fraction: float) -> str:
    """26.4 for 0.264."""
    return f"{fraction * 100:.1f}"


def points(fraction: float) -> str:
    """+3.4 for 0.034, a difference in percentage points."""
    return f"{fraction * 100:+.1f}"


def span(low: float, high: float, signed: bool = False, digits: int = 1) -> str:
    """An interval in percent, as `[low, high]`."""
    sign = "+" if signed else ""
    return f"[{low * 100:{sign}.{digits}f}, {high * 100:{sign}.{digits}f}]"


def _with_interval(difference: Estimate) -> str:
    """+3.4 points, 95% interval +1.0 to +5.8."""
    low, high = difference.ci95
    return f"{points(difference.value)} points, 95% interval {points(low)} to {points(high)}"


def _finding(base: MeasuredBase, metrics: Metrics) -> str:
    proxy, metric = base.headline, metrics.metric.words
    values = f"from {percent(base.base.value)}% to {percent(proxy.value)}%"
    name = base.name_of(proxy)
    pair = _pair(metrics, name, system_name("base", base.slug))
    interval = _with_interval(proxy.gain_over_base)
    lead = f"Proxy-tuning {base.slug} at alpha {proxy.alpha:g}"
    if proxy.rule:
        lead += f" by the rule {proxy.rule}"
    if base.choice is not None:
        lead += f", chosen on {base.choice.num_rows:,} validation rows,"
    raises, falls = "raises", "falls"
    if metrics.metric.higher_is_better:
        interval = f"({interval})"
    else:  # a gain is a reduction then, which a bare sign would not say
        raises, falls, interval = "lowers", "rises", f"(a gain of {interval}; lower is better)"
    side = _side(pair, metrics)
    if side > 0:
        sentence = f"{lead} {raises} {metric} {values} {interval}"
    elif side < 0:
        sentence = f"{lead} hurts: {metric} {falls} {values} {interval}"
    else:
        sentence = f"{lead} makes no measurable difference to {metric}: {values} {interval}"
        if 0 < _num_differing(pair, metrics) < FEWEST:
            sentence += f", by fewer than {FEWEST} rows that differ"
    ceiling = _ceiling(base, proxy, metrics.num_examples)
    return f"{sentence}{ceiling}. {_against_expert(proxy, _pair(metrics, name, 'expert'), metrics)}"


def _ceiling(base: MeasuredBase, proxy: MeasuredProxy, num_rows: int) -> str:
    if base.tuned is None:
        return "; there is no directly tuned model to compare with"
    tuned, closed = percent(base.tuned.value), proxy.gap_closed
    if closed is None:
        return f"; there is no gap to close, since direct tuning reaches only {tuned}%"
    if closed.value < 0:
        return f"; the gap to direct tuning ({tuned}%) grows instead of closing"
    share = f"; that closes {closed.value * 100:.0f}% of the gap to direct tuning ({tuned}%"
    if closed.ci95 is None:
        return f"{share}; too {'few rows' if num_rows < FEWEST else 'small a gap'} for an interval)"
    low, high = closed.ci95
    return f"{share}; 95% interval {low * 100:.0f} to {high * 100:.0f})"


def _against_expert(proxy: MeasuredProxy, pair: Pair, metrics: Metrics) -> str:
    name = "difference" if metrics.metric.higher_is_better else "gain"
    interval = _with_interval(proxy.gain_over_expert)
    difference = f"({percent(metrics.expert.value)}%; {name} {interval})"
    side = _side(pair, metrics)
    if side > 0:
        return f"It beats its own expert {difference}."
    if side < 0:
        return f"It does worse than its expert, the small tuned model alone {difference}."
    return f"It does not measurably beat its expert, the small tuned model alone {difference}."


def _pair(metrics: Metrics, a: str, b: str) -> Pair:
    return next(pair for pair in metrics.pairs if (pair.a, pair.b) == (a, b))


def _side(pair: Pair, metrics: Metrics) -> int:
    """1 where the first is better, -1 where the second is, 0 where nothing can be told."""
    low, high = pair.difference.ci95
    return (low > 0) - (high < 0) if _num_differing(pair, metrics) >= FEWEST else 0


def _num_differing(pair: Pair, metrics: Metrics) -> int:
    """The rows that only one is right on; all rows, where they are not simply right or wrong."""
    counts = pair.mcnemar
    return metrics.num_examples if counts is None else counts.only_a + counts.only_b


def _better_alpha(base: MeasuredBase, metric: Metric) -> list[str]:
    best = base.best(metric)
    if base.choice is not None or best.value == base.headline.value:
        return []
    less = "less" if metric.higher_is_better else "worse"
    return [
        f"Of the alphas tried on {base.slug}, {best.alpha:g} did best "
        f"({percent(best.value)}%); it was picked on these very rows, so expect {less} on "
        "others."
    ]


def _left_out(metrics: Metrics) -> list[str]:
    uncounted = metrics.uncounted
    if uncounted is None or uncounted.num_questions == 0:
        return []
    num_rows = metrics.num_examples + uncounted.num_questions
    by_system = [f"{name} {num:,}" for name, num in uncounted.by_system.items() if num]
    return [
        f"{uncounted.num_questions:,} of {num_rows:,} rows count in no system, since a judge "
        f"made no clear choice on them in one or more ({', '.join(by_system)})."
    ]

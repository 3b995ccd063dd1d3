"""What the numbers say, in sentences: gains, losses, and what could not be told apart.

A difference is called one only when its 95% interval lies on one side of zero.
"""

from typing import Any

from ..evaluation.systems import best, headline, slug


def findings(metrics: dict[str, Any]) -> list[str]:
    """One sentence a base, the most important first; before them, whether the expert learned."""
    sentences = []
    small = {pair["a"]: pair for pair in metrics["pairs"] if pair["b"] == "antiexpert"}["expert"]
    if small["difference"]["ci95"][0] <= 0:  # of what is gained
        expert, antiexpert = (percent(metrics[role]["value"]) for role in ("expert", "antiexpert"))
        sentences.append(
            f"Training did not measurably improve the small model ({antiexpert}% before, {expert}% "
            f"after; a gain of {_with_interval(small['difference'])}), by this metric: a proxy may "
            "pass on no more than form."
        )
    for entry in metrics["bases"]:
        if entry["proxy"]:
            sentences.append(_finding(entry, metrics))
            sentences += _better_alpha(entry, metrics["higher_is_better"])
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


def _with_interval(difference: dict[str, Any]) -> str:
    """+3.4 points, 95% interval +1.0 to +5.8."""
    low, high = difference["ci95"]
    value = points(difference["value"])
    return f"{value} points, 95% interval {points(low)} to {points(high)}"


def _finding(entry: dict[str, Any], metrics: dict[str, Any]) -> str:
    proxy = headline(entry)
    metric = metrics["metric"].replace("_", " ")
    values = f"from {percent(entry['base']['value'])}% to {percent(proxy['value'])}%"
    gain = proxy["gain_over_base"]
    low, high = gain["ci95"]
    interval = _with_interval(gain)
    lead = f"Proxy-tuning {slug(entry['model'])} at alpha {proxy['alpha']:g}"
    raises, falls = "raises", "falls"
    if metrics["higher_is_better"]:
        interval = f"({interval})"
    else:  # a gain is a reduction then, which a bare sign would not say
        raises, falls, interval = "lowers", "rises", f"(a gain of {interval}; lower is better)"
    if low > 0:
        sentence = f"{lead} {raises} {metric} {values} {interval}"
    elif high < 0:
        sentence = f"{lead} hurts: {metric} {falls} {values} {interval}"
    else:
        sentence = f"{lead} makes no measurable difference to {metric}: {values} {interval}"
    return f"{sentence}{_ceiling(entry, proxy)}. {_against_expert(proxy, metrics)}"


def _ceiling(entry: dict[str, Any], proxy: dict[str, Any]) -> str:
    if entry["tuned"] is None:
        return "; there is no directly tuned model to compare with"
    tuned = percent(entry["tuned"]["value"])
    closed = proxy["gap_closed"]
    if closed is None:
        return f"; there is no gap to close, since direct tuning reaches only {tuned}%"
    if closed["value"] < 0:
        return f"; the gap to direct tuning ({tuned}%) grows instead of closing"
    share = f"; that closes {closed['value'] * 100:.0f}% of the gap to direct tuning ({tuned}%"
    if closed["ci95"] is None:
        return f"{share}; too small a gap for an interval)"
    low, high = closed["ci95"]
    return f"{share}; 95% interval {low * 100:.0f} to {high * 100:.0f})"


def _against_expert(proxy: dict[str, Any], metrics: dict[str, Any]) -> str:
    gain = proxy["gain_over_expert"]
    low, high = gain["ci95"]
    name = "difference" if metrics["higher_is_better"] else "gain"
    difference = f"({percent(metrics['expert']['value'])}%; {name} {_with_interval(gain)})"
    if low > 0:
        return f"It beats its own expert {difference}."
    if high < 0:
        return f"It does worse than its expert, the small tuned model alone {difference}."
    return f"It does not measurably beat its expert, the small tuned model alone {difference}."


def _better_alpha(entry: dict[str, Any], higher_is_better: bool) -> list[str]:
    found, shown = best(entry, higher_is_better), headline(entry)
    if found["value"] == shown["value"]:
        return []
    less = "less" if higher_is_better else "worse"
    return [
        f"Of the alphas tried on {slug(entry['model'])}, {found['alpha']:g} did best "
        f"({percent(found['value'])}%); it was picked on these very rows, so expect {less} on "
        "others."
    ]


def _left_out(metrics: dict[str, Any]) -> list[str]:
    uncounted = metrics.get("uncounted")
    if uncounted is None or uncounted["num_questions"] == 0:
        return []
    num_rows = metrics["num_examples"] + uncounted["num_questions"]
    by_system = [f"{name} {num:,}" for name, num in uncounted["by_system"].items() if num]
    return [
        f"{uncounted['num_questions']:,} of {num_rows:,} rows count in no system, since a judge "
        f"made no clear choice on them in one or more ({', '.join(by_system)})."
    ]

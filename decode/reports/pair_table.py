"""Pairs of systems as a table: who is right where the other is not, and whether that is chance."""

from dataclasses import replace

from ..evaluation.intervals import Estimate
from ..evaluation.metric import Metric
from ..evaluation.metrics import MeasuredBase, Metrics, Pair
from ..evaluation.systems import system_name
from .findings import points, span

NOTE = (
    "p: McNemar's exact two-sided test, not corrected for the number of pairs; in brackets the 95% "
    "interval of the difference, the bootstrap over rows, paired. All pairs are in `metrics.json`."
)


def pairs_section(metrics: Metrics) -> str:
    """Markdown: the pairs a reader asks for; for each base its proxy against all other systems."""
    found = {(pair.a, pair.b): pair for pair in metrics.pairs}
    shown: dict[tuple[str, str], None] = {("expert", "antiexpert"): None}
    for base in metrics.bases:
        shown |= dict.fromkeys(_asked(base, metrics.metric))
    is_counted = any(pair.mcnemar for pair in metrics.pairs)
    names = ["both right", "only first", "only second", "both wrong"] if is_counted else []
    heads = ["first", "second", *names, "difference, points", *(["p"] if is_counted else [])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for one, other in shown:
        pair = found.get((one, other)) or _turned(found[other, one])
        difference, counts = pair.difference, pair.mcnemar
        words = f"{points(difference.value)} {span(*difference.ci95, signed=True)}"
        cells = [one, other]
        if counts is not None:
            numbers = (counts.both_right, counts.only_a, counts.only_b, counts.both_wrong)
            cells += [f"{number:,}" for number in numbers]
            cells += [words, p_value(counts.p_value)]
        else:
            cells += [*[""] * (4 * is_counted), words, *[""] * is_counted]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n\n".join(["## Pairs of systems", "\n".join(lines), NOTE])


def _asked(measured: MeasuredBase, metric: Metric) -> list[tuple[str, str]]:
    slug = measured.slug
    base = system_name("base", slug)
    tuned = [] if measured.tuned is None else [system_name("tuned", slug)]
    pairs = [(name, base) for name in tuned]
    if measured.proxy:
        proxy = measured.name_of(measured.headline)
        pairs = [(proxy, base), (proxy, "expert"), *((proxy, name) for name in tuned), *pairs]
        others = [measured.best(metric)]
        if measured.choice is not None:  # against what was listed beforehand
            others = [other for other in measured.proxy if other != measured.headline]
        pairs += [(other, proxy) for one in others if (other := measured.name_of(one)) != proxy]
    return pairs


def _turned(pair: Pair) -> Pair:
    """The same pair, the other way round."""
    low, high = pair.difference.ci95
    counts = pair.mcnemar
    if counts is not None:
        counts = replace(counts, only_a=counts.only_b, only_b=counts.only_a)
    difference = Estimate(-pair.difference.value, (-high, -low))
    return Pair(a=pair.b, b=pair.a, difference=difference, mcnemar=counts)


def p_value(value: float) -> str:
    """0.031 for 0.0312, and no more digits than the reader can use."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"

"""Pairs of systems as a table: who is right where the other is not, and whether that is chance."""

from typing import Any

from ..evaluation.systems import best, headline, system_name
from .findings import points, span

NOTE = (
    "p: McNemar's exact two-sided test, not corrected for the number of pairs; in brackets the 95% "
    "interval of the difference, the bootstrap over rows, paired. All pairs are in `metrics.json`."
)


def pairs_section(metrics: dict[str, Any]) -> str:
    """Markdown: the pairs a reader asks for; for each base its proxy against everybody else."""
    found = {(pair["a"], pair["b"]): pair for pair in metrics["pairs"]}
    shown: dict[tuple[str, str], None] = {("expert", "antiexpert"): None}
    for entry in metrics["bases"]:
        shown |= dict.fromkeys(_asked(entry, metrics["higher_is_better"]))
    is_counted = any(pair["mcnemar"] for pair in metrics["pairs"])
    names = ["both right", "only first", "only second", "both wrong"] if is_counted else []
    heads = ["first", "second", *names, "difference, points", *(["p"] if is_counted else [])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for one, other in shown:
        pair = found.get((one, other)) or _turned(found[other, one])
        difference = pair["difference"]
        words = f"{points(difference['value'])} {span(*difference['ci95'], signed=True)}"
        cells = [one, other]
        counts = pair["mcnemar"]
        if counts is not None:
            names = ("both_right", "only_a", "only_b", "both_wrong")
            cells += [f"{counts[name]:,}" for name in names]
            cells += [words, p_value(counts["p_value"])]
        else:
            cells += [*[""] * (4 * is_counted), words, *[""] * is_counted]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n\n".join(["## Pairs of systems", "\n".join(lines), NOTE])


def _asked(entry: dict[str, Any], higher_is_better: bool) -> list[tuple[str, str]]:
    model = entry["model"]
    base = system_name("base", model)
    tuned = [] if entry["tuned"] is None else [system_name("tuned", model)]
    pairs = [(name, base) for name in tuned]
    if entry["proxy"]:
        proxy = system_name("proxy", model, headline(entry)["alpha"])
        pairs = [(proxy, base), (proxy, "expert"), *((proxy, name) for name in tuned), *pairs]
        other = system_name("proxy", model, best(entry, higher_is_better)["alpha"])
        if other != proxy:
            pairs.append((other, proxy))
    return pairs


def _turned(pair: dict[str, Any]) -> dict[str, Any]:
    """The same pair, the other way round."""
    low, high = pair["difference"]["ci95"]
    counts = pair["mcnemar"]
    if counts is not None:
        counts = {**counts, "only_a": counts["only_b"], "only_b": counts["only_a"]}
    difference = {"value": -pair["difference"]["value"], "ci95": [-high, -low]}
    return {"a": pair["b"], "b": pair["a"], "difference": difference, "mcnemar": counts}


def p_value(value: float) -> str:
    """0.031 for 0.0312, and no more digits than the reader can use."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"

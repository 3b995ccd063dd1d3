"""What an analysis found, for a person: `analysis.md`, from what is in `analysis.json`."""

from collections.abc import Mapping
from typing import Any

from ..reports.findings import percent, points, span
from .shift_plots import shown
from .shift_summary import MIN_COUNT

NUM_POSITIONS = 10
NUM_TOKENS = 10
MANY_OVERRULED = 0.2  # of the base's choices
GREEDY_AGREEMENT = 0.99  # below it these are hardly the models of the run


def analysis_text(analysis: dict[str, Any]) -> str:
    """The report.

    Args:
        analysis: the contents of `analysis.json`.
    """
    parts = [f"# {analysis['name']}, {analysis['task']}: what the expert moved"]
    for name, summary in analysis["systems"].items():
        parts += _system(name, summary, analysis["num_predictions"], analysis["is_greedy"])
    if analysis["trade_offs"]:
        parts += ["## Trade-off over alpha", "![Two columns against each other](trade_off.png)"]
        parts += [_trade_off(curve) for curve in analysis["trade_offs"]]
    parts += [_sweep(base, sweep) for base, sweep in analysis["sweeps"].items()]
    return "\n\n".join(parts) + "\n"


def closing_lines(analysis: dict[str, Any]) -> str:
    """The same in a few lines: what an entry prints when it is done."""
    lines = []
    for name, summary in analysis["systems"].items():
        changed = summary["top1_changed"]
        lines.append(
            f"{analysis['task']}, {name}: the base preferred another token at "
            f"{percent(changed['value'])}% {span(*changed['ci95'])} of "
            f"{summary['num_tokens']:,} tokens ({summary['num_rows']:,} of "
            f"{analysis['num_predictions']:,} completions)"
        )
        lines += [f"  {sentence}" for sentence in _cautions(summary, analysis["is_greedy"])]
    return "\n".join(lines)


def _system(name: str, summary: dict[str, Any], num_predictions: int, is_greedy: bool) -> list[str]:
    changed = summary["top1_changed"]
    read = summary["num_rows"]
    sentences = [
        f"Of {summary['num_tokens']:,} tokens in {summary['num_rows']:,} completions, the base "
        f"alone would have preferred another at {percent(changed['value'])}% "
        f"{span(*changed['ci95'])}.",
        *_whose(summary["changed_to_expert_top1"]),
        *_ruled(summary["rule"]),
        "On average the expert moved the emitted token's probability by "
        f"{points(summary['mean_delta_probability'])} points, and "
        f"{percent(summary['mean_total_variation'])}% of all probability at a step.",
        f"Left out: the last {num_predictions - read:,} of {num_predictions:,} completions "
        "(analyze.num_rows)."
        if num_predictions > read
        else f"All {num_predictions:,} completions of the run were read.",
        *_cautions(summary, is_greedy),
    ]
    parts = [
        f"## {name}",
        "\n".join(f"- {sentence}" for sentence in sentences),
        f"Every completion, to read: [tokens.html]({name}/tokens.html)",
        f"![Share of changed tokens by position]({name}/top1_changed.png)",
        _positions(summary["top1_changed_by_position"]),
    ]
    if summary["equations"]["num_equations"] >= MIN_COUNT:  # fewer are hardly arithmetic
        parts.append(_equations(summary["equations"]))
    if summary["most_shifted"]:
        parts += [
            f"![The tokens raised most]({name}/most_shifted.png)",
            _most_shifted(summary["most_shifted"][:NUM_TOKENS]),
        ]
    return parts


def _whose(share: float | None) -> list[str]:
    if share is None:
        return []
    return [f"At {percent(share)}% of those it said the expert's own first choice."]


def _ruled(rule: dict[str, Any] | None) -> list[str]:
    if rule is None:
        return []
    means = [
        "none" if rule[key] is None else f"{percent(rule[key])}%"
        for key in ("score_changed", "score_unchanged")
    ]
    return [
        f"The rule chose another token than the formula at {rule['num_tokens']:,} of them, in "
        f"{rule['num_rows']:,} completions (mean score {means[0]}; of the others {means[1]})."
    ]


def _cautions(summary: dict[str, Any], is_greedy: bool) -> list[str]:
    """What a reader must know before trusting the figures."""
    found = []
    if summary["top1_changed"]["value"] > MANY_OVERRULED:
        found.append(
            "More than a fifth of the base's choices are overruled: the expert writes much of the "
            "text, so the result can hardly be better than what the expert knows."
        )
    agreement = summary["emitted_is_top1"]
    if is_greedy and agreement < GREEDY_AGREEMENT:
        found.append(
            f"Only {percent(agreement)}% of the tokens are the proxy's likeliest, though decoding "
            "was greedy: these may not be the models of the run."
        )
    elif is_greedy and agreement < 1:
        found.append(
            f"{percent(agreement)}% of the tokens are the proxy's likeliest; at the others two "
            "tokens are so close that rounding decides between them."
        )
    return found


def _positions(places: list[dict[str, Any]]) -> str:
    shown_places = places[:NUM_POSITIONS]
    head = "| token | " + " | ".join(f"{place['position']}" for place in shown_places) + " |"
    changed = " | ".join(percent(place["top1_changed"]) for place in shown_places)
    counts = " | ".join(f"{place['num_rows']:,}" for place in shown_places)
    rule = "|---" * (len(shown_places) + 1) + "|"
    return f"{head}\n{rule}\n| changed, percent | {changed} |\n| completions | {counts} |"


def _equations(equations: dict[str, Any]) -> str:
    lines = [
        f"Equations, {equations['num_equations']:,} of them:",
        "",
        "| side | tokens | mean probability, proxy minus base | base preferred another, percent |",
        "|---|---|---|---|",
    ]
    for side in ("left", "right"):
        found = equations[side]
        cells = [side, f"{found['num_tokens']:,}", "", ""]
        if found["num_tokens"]:
            cells[2] = f"{found['mean_delta_probability']:+.3f}"
            cells[3] = percent(found["top1_changed"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _most_shifted(kinds: list[dict[str, Any]]) -> str:
    lines = [
        "| token | times | mean probability, proxy minus base | base preferred another, percent "
        "| most often after |",
        "|---|---|---|---|---|",
    ]
    for kind in kinds:
        cells = [
            _code(kind["text"]) + (", the end" if kind["is_end"] else ""),
            f"{kind['count']:,}",
            f"{kind['mean_delta_probability']:+.3f}",
            percent(kind["top1_changed"]),
            _code(kind["most_often_after"]) if kind["most_often_after"] else "(the prompt)",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _trade_off(curve: dict[str, Any]) -> str:
    lines = [f"{curve['base']}:", "", f"| alpha | {curve['x']} | {curve['y']} |", "|---|---|---|"]
    lines += [f"| {alpha:g} | {x:.4g} | {y:.4g} |" for alpha, x, y in curve["points"]]
    lines += [f"| {role} | {x:.4g} | {y:.4g} |" for role, (x, y) in curve["marks"].items()]
    return "\n".join(lines)


def _sweep(base: str, sweep: Mapping[str, Mapping[str, float]]) -> str:
    columns = list(dict.fromkeys(name for values in sweep.values() for name in values))
    lines = [
        f"All columns of {base} (means over the run's rows; alpha 0 is the base):",
        "",
        f"| alpha | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for alpha, values in sweep.items():
        cells = [f"{values[name]:.4g}" if name in values else "" for name in columns]
        lines.append(f"| {alpha} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _code(text: str) -> str:
    """A token as Markdown code that neither its backticks nor its bars can end."""
    quoted = shown(text).replace("|", "\\|")
    fence = "`"
    while fence in quoted:
        fence += "`"
    space = " " if "`" in quoted else ""
    return f"{fence}{space}{quoted}{space}{fence}"

"""A summary of a proxy's token rows: how often the base was overruled, and where.

All figures count emitted tokens, the one that ends a completion included, except on the sides of
equations, which are text. Intervals resample completions, since the tokens of one are not
independent.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..evaluation.intervals import TAIL, resampled_means
from .equations import num_equations, sides

MIN_COUNT = 5  # occurrences from which on a token is listed among the most shifted
MIN_ROWS = 5  # completions that reach a position, for it to be listed
NUM_LISTED = 20

Rows = Sequence[dict[str, Any]]  # as token_rows makes them


def summarize_shifts(rows: Rows) -> dict[str, Any]:
    """One system's part of `analysis.json`."""
    tokens = [token for row in rows for token in row["tokens"]]
    return {
        "num_rows": len(rows),
        "num_tokens": len(tokens),
        "emitted_is_top1": float(np.mean([token["proxy_rank"] == 1 for token in tokens])),
        "top1_changed": _share(rows),
        "changed_to_expert_top1": to_expert(tokens),
        "rule": by_rule(rows),
        "top1_changed_by_position": by_position(rows),
        "mean_delta_probability": _mean(tokens, "delta_probability"),
        "mean_delta_logprob": _mean(tokens, "delta_logprob"),
        "mean_total_variation": _mean(tokens, "total_variation"),
        "equations": by_side(rows),
        "most_shifted": most_shifted(rows),
    }


def to_expert(tokens: Sequence[dict[str, Any]]) -> float | None:
    """Where the base was overruled, the share of tokens that the expert alone would have chosen.

    The rest is what neither prefers: the shift made a third token the likeliest, or it was drawn.
    """
    changed = [token for token in tokens if token["is_top1_changed"]]
    if not changed:
        return None
    return float(np.mean([token["top"]["expert"][0][0] == token["id"] for token in changed]))


def by_rule(rows: Rows) -> dict[str, Any] | None:
    """Where the rule, and not the formula, made a token; None for the formula itself.

    The scores are means over completions with and without such a token.
    """
    if not any("formula_token" in token for row in rows for token in row["tokens"]):
        return None
    changed = [[token["formula_token"] != token["id"] for token in row["tokens"]] for row in rows]
    counts = [sum(own) for own in changed]
    scores = [(row["score"], count) for row, count in zip(rows, counts, strict=True)]
    return {
        "num_tokens": sum(counts),
        "num_rows": sum(count > 0 for count in counts),
        "score_changed": _score(score for score, count in scores if count),
        "score_unchanged": _score(score for score, count in scores if not count),
    }


def _score(scores: Iterable[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None


def by_position(rows: Rows) -> list[dict[str, Any]]:
    """Share of changed top-1 tokens at each position that MIN_ROWS completions reach."""
    longest = max(len(row["tokens"]) for row in rows)
    found = []
    for position in range(longest):
        here = [row["tokens"][position] for row in rows if position < len(row["tokens"])]
        if len(here) < MIN_ROWS:
            break
        share = _mean(here, "is_top1_changed")
        found.append({"position": position + 1, "num_rows": len(here), "top1_changed": share})
    return found


def by_side(rows: Rows) -> dict[str, Any]:
    """Left and right sides of the equations in the completions; see equations.py.

    A mean is None where there is no token on that side.
    """
    groups: dict[str, list[dict[str, Any]]] = {"left": [], "right": []}
    total = 0
    for row in rows:
        text = [token for token in row["tokens"] if not token["is_end"]]
        on = sides([token["text"] for token in text])
        total += num_equations("".join(token["text"] for token in text))
        for token, side in zip(text, on, strict=True):
            if side is not None:
                groups[side].append(token)
    return {
        "num_equations": total,
        **{
            side: {
                "num_tokens": len(tokens),
                "mean_delta_probability": _mean(tokens, "delta_probability"),
                "top1_changed": _mean(tokens, "is_top1_changed"),
            }
            for side, tokens in groups.items()
        },
    }


def most_shifted(rows: Rows) -> list[dict[str, Any]]:
    """Tokens whose probability rose most on average, among those emitted MIN_COUNT times.

    Each with the text that most often preceded it, as an example.
    """
    kinds: dict[tuple[int, bool], list[dict[str, Any]]] = defaultdict(list)
    before: dict[tuple[int, bool], Counter[str]] = defaultdict(Counter)
    for row in rows:
        previous = ""
        for token in row["tokens"]:
            key = token["id"], token["is_end"]
            kinds[key].append(token)
            before[key][previous] += 1
            previous = token["text"]
    found = [
        {
            "id": id_,
            "text": tokens[0]["text"],
            "is_end": is_end,
            "count": len(tokens),
            "mean_delta_probability": _mean(tokens, "delta_probability"),
            "mean_delta_logprob": _mean(tokens, "delta_logprob"),
            "top1_changed": _mean(tokens, "is_top1_changed"),
            "most_often_after": before[id_, is_end].most_common(1)[0][0],
        }
        for (id_, is_end), tokens in kinds.items()
        if len(tokens) >= MIN_COUNT
    ]
    found.sort(key=lambda kind: (-kind["mean_delta_probability"], kind["id"]))
    return found[:NUM_LISTED]


def token_table(rows: Rows) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a dashboard's table: one line a token."""
    numbers = (
        "base_logprob",
        "expert_logprob",
        "antiexpert_logprob",
        "proxy_logprob",
        "delta_logprob",
        "delta_probability",
        "base_rank",
        "proxy_rank",
        "is_top1_changed",
        "total_variation",
    )
    roles = ("base", "expert", "antiexpert", "proxy")
    columns = ["row", "position", "token", *numbers, *(f"{role} prefers" for role in roles)]
    lines = [
        [
            row["id"],
            position,
            token["text"],
            *(token[key] for key in numbers),
            *(token["top"][role][0][1] for role in roles),
        ]
        for row in rows
        for position, token in enumerate(row["tokens"], start=1)
    ]
    return columns, lines


def _mean(tokens: Sequence[dict[str, Any]], key: str) -> float | None:
    return float(np.mean([token[key] for token in tokens])) if tokens else None


def _share(rows: Rows) -> dict[str, Any]:
    """Changed top-1 tokens over all tokens, with the bootstrap's interval over completions."""
    changed = [sum(token["is_top1_changed"] for token in row["tokens"]) for row in rows]
    counts = np.array([changed, [len(row["tokens"]) for row in rows]], dtype=np.float64)
    means = resampled_means(counts)
    low, high = np.quantile(means[0] / means[1], [TAIL, 1 - TAIL])
    return {"value": float(counts[0].sum() / counts[1].sum()), "ci95": [float(low), float(high)]}

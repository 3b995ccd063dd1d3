"""Rows worth reading: where the proxy alone is right, and where it lost what its expert knew."""

from typing import Any

from ..evaluation.metric import Metric
from ..evaluation.metrics import Metrics
from ..evaluation.systems import system_name

NUM_EXAMPLES = 2  # of each kind, for each base
MAX_CHARS = 600  # of a prompt or completion; long ones are shortened, and say so
RIGHT = 0.5  # a score from here on counts as right

Rows = dict[str, list[dict[str, Any]]]


def examples_section(metrics: Metrics, predictions: Rows) -> str:
    """Markdown: wins and losses of each base's proxy, with every system's completions."""
    parts = ["## Predictions to read"]
    for base in metrics.bases:
        if not base.proxy:
            continue
        alpha, rule = base.headline.alpha, base.headline.rule
        proxy = base.name_of(base.headline)
        names = (system_name("base", base.slug), "expert", proxy)
        rows = list(zip(*(predictions[name] for name in names), strict=True))
        rows = [trio for trio in rows if all(row["score"] is not None for row in trio)]
        is_right = [[_is_right(row, metrics.metric) for row in trio] for trio in rows]
        wins = [
            trio
            for trio, right in zip(rows, is_right, strict=True)
            if right == [False, False, True]
        ]
        losses = [
            trio for trio, right in zip(rows, is_right, strict=True) if right[1:] == [True, False]
        ]
        title = f"{base.slug}, alpha {alpha:g}" + (f", {rule}" if rule else "")
        parts.append(_kind(title, "proxy right, base and expert both wrong", wins, len(rows)))
        parts.append(_kind(title, "proxy wrong, expert right", losses, len(rows)))
    return "\n\n".join(parts)


def _kind(title: str, kind: str, found: list[tuple[dict[str, Any], ...]], num_rows: int) -> str:
    heading = f"### {title}: {kind} ({len(found):,} of {num_rows:,} rows)"
    return "\n\n".join([heading, *(_example(*trio) for trio in found[:NUM_EXAMPLES])])


def _is_right(row: dict[str, Any], metric: Metric) -> bool:
    return row["score"] >= RIGHT if metric.higher_is_better else row["score"] < RIGHT


def _example(base: dict[str, Any], expert: dict[str, Any], proxy: dict[str, Any]) -> str:
    texts = {
        "prompt": _shortened(base["prompt"]),
        "answer": " | ".join(base["answers"][:5]),
        "base": _shortened(base["completion"]),
        "expert": _shortened(expert["completion"]),
        "proxy": _shortened(proxy["completion"]),
    }
    body = "\n".join(f"{name + ':':<8}" + _indented(text) for name, text in texts.items())
    fence = "```"
    while fence in body:  # a completion may hold a fence of its own
        fence += "`"
    return f"Row `{base['id']}`\n\n{fence}text\n{body}\n{fence}"


def _indented(text: str) -> str:
    return text.strip().replace("\n", "\n" + " " * 8)


def _shortened(text: str) -> str:
    if len(text) <= MAX_CHARS:
        return text
    cut = len(text) - MAX_CHARS
    return f"{text[: MAX_CHARS // 2]} [... {cut:,} characters ...] {text[-(MAX_CHARS // 2) :]}"

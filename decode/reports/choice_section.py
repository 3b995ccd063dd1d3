"""How alpha and rule were chosen: every candidate on the validation rows it was given."""

from ..evaluation.metrics import Choice, Metrics, Tried
from .findings import percent, points, span


def choice_section(metrics: Metrics) -> list[str]:
    """Markdown: a table for each base that validation rows chose for; else nothing."""
    chosen = [(base.slug, base.choice) for base in metrics.bases if base.choice is not None]
    if not chosen:
        return []
    return ["## How alpha and rule were chosen", *(_table(slug, one) for slug, one in chosen)]


def _table(slug: str, choice: Choice) -> str:
    lines = [
        f"{slug}, on {choice.num_rows:,} rows ({choice.rows}). A candidate that falls behind is "
        "given no further rows.",
        "",
        "| alpha | rule | rows | percent | behind the chosen one, points |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(_row, choice.tried)])


def _row(tried: Tried) -> str:
    behind = tried.behind
    distance = (
        "chosen" if behind is None else f"{points(behind.value)} {span(*behind.ci95, signed=True)}"
    )
    cells = [f"{tried.alpha:g}", tried.rule or "formula", f"{tried.num_rows:,}"]
    return f"| {' | '.join([*cells, percent(tried.value), distance])} |"

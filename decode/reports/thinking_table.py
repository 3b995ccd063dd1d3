"""How the systems thought before they answered, and whose thinking never ended."""

from ..evaluation.metrics import Metrics


def thinking_section(metrics: Metrics) -> list[str]:
    """A table of every system that thought, as a section of a report; none if no system did."""
    if not metrics.thinking:
        return []
    lines = [
        "## Thinking",
        "",
        "Answers alone are scored; `predictions/` has the thinking beside them. Where thinking "
        "never ended the answer is empty.",
        "",
        "| system | rows that thought | tokens, mean | cut at the budget | never ended |",
        "|---|---|---|---|---|",
    ]
    for name, own in metrics.thinking.items():
        cells = [name, f"{own.num_rows:,}", f"{own.mean_tokens:,.0f}"]
        cells += [f"{own.num_cut:,}", f"{own.num_unended:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    return ["\n".join(lines)]

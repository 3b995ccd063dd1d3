"""How much of a base behind an endpoint was seen: the limits of all that is said about it."""

from collections.abc import Iterator

from ..evaluation.metrics import Metrics, Visible


def visible_section(metrics: Metrics) -> list[str]:
    """A table of every system that asked an endpoint, as a section of a report."""
    endpoints = [base for base in metrics.bases if base.endpoint is not None]
    if not endpoints:
        return []
    told = "; ".join(f"{b.slug}: {b.endpoint}, top {b.top_logprobs}" for b in endpoints)
    lines = [
        "## What the endpoint showed",
        "",
        f"{told}. Tokens that it does not show cannot be chosen. Visible mass is the mean "
        "probability of those that can; of rows decoded since the run was last started.",
        "",
        "| system | steps | visible mass | expert's favourite hidden | requests paid "
        "| from record | tokens paid | unmatched tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, seen in _seen(metrics):
        paid = f"{seen.num_prompt_tokens:,} + {seen.num_completion_tokens:,}"
        cells = [name, f"{seen.num_steps:,}", _share(seen.visible_mass)]
        cells += [_share(seen.expert_hidden), f"{seen.num_requests:,}"]
        cells += [f"{seen.num_from_record:,}", paid, f"{seen.num_unmatched:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    unmatched = dict.fromkeys(text for _, seen in _seen(metrics) for text in seen.unmatched)
    if unmatched:
        shown = ", ".join(f"`{text!r}`" for text in unmatched)
        lines += ["", f"Shown, and not to be chosen: {shown}."]
    return ["\n".join(lines)]


def visible_lines(metrics: Metrics) -> Iterator[str]:
    """The same of each endpoint's headline proxy, in a line of plain text."""
    seen = dict(_seen(metrics))
    for base in metrics.bases:
        if base.endpoint is None:
            continue
        line = f"{base.slug}: behind {base.endpoint}, top {base.top_logprobs}"
        if (own := seen.get(base.name_of(base.headline))) is not None:
            line += f"; visible mass {_share(own.visible_mass)}, the expert's favourite hidden "
            line += f"at {_share(own.expert_hidden)} of {own.num_steps:,} steps"
        yield line


def _seen(metrics: Metrics) -> Iterator[tuple[str, Visible]]:
    for name, decoding in metrics.decoding.items():
        if decoding.endpoint is not None:
            yield name, decoding.endpoint


def _share(value: float | None) -> str:
    return "" if value is None else f"{value * 100:.1f}%"

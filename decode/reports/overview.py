"""Several tasks of one run at a glance: the gap closed on each, and its mean over them."""

from ..evaluation.metrics import MeanOverTasks, Metrics
from .findings import findings
from .tables import share, systems_table


def overview_section(metrics: Metrics) -> list[str]:
    """Markdown: the gap closed on every task and the mean; nothing where there is one task."""
    if not metrics.also:
        return []
    tasks = [own.task for own in metrics.tasks]
    lines = [
        f"| gap closed | alpha | {' | '.join(tasks)} | mean |",
        "|---" * (len(tasks) + 3) + "|",
    ]
    notes: dict[str, None] = {}
    for mean in metrics.mean_gap_closed:
        gaps = [share(mean.gaps[task]) for task in tasks]
        lines.append(f"| {' | '.join([mean.slug, _steering(mean), *gaps, share(mean.value)])} |")
        if mean.reason:
            notes[f"{mean.slug}, alpha {_steering(mean)}: {mean.reason}."] = None
    return ["## All tasks", "\n".join(lines), *(["\\\n".join(notes)] if notes else [])]


def further_sections(metrics: Metrics) -> list[str]:
    """Markdown: what was found on each further task; its own report has the rest."""
    parts: list[str] = []
    for own in metrics.also:
        parts += [
            f"## Also: {own.task}",
            "\n".join(f"- {sentence}" for sentence in findings(own)),
            systems_table(own),
            f"More in [its own report]({own.folder}/report.md).",
        ]
    return parts


def closing_lines(metrics: Metrics) -> list[str]:
    """The means as plain text, for the end of a run with several tasks."""
    lines = [
        f"{mean.slug[:40]}, alpha {_steering(mean)}: mean gap closed over {mean.num_tasks} tasks "
        f"{share(mean.value)}"
        for mean in metrics.mean_gap_closed
    ]
    return ["\n".join(lines)] if lines else []


def _steering(mean: MeanOverTasks) -> str:
    """`0.5`, `0.5, expert0.1`, or `chosen` where it may differ from task to task."""
    if mean.alpha is None:
        return "chosen"
    return f"{mean.alpha:g}, {mean.rule}" if mean.rule else f"{mean.alpha:g}"

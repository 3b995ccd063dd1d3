"""Several tasks of one run at a glance: the gap closed on each, and its mean over them."""

from typing import Any

from ..evaluation.comparison import mean_gap_closed
from ..evaluation.systems import slug
from .findings import findings
from .tables import share, systems_table


def with_further_tasks(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The first task's metrics; where there are more, those too, and the mean gap closed."""
    first, *further = measured
    if not further:
        return first
    return {**first, "also": further, "mean_gap_closed": _means(measured)}


def overview_section(metrics: dict[str, Any]) -> list[str]:
    """Markdown: the gap closed on every task and the mean; nothing where there is one task."""
    if "also" not in metrics:
        return []
    tasks = [entry["task"] for entry in (metrics, *metrics["also"])]
    lines = [
        f"| gap closed | alpha | {' | '.join(tasks)} | mean |",
        "|---" * (len(tasks) + 3) + "|",
    ]
    notes: dict[str, None] = {}
    for mean in metrics["mean_gap_closed"]:
        gaps = [_share(mean["gaps"][task]) for task in tasks]
        cells = [slug(mean["model"]), f"{mean['alpha']:g}", *gaps, _share(mean["value"])]
        lines.append(f"| {' | '.join(cells)} |")
        if mean["reason"]:
            notes[f"{slug(mean['model'])}, alpha {mean['alpha']:g}: {mean['reason']}."] = None
    return ["## All tasks", "\n".join(lines), *(["\\\n".join(notes)] if notes else [])]


def further_sections(metrics: dict[str, Any]) -> list[str]:
    """Markdown: what was found on each further task; its own report has the rest."""
    parts: list[str] = []
    for own in metrics.get("also", []):
        parts += [
            f"## Also: {own['task']}",
            "\n".join(f"- {sentence}" for sentence in findings(own)),
            systems_table(own),
            f"More in [its own report](tasks/{own['task'].removesuffix('-paper')}/report.md).",
        ]
    return parts


def closing_lines(metrics: dict[str, Any]) -> list[str]:
    """The means as plain text, for the end of a run with several tasks."""
    lines = [
        f"{slug(mean['model'])[:40]}, alpha {mean['alpha']:g}: mean gap closed over "
        f"{mean['num_tasks']} tasks {_share(mean['value'])}"
        for mean in metrics.get("mean_gap_closed", [])
    ]
    return ["\n".join(lines)] if lines else []


def _means(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    means = []
    for number, entry in enumerate(measured[0]["bases"]):
        for place, proxy in enumerate(entry["proxy"]):
            gaps: dict[str, float | None] = {}
            for metrics in measured:
                closed = metrics["bases"][number]["proxy"][place]["gap_closed"]
                gaps[metrics["task"]] = None if closed is None else closed["value"]
            mean = {"model": entry["model"], "alpha": proxy["alpha"], **mean_gap_closed(gaps)}
            means.append({**mean, "gaps": gaps})
    return means


def _share(value: float | None) -> str:
    return share(None if value is None else {"value": value})

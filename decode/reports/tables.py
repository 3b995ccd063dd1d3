"""Results as tables: in Markdown for reports, in plain text for the end of a run."""

from textwrap import wrap
from typing import Any

from ..evaluation.systems import MeasuredSystem, measured_systems, slug
from .findings import percent, points, span

LABELS = {
    "antiexpert": "anti-expert",
    "expert": "expert",
    "base": "base",
    "tuned": "tuned directly",
}


def closing_table(metrics: dict[str, Any]) -> str:
    """The results as plain text, at most 80 columns wide: what an entry prints when it is done."""
    head = f"{metrics['task']}, {metrics['metric'].replace('_', ' ')}"
    head += "" if metrics["higher_is_better"] else " (lower is better)"
    lines = [
        f"{head}, {metrics['num_examples']:,} rows; [95% intervals]"[:80],
        "",
        f"{'percent':>30}{'over base':>24}{'over expert':>13}{'gap closed':>13}",
    ]
    model = None
    for system in measured_systems(metrics):
        if system.base_model != model:
            model = system.base_model
            lines.append(slug(model or "")[:80])
        indent = "  " if system.base_model else ""
        row = f"{indent + system_label(system):<25}{system.value * 100:>5.1f} "
        row += f"[{system.low * 100:>5.1f}, {system.high * 100:>5.1f}]"
        if system.proxy is not None:
            closed = system.proxy["gap_closed"]
            row += f"{system.proxy['gain_over_base']['value'] * 100:>+9.1f}"
            row += f"{system.proxy['gain_over_expert']['value'] * 100:>+13.1f}"
            row += f"{share(closed):>13}"
        lines.append(row.rstrip())
    for entry in metrics["bases"]:
        reasons = dict.fromkeys(p["gap_closed_reason"] for p in entry["proxy"])
        for reason in filter(None, reasons):
            lines += wrap(f"{slug(entry['model'])}, gap closed: {reason}", 80)
    return "\n".join(lines)


def systems_table(metrics: dict[str, Any]) -> str:
    """Every system with its interval, gains and gap closed."""
    metric = metrics["metric"].replace("_", " ")
    lines = [
        f"| system | {metric}, percent | over base, points | over expert, points | gap closed |",
        "|---|---|---|---|---|",
    ]
    notes: dict[str, None] = {}
    for system in measured_systems(metrics):
        name = system_label(system)
        if system.base_model is not None:
            name = f"{slug(system.base_model)}: {name}"
        cells = [name, f"{percent(system.value)} {span(system.low, system.high)}", "", "", ""]
        if system.proxy is not None:
            for place, key in ((2, "gain_over_base"), (3, "gain_over_expert")):
                gain = system.proxy[key]
                cells[place] = f"{points(gain['value'])} {span(*gain['ci95'], signed=True)}"
            cells[4] = _gap(system.proxy["gap_closed"])
            if reason := system.proxy["gap_closed_reason"]:
                notes[f"{name}: {reason}."] = None
        lines.append(f"| {' | '.join(cells)} |")
    if not metrics["higher_is_better"]:
        notes["Lower is better: a positive difference is a reduction, an improvement."] = None
    notes[
        f"{metrics['num_examples']:,} rows. In brackets 95% intervals: Wilson's for a share of "
        "right answers, otherwise and for differences and ratios the bootstrap over rows, paired. "
        "Gap closed is (proxy - base) / (tuned - base)."
    ] = None
    return "\n".join(lines) + "\n\n" + "\n".join(f"{note}\\" for note in notes)[:-1]


def parts_table(metrics: dict[str, Any]) -> list[str]:
    """What judged scores are made of, and how often a judge made no clear choice."""
    parts = metrics.get("parts", {})
    if not parts:
        return []
    names = list(dict.fromkeys(name for own in parts.values() for name in own))
    lines = [
        f"| system | {' | '.join(names)} | unparsed rows |",
        "|---" * (len(names) + 2) + "|",
    ]
    for system, own in parts.items():
        cells = [percent(own[name]) if name in own else "" for name in names]
        num_open = metrics["uncounted"]["by_system"][system]
        lines.append(f"| {system} | {' | '.join(cells)} | {num_open:,} |")
    return ["What the scores are made of, percent:\n\n" + "\n".join(lines)]


def share(closed: dict[str, Any] | None) -> str:
    """75% for a gap closed of 0.75, n/a where there is none."""
    return f"{closed['value'] * 100:.0f}%" if closed else "n/a"


def system_label(system: MeasuredSystem) -> str:
    """What a table calls a system under the heading of its base."""
    return LABELS.get(system.role) or f"proxy, alpha {system.alpha:g}"


def _gap(closed: dict[str, Any] | None) -> str:
    if closed is None:
        return share(closed)
    interval = "[n/a]" if closed["ci95"] is None else span(*closed["ci95"], digits=0)
    return f"{share(closed)} {interval}"

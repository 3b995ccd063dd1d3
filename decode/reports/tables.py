"""Results as tables: in Markdown for reports, in plain text for the end of a run."""

from textwrap import wrap

from ..evaluation.gap_closed import GapClosed
from ..evaluation.metrics import MeasuredSystem, Metrics
from .findings import percent, points, span
from .visible_table import visible_lines

LABELS = {
    "antiexpert": "anti-expert",
    "expert": "expert",
    "base": "base",
    "tuned": "tuned directly",
}


def closing_table(metrics: Metrics) -> str:
    """The results as plain text, at most 80 columns wide: what an entry prints when it is done."""
    head = f"{metrics.task}, {metrics.metric.words}"
    head += "" if metrics.metric.higher_is_better else " (lower is better)"
    lines = [
        f"{head}, {metrics.num_examples:,} rows; [95% intervals]"[:80],
        "",
        f"{'percent':>27}{'over base':>24}{'over expert':>12}{'gap closed':>17}",
    ]
    unchosen = [base for base in metrics.bases if base.choice is None and len(base.proxy) > 1]
    best = [base.best(metrics.metric) for base in unchosen]
    best += [base.headline for base in metrics.bases if base.choice is not None]
    heading = None
    for system in metrics.systems:
        if system.slug != heading:
            heading = system.slug
            lines.append((heading or "")[:80])
        indent = "* " if system.proxy in best else "  " if system.slug else ""
        row = f"{indent + system_label(system):<22}{system.value * 100:>5.1f} "
        row += f"[{system.low * 100:>5.1f}, {system.high * 100:>5.1f}]"
        if (proxy := system.proxy) is not None:
            row += f"{proxy.gain_over_base.value * 100:>+9.1f}"
            row += f"{proxy.gain_over_expert.value * 100:>+12.1f}"
            row += f"{_gap_in(17, proxy.gap_closed):>17}"
        lines.append(row.rstrip())
    if unchosen:
        lines.append("* the best of the alphas tried, picked on these very rows")
    if len(unchosen) < len(best):
        lines.append("* chosen on validation rows")
    for line in visible_lines(metrics):
        lines += wrap(line, 80)
    for base in metrics.bases:
        reasons = dict.fromkeys(proxy.gap_closed_reason for proxy in base.proxy)
        for reason in filter(None, reasons):
            lines += wrap(f"{base.slug}, gap closed: {reason}", 80)
    return "\n".join(lines)


def systems_table(metrics: Metrics) -> str:
    """Every system with its interval, gains and gap closed."""
    metric = metrics.metric
    heads = ("system", f"{metric.words}, percent", "over base, points", "over expert, points")
    lines = [
        f"| {' | '.join(heads)} | gap closed |",
        "|---|---|---|---|---|",
    ]
    notes: dict[str, None] = {}
    for system in metrics.systems:
        name = system_label(system)
        if system.slug is not None:
            name = f"{system.slug}: {name}"
        cells = [name, f"{percent(system.value)} {span(system.low, system.high)}", "", "", ""]
        if (proxy := system.proxy) is not None:
            for place, gain in ((2, proxy.gain_over_base), (3, proxy.gain_over_expert)):
                cells[place] = f"{points(gain.value)} {span(*gain.ci95, signed=True)}"
            cells[4] = _gap(proxy.gap_closed)
            if proxy.gap_closed_reason:
                notes[f"{name}: {proxy.gap_closed_reason}."] = None
        lines.append(f"| {' | '.join(cells)} |")
    if not metric.higher_is_better:
        notes["Lower is better: a positive difference is a reduction, an improvement."] = None
    notes[
        f"{metrics.num_examples:,} rows. In brackets 95% intervals: Wilson's for a share of "
        "right answers, otherwise and for differences and ratios the bootstrap over rows, paired. "
        "Gap closed is (proxy - base) / (tuned - base)."
    ] = None
    return "\n".join(lines) + "\n\n" + "\n".join(f"{note}\\" for note in notes)[:-1]


def parts_table(metrics: Metrics) -> list[str]:
    """What judged scores are made of, and how often a judge made no clear choice."""
    parts, uncounted = metrics.parts, metrics.uncounted
    if not parts:
        return []
    names = list(dict.fromkeys(name for own in parts.values() for name in own))
    lines = [
        f"| system | {' | '.join(names)} | unparsed rows |",
        "|---" * (len(names) + 2) + "|",
    ]
    for system, own in parts.items():
        cells = [percent(own[name]) if name in own else "" for name in names]
        num_open = "" if uncounted is None else f"{uncounted.by_system[system]:,}"
        lines.append(f"| {system} | {' | '.join(cells)} | {num_open} |")
    return ["What the scores are made of, percent:\n\n" + "\n".join(lines)]


def share(closed: float | None) -> str:
    """75% for a gap closed of 0.75, n/a where there is none."""
    return "n/a" if closed is None else f"{closed * 100:.0f}%"


def system_label(system: MeasuredSystem) -> str:
    """What a table calls a system under the heading of its base."""
    if system.alpha is None:
        return LABELS[system.role]
    return (
        f"alpha {system.alpha:g}, {system.rule}"
        if system.rule
        else f"proxy, alpha {system.alpha:g}"
    )


def _gap(closed: GapClosed | None) -> str:
    if closed is None:
        return share(None)
    interval = "[n/a]" if closed.ci95 is None else span(*closed.ci95, digits=0)
    return f"{share(closed.value)} {interval}"


def _gap_in(width: int, closed: GapClosed | None) -> str:
    """The same, without its interval if there is no room for it."""
    whole = _gap(closed)
    return whole if len(whole) < width else share(closed and closed.value)

"""What an expert was trained on, as a table: from a run's `training_rows.json`."""

from pathlib import Path
from typing import Any

from ..jobs.files import FileChanged, read_json
from ..jobs.folder import RunFolder


def training_section(run_dir: Path) -> list[str]:
    """The report's section on the training rows; none if the run has trained nothing."""
    folder = RunFolder(run_dir)
    path = folder.training_rows
    folder.check_extra(path)
    if not path.exists():
        return []
    report = read_json(path)
    try:
        table = training_table(report)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise FileChanged(f"{path}: not what a training wrote; put it back, or delete it") from None
    return ["\n\n".join(["## What it was trained on", table])]


def training_table(report: dict[str, Any]) -> str:
    """A table of the sources, and a line each on lengths and on what is cut."""
    lines = [
        "| source | rows | evaluation and validation rows left out | weight | used |",
        "|---|---|---|---|---|",
    ]
    for source in report["sources"]:
        left_out = [f"{n:,} {kind}" for kind, n in source["duplicates"].items() if n]
        used = "a stream" if source["num_used"] is None else f"{source['num_used']:,}"
        cells = [source["name"], f"{source['num_rows']:,}", ", ".join(left_out) or "0"]
        cells += [f"{source['weight']:g}", used]
        lines.append(f"| {' | '.join(cells)} |")
    tokens = report["tokens"]
    what = f"the first {report['num_rows']:,} rows" if report["is_sample"] else "the rows"
    lines += [
        "",
        f"Tokens a row, of {what}: median {tokens['median']:,}, 95th percentile {tokens['p95']:,}, "
        f"longest {tokens['max']:,}; {tokens['total']:,} in all, "
        f"{report['loss_share']:.0%} of them in the loss.",
        "",
        _cut(report),
    ]
    return "\n".join(lines)


def _cut(report: dict[str, Any]) -> str:
    text = "No row is cut" if report["max_length"] is None else _cut_at(report)
    if report["packing"] is not None:
        packing = report["packing"]
        text += (
            f"; packed into {packing['num_sequences']:,} sequences, which are "
            f"{packing['efficiency']:.0%} full"
        )
    return f"{text}."


def _cut_at(report: dict[str, Any]) -> str:
    share = report["num_cut"] / report["num_rows"]
    text = f"Cut at {report['max_length']:,} tokens: {report['num_cut']:,} rows ({share:.1%})"
    text += f", {report['num_lost_tokens']:,} tokens lost"
    if report["num_without_loss"]:
        text += f"; {report['num_without_loss']:,} rows have nothing left to learn and are dropped"
    return text
